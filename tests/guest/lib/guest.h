/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a freestanding test guest has: ports, MSRs, a console on COM1, exceptions that can be
 * caught, checks that are counted, and the exit through isa-debug-exit.
 *
 * The same image runs on every engine (and on QEMU with -device isa-debug-exit -device pc-testdev).
 * Exit values: 0x20 all checks passed (process status 65), 0x21 some failed (67).
 */
#ifndef TESTS_GUEST_LIB_GUEST_H
#define TESTS_GUEST_LIB_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

struct frame { /* as isr_common leaves it on the stack */
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};

struct fault {
    u32 vector;
    u64 error, rip, cr2;
};

/* The test itself, one per image. */
void guest_main(u64 mb_info);
/* Runs on each AP that ap_boot started; index from 1. The default halts. */
void ap_main(u32 index);

/* --- checks ------------------------------------------------------------------------------------
 */

void check_result(bool ok, const char *file, int line, const char *text);
#define CHECK(cond) check_result((cond), __FILE__, __LINE__, #cond)
/* Compares two numbers and shows both when they differ. */
void check_equal(u64 a, u64 b, const char *file, int line, const char *text);
#define CHECK_EQ(a, b) check_equal((u64)(a), (u64)(b), __FILE__, __LINE__, #a " == " #b)
/* Where KVM's or QEMU's chips are known to be less exact than the manuals (the command line then
 * says "loose-chips"), this is not asked. */
#define CHECK_EXACT(cond) check_result((cond) || loose_chips, __FILE__, __LINE__, #cond)
extern bool loose_chips;
/* Does the command line contain it? */
bool cmdline_has(u64 mb_info, const char *word);
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* %d %u %x %lx %s %c %p */
_Noreturn void guest_exit(void); /* prints the count and leaves with the result */

/* --- exceptions and interrupts -----------------------------------------------------------------
 */

extern struct fault last_fault;
extern struct frame last_frame; /* every register when last_fault happened */
/* Runs fn(arg); returns the vector of the exception that ended it, or -1. Details in last_fault. */
int catch (void (*fn)(void *arg), void *arg);
/* fn is called for this vector instead of the fault machinery; it returns to the interrupted code.
 */
void irq_handler(u8 vector, void (*fn)(struct frame *f));
/* An IDT entry of one's own: type 0xe interrupt gate, 0xf trap gate. */
void idt_gate(u8 vector, void *entry, u8 type, u8 dpl, u8 ist);
extern u64 gdt[];

/* --- the machine -------------------------------------------------------------------------------
 */

static inline void outb(u16 port, u8 v) {
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outw(u16 port, u16 v) {
    __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(u16 port, u32 v) {
    __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline u8 inb(u16 port) {
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u16 inw(u16 port) {
    u16 v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u32 inl(u16 port) {
    u32 v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u64 rdmsr(u32 index) {
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
    return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 index, u64 v) {
    __asm__ volatile("wrmsr" ::"a"((u32)v), "d"((u32)(v >> 32)), "c"(index) : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 out[4]) {
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(sub));
}
static inline u64 rdtsc(void) {
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}
static inline u32 mmio_read(u64 address) {
    return *(volatile u32 *)address;
}
static inline void mmio_write(u64 address, u32 v) {
    *(volatile u32 *)address = v;
}
static inline void irq_on(void) {
    __asm__ volatile("sti" ::: "memory");
}
static inline void irq_off(void) {
    __asm__ volatile("cli" ::: "memory");
}
static inline void invlpg(u64 address) {
    __asm__ volatile("invlpg (%0)" ::"r"(address) : "memory");
}

#define READ_CR(n)                                                                                 \
    ({                                                                                             \
        u64 v_;                                                                                    \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v_));                                         \
        v_;                                                                                        \
    })
#define WRITE_CR(n, v) __asm__ volatile("mov %0, %%cr" #n ::"r"((u64)(v)) : "memory")

/* Maps a 4 KiB page (splitting a large one once); flags are page-table bits. Flushes it. */
void map_page(u64 va, u64 pa, u64 flags);
u64 *page_entry(u64 va); /* the 4 KiB entry of a page that map_page made */
extern u64 pml4[512], pdpt[512], pd[4 * 512];

/* --- user mode, devices (lib/cpu.c) -------------------------------------------------------------
 */

enum { USER_CS32 = 0x23, USER_SS = 0x2b, USER_CS = 0x33, EXIT_USER = 0x80 };

struct tss {
    u32 reserved0;
    u64 rsp[3];
    u64 reserved1;
    u64 ist[7];
    u64 reserved2;
    u16 reserved3, io_base;
    u8 io_map[8193];
} __attribute__((packed));
extern struct tss tss;
extern u8 kernel_stack[8192]; /* what tss_load puts into RSP0 */
void tss_load(void);

struct user_context { /* what iretq loads, and RDI, RSI */
    u64 rip, cs, rflags, rsp, ss, rdi, rsi;
};
/* Runs at rip with CPL 3 until an exception or "int $0x80" (a DPL 3 gate that tss_load makes);
 * returns its vector. Registers at the end in last_frame. */
int run_user(u64 rip, u64 rdi, u64 rsi);
int run_user_context(const struct user_context *c);

/* Makes 4 KiB pages that user code reads, writes and executes; copies code there. */
void map_user(u64 va, const void *code, size_t size);
/* One of 16 pages of 4 KiB, aligned, for map_page. */
extern u8 spare_page[16][4096];

u32 pci_read(u32 bdf, u32 reg);
void pci_write(u32 bdf, u32 reg, u32 value);
u32 pci_find(u32 id); /* vendor | device << 16 on bus 0; 0xffffffff: none */
u32 ioapic_read(u32 reg);
void ioapic_write(u32 reg, u32 value);
u32 tsc_us(u64 ticks);
/* Finds an ACPI table by signature through RSDP and XSDT or RSDT; NULL: none. */
const u8 *acpi_find(const char *signature);
const u8 *acpi_rsdp(void);
bool acpi_sum_ok(const void *table, size_t size);

#define LAPIC 0xfee00000ull
/* Starts every other processor (INIT, SIPI, SIPI to all but self); returns how many reported in
 * within a second of TSC time. */
u32 ap_boot(void);
u64 tsc_hz(void); /* from CPUID 0x15, or measured with the PIT */
void delay_us(u64 us);

void *memset(void *d, int c, size_t n);
void *memcpy(void *restrict d, const void *restrict s, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
