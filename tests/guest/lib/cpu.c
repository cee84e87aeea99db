/* SPDX-License-Identifier: Apache-2.0 */
/* User mode, PCI, IOAPIC and ACPI tables for the test guests; see guest.h. */
#include "guest.h"

struct tss tss __attribute__((aligned(16)));
u8 kernel_stack[8192] __attribute__((aligned(4096)));
u8 spare_page[16][4096] __attribute__((aligned(4096)));
static u8 user_stack[4096] __attribute__((aligned(4096)));

extern char isr_stubs[];
void enter_user(void *context); /* user.S */

enum { USER_STACK_VA = 0x5ffff000 };

/* --- user mode ---------------------------------------------------------------------------------
 */

void tss_load(void) {
    u64 base = (u64)&tss, limit = sizeof(tss) - 1;
    tss.rsp[0] = (u64)(kernel_stack + sizeof(kernel_stack));
    tss.io_base = (u16) __builtin_offsetof(struct tss, io_map);
    memset(tss.io_map, 0xff, sizeof(tss.io_map));
    gdt[7] = (limit & 0xffff) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[8] = base >> 32;
    __asm__ volatile("ltr %w0" ::"r"(0x38));
    idt_gate(EXIT_USER, isr_stubs + EXIT_USER * 16, 0xe, 3, 0);
}

int run_user_context(const struct user_context *c) {
    map_page(USER_STACK_VA, (u64)user_stack, 7);
    return catch (enter_user, (void *)c);
}

int run_user(u64 rip, u64 rdi, u64 rsi) {
    struct user_context c = {rip, USER_CS, 2, USER_STACK_VA + 4096, USER_SS, rdi, rsi};
    return run_user_context(&c);
}

void map_user(u64 va, const void *code, size_t size) {
    static u32 used;
    static u8 pages[8][4096] __attribute__((aligned(4096)));
    u8 *page = pages[used++ % 8];
    memcpy(page, code, size);
    map_page(va, (u64)page, 7);
}

/* --- PCI and IOAPIC ----------------------------------------------------------------------------
 */

u32 pci_read(u32 bdf, u32 reg) {
    outl(0xcf8, 0x80000000u | bdf << 8 | (reg & 0xfc));
    return inl(0xcfc);
}

void pci_write(u32 bdf, u32 reg, u32 value) {
    outl(0xcf8, 0x80000000u | bdf << 8 | (reg & 0xfc));
    outl(0xcfc, value);
}

u32 pci_find(u32 id) {
    for (u32 bdf = 0; bdf < 256; bdf++) {
        if (pci_read(bdf, 0) == id) {
            return bdf;
        }
    }
    return ~0u;
}

u32 ioapic_read(u32 reg) {
    mmio_write(0xfec00000, reg);
    return mmio_read(0xfec00010);
}

void ioapic_write(u32 reg, u32 value) {
    mmio_write(0xfec00000, reg);
    mmio_write(0xfec00010, value);
}

u32 tsc_us(u64 ticks) {
    return (u32)(ticks / (tsc_hz() / 1000000));
}

/* --- ACPI --------------------------------------------------------------------------------------
 */

bool acpi_sum_ok(const void *table, size_t size) {
    const u8 *p = table;
    u8 sum = 0;
    while (size--) {
        sum = (u8)(sum + *p++);
    }
    return sum == 0;
}

const u8 *acpi_rsdp(void) {
    for (u64 at = 0xe0000; at < 0x100000; at += 16) {
        if (!memcmp((void *)at, "RSD PTR ", 8) && acpi_sum_ok((void *)at, 20)) {
            return (const u8 *)at;
        }
    }
    return NULL;
}

static u64 number(const u8 *p, size_t size) {
    u64 v = 0;
    memcpy(&v, p, size);
    return v;
}

const u8 *acpi_find(const char *signature) {
    const u8 *rsdp = acpi_rsdp();
    if (!rsdp) {
        return NULL;
    }
    size_t width = rsdp[15] >= 2 && number(rsdp + 24, 8) ? 8 : 4;
    const u8 *root = (const u8 *)(width == 8 ? number(rsdp + 24, 8) : number(rsdp + 16, 4));
    for (size_t at = 36; at + width <= number(root + 4, 4); at += width) {
        const u8 *table = (const u8 *)number(root + at, width);
        if (!memcmp(table, signature, 4)) {
            return table;
        }
    }
    return NULL;
}
