/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Implicit accesses of the processor (SDM vol. 3, 4.6.1): descriptors, the IDT, the TSS and the
 * stack of a new privilege level are reached as a supervisor whatever CPL is, EFLAGS.AC does not
 * lift SMAP for them, and their page faults say U = 0; PKRU holds for them as for any data access
 * to a user page (4.6.2). Each structure lies on a page whose entry takes every combination of P, W
 * and U; what to expect follows from the rules in `expected`.
 */
#include "lib/guest.h"

#define VA      0x40200000ull /* the page under test; the one before it is always good */
#define CODE_VA 0x50000000ull

enum { P = 1, W = 2, U = 4 };
enum { CR0_WP = 1 << 16, SMAP = 1 << 21, PKE = 1 << 22, AC = 1 << 18, LDT = 0x48, TSS = 0x38 };

struct table_ptr {
    u16 limit;
    u64 base;
} __attribute__((packed));

struct setting {
    u64 page;
    bool wp, smap, ac;
    u32 pkru; /* bits AD, WD of the page's key, 1 */
};

static u8 *code_page;
static u8 ist_stack[4096] __attribute__((aligned(16)));
static bool has_smap, has_pku;

/* -1: allowed; else the error code. */
static int expected(const struct setting *s, bool write) {
    if (!(s->page & P)) {
        return write ? 2 : 0;
    }
    bool denied = (s->smap && (s->page & U)) || (write && !(s->page & W) && s->wp);
    bool key = (s->page & U) && ((s->pkru & 1) || (write && (s->pkru & 2) && s->wp));
    return denied || key ? P | (write ? 2 : 0) | (key ? 32 : 0) : -1;
}

static void apply(const struct setting *s) {
    map_page(VA, (u64)spare_page[0], s->page | (has_pku ? 1ull << 59 : 0));
    WRITE_CR(0, (READ_CR(0) & ~(u64)CR0_WP) | (s->wp ? CR0_WP : 0));
    if (has_smap) {
        WRITE_CR(4, (READ_CR(4) & ~(u64)SMAP) | (s->smap ? SMAP : 0));
    }
    if (has_pku) {
        __asm__ volatile("wrpkru" ::"a"(s->pkru << 2), "c"(0), "d"(0));
    }
}

static void restore(void) {
    static const struct setting plain = {.page = P | W, .wp = true};
    apply(&plain);
    __asm__ volatile("pushf; andl $~0x40000, (%%rsp); popf" ::: "memory", "cc");
}

static void check(const char *what, const struct setting *s, int vector, int good, bool write) {
    int want = expected(s, write);
    int got = vector == good ? -1 : vector == 14 ? (int)last_fault.error : 1000 + vector;
    bool address = got < 0 || last_fault.cr2 >> 12 == VA >> 12;
    restore();
    if (got != want || !address) {
        print("%s: page %lx wp %d smap %d ac %d pkru %x, cr2 %lx\n", what, s->page, s->wp, s->smap,
              s->ac, s->pkru, last_fault.cr2);
    }
    CHECK_EQ(got, want);
    CHECK(address);
}

static int user(const void *code, size_t size, bool ac) {
    struct user_context c = {CODE_VA, USER_CS, 2 | (ac ? AC : 0), 0x60000000 - 16, USER_SS, 4, 0};
    memcpy(code_page, code, size);
    memcpy(code_page + size, "\xcd\x80", 2);
    return run_user_context(&c);
}

/* --- the LDT: MOV FS reads a descriptor, and writes it when its accessed bit is clear -----------
 */

static void load_fs(void *arg) {
    if (arg) {
        __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf" ::: "memory", "cc");
    }
    __asm__ volatile("mov %0, %%fs" ::"r"(4));
}

static void put_ldt(void) {
    gdt[LDT / 8] = 0xfff | (VA & 0xffffff) << 16 | 0x82ull << 40 | (VA >> 24 & 0xff) << 56;
    gdt[LDT / 8 + 1] = VA >> 32;
    __asm__ volatile("lldt %w0" ::"r"(LDT));
}

