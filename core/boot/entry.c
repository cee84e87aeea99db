/* SPDX-License-Identifier: Apache-2.0 */
/* GDT, page tables and registers at a kernel's entry; see entry.h. Intel SDM volume 3, sections
 * 3.4.5 (descriptors) and 4.5 (4-level paging). */
#include "core/boot/entry.h"

#include "core/boot/layout.h"

enum {
    TYPE_CODE = 0xb,  /* execute, read, accessed */
    TYPE_DATA = 0x3,  /* read, write, accessed */
    TYPE_TSS32 = 0xb, /* busy 32-bit TSS */
};

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_PS BIT(7)

#define ATTR_FLAT (SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_G)

static u64 descriptor(const struct segment *seg) {
    u64 limit = seg->attr & SEG_ATTR_G ? seg->limit >> 12 : seg->limit;
    u64 attr = seg->attr & 0xf0ff;
    return (limit & 0xffff) | (seg->base & 0xffffff) << 16 | attr << 40 |
           ((limit >> 16) & 0xf) << 48 | ((seg->base >> 24) & 0xff) << 56;
}

static int set_segments(struct cpu_state *s, struct ram *ram, bool long_mode) {
    u32 size = long_mode ? SEG_ATTR_L : SEG_ATTR_DB;
    struct segment code = {
        .limit = 0xffffffff, .attr = ATTR_FLAT | size | TYPE_CODE, .sel = ENTRY_CS};
    struct segment data = {
        .limit = 0xffffffff, .attr = ATTR_FLAT | SEG_ATTR_DB | TYPE_DATA, .sel = ENTRY_DS};
    struct segment task = {.limit = 0x67, .attr = SEG_ATTR_P | TYPE_TSS32, .sel = ENTRY_TR};
    u64 gdt[5] = {0, 0, descriptor(&code), descriptor(&data), descriptor(&task)};

    for (int i = 0; i < SEG_COUNT; i++) {
        s->seg[i] = data;
    }
    s->seg[SEG_CS] = code;
    s->tr = task;
    s->ldtr = (struct segment){.attr = SEG_ATTR_UNUSABLE};
    s->gdtr = (struct desc_table){.base = LAYOUT_GDT, .limit = sizeof(gdt) - 1};
    s->idtr = (struct desc_table){0};
    return ram_write(ram, LAYOUT_GDT, gdt, sizeof(gdt));
}

static void set_common(struct cpu_state *s, u64 rip) {
    memset(s->gpr, 0, sizeof(s->gpr));
    s->rip = rip;
    s->rflags = BIT(1);
    s->mp_state = MP_RUNNABLE;
}

int entry_flat32(struct cpu_state *s, struct ram *ram, u64 rip) {
    set_common(s, rip);
    s->cr0 = CR0_PE | CR0_ET;
    s->cr3 = 0;
    s->cr4 = 0;
    s->msr.efer = 0;
    return set_segments(s, ram, false);
}

static int write_page_tables(struct ram *ram) {
    u64 pml4 = LAYOUT_PAGE_TABLES, pdpt = pml4 + PAGE_SIZE, pd = pdpt + PAGE_SIZE;
    u64 entry = pdpt | PTE_P | PTE_W;
    int rc = ram_write(ram, pml4, &entry, sizeof(entry));
    for (u64 g = 0; g < 4 && !rc; g++) {
        u64 table[512];
        for (u64 i = 0; i < ARRAY_LEN(table); i++) {
            table[i] = (g << 30) | (i << 21) | PTE_P | PTE_W | PTE_PS;
        }
        entry = (pd + g * PAGE_SIZE) | PTE_P | PTE_W;
        rc = ram_write(ram, pdpt + g * sizeof(entry), &entry, sizeof(entry));
        if (!rc) {
            rc = ram_write(ram, pd + g * PAGE_SIZE, table, sizeof(table));
        }
    }
    return rc;
}

int entry_long64(struct cpu_state *s, struct ram *ram, u64 rip) {
    set_common(s, rip);
    s->gpr[GPR_RSP] = LAYOUT_STACK_TOP;
    s->cr0 = CR0_PE | CR0_ET | CR0_PG;
    s->cr3 = LAYOUT_PAGE_TABLES;
    s->cr4 = CR4_PAE;
    s->msr.efer = EFER_LME | EFER_LMA;
    int rc = write_page_tables(ram);
    return rc ? rc : set_segments(s, ram, true);
}