static void ldt(const struct setting *s) {
    u64 *descriptor = (u64 *)(void *)spare_page[0];
    for (u32 i = 0; i < 4; i++) {
        bool from_user = i & 1, write = i & 2;
        *descriptor = 0x00cff2000000ffff | (write ? 0 : 1ull << 40);
        apply(s);
        int v = from_user ? user("\x8e\xe7", 2, s->ac) : catch (load_fs, s->ac ? (void *)1 : NULL);
        if (expected(s, write) < 0) {
            CHECK(*descriptor >> 40 & 1);
        }
        check(write ? "descriptor, accessed bit" : "descriptor", s, v, from_user ? EXIT_USER : -1,
              write && expected(s, false) < 0);
    }
    __asm__ volatile("mov %0, %%fs" ::"r"(0));
}

/* --- the IDT: the gate of INT 90h lies on the page, those of exceptions before it --------------
 */

static void do_int(void *arg) {
    (void)arg;
    __asm__ volatile("int $0x90");
}

static void idt(const struct setting *s) {
    struct table_ptr old, own = {4095, VA - 0x800};
    __asm__ volatile("sidt %0" : "=m"(old));
    memcpy(spare_page[1] + 0x800, (void *)old.base, 0x800);
    memcpy(spare_page[0], (void *)(old.base + 0x800), 0x800);
    spare_page[0][0x105] |= 0x60; /* 90h: DPL 3 */
    apply(s);
    __asm__ volatile("lidt %0" ::"m"(own));
    int kernel = catch (do_int, NULL);
    __asm__ volatile("lidt %0" ::"m"(old));
    check("IDT", s, kernel, 0x90, false);
    apply(s);
    __asm__ volatile("lidt %0" ::"m"(own));
    int v = user("\xcd\x90", 2, s->ac);
    __asm__ volatile("lidt %0" ::"m"(old));
    check("IDT from user code", s, v, 0x90, false);
}

/* --- the stack of CPL 0 ------------------------------------------------------------------------
 */

static void stack(const struct setting *s) {
    u64 good = tss.rsp[0];
    tss.rsp[0] = VA + 0xff0;
    apply(s);
    int v = user("", 0, s->ac);
    tss.rsp[0] = good;
    check("stack", s, v, EXIT_USER, true);
}

/* --- the TSS: the I/O permission map lies on the page, the stacks before it --------------------
 */

static void tss_at(u64 base) {
    gdt[TSS / 8] = 0x2fff | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[TSS / 8 + 1] = base >> 32;
    __asm__ volatile("ltr %w0" ::"r"(TSS));
}

static void io_map(const struct setting *s) {
    memcpy(spare_page[1] + 0x1000 - 0x68, &tss, 0x68);
    memset(spare_page[0], 0, 256);
    apply(s);
    tss_at(VA - 0x68);
    int v = user("\xe4\xe1", 2, s->ac); /* in al, 0xe1 */
    tss_at((u64)&tss);
    check("I/O permission map", s, v, EXIT_USER, false);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    extern char isr_stubs[];
    u32 r[4];
    cpuid(7, 0, r);
    has_smap = r[1] >> 20 & 1;
    has_pku = r[2] >> 3 & 1;
    if (has_pku) {
        WRITE_CR(4, READ_CR(4) | PKE);
    }
    tss_load();
    map_user(CODE_VA, "\x90", 1);
    map_user(0x5fffe000, "", 1);
    code_page = (u8 *)(*page_entry(CODE_VA) & 0x000ffffffffff000ull);
    map_page(VA - 0x1000, (u64)spare_page[1], P | W);
    tss.ist[0] = (u64)(ist_stack + sizeof(ist_stack));
    idt_gate(14, isr_stubs + 14 * 16, 0xe, 0, 1);
    put_ldt();
    for (u32 i = 0; i < (has_pku ? 256 : 64); i++) {
        struct setting s = {
            .page = i & 7, .wp = i & 8, .smap = i & 16, .ac = i & 32, .pkru = i >> 6};
        if (s.smap && !has_smap) {
            continue;
        }
        ldt(&s);
        idt(&s);
        stack(&s);
        io_map(&s);
    }
}
