/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exceptions at CPL 0 in 64-bit mode: vector, error code, CR2 and the address that is reported
 * (SDM vol. 3, chapter 6: faults report the instruction itself).
 */
#include "lib/guest.h"

static void do_ud(void *arg) {
    (void)arg;
    __asm__ volatile("ud2");
}

static void do_div(void *arg) {
    (void)arg;
    __asm__ volatile("xor %%edx, %%edx; mov $1, %%eax; xor %%ecx, %%ecx; div %%ecx" ::
                         : "eax", "ecx", "edx");
}

static void do_idiv_overflow(void *arg) {
    (void)arg;
    __asm__ volatile("mov $0x80000000, %%eax; cdq; mov $-1, %%ecx; idiv %%ecx" ::
                         : "eax", "ecx", "edx");
}

static void do_write(void *arg) {
    *(volatile u32 *)arg = 1;
}

static void do_read(void *arg) {
    (void)*(volatile u32 *)arg;
}

static void do_jump(void *arg) {
    ((void (*)(void))arg)();
}

static void do_wrmsr(void *arg) {
    wrmsr((u32)(u64)arg, ~0ull);
}

static void do_rdmsr(void *arg) {
    rdmsr((u32)(u64)arg);
}

static void do_load_ds(void *arg) {
    __asm__ volatile("mov %0, %%ds" ::"r"((u32)(u64)arg));
}

static void do_int(void *arg) {
    (void)arg;
    __asm__ volatile("int $0x42");
}

static void do_int3(void *arg) {
    (void)arg;
    __asm__ volatile("int3");
}

static void do_cr4(void *arg) {
    WRITE_CR(4, READ_CR(4) | (u64)arg);
}

static void do_movaps(void *arg) {
    __asm__ volatile("movaps (%0), %%xmm0" ::"r"(arg) : "memory");
}

static void faults_without_code(void) {
    CHECK_EQ(catch (do_ud, NULL), 6);
    CHECK(*(u16 *)last_fault.rip == 0x0b0f);
    CHECK_EQ(catch (do_div, NULL), 0);
    CHECK_EQ(catch (do_idiv_overflow, NULL), 0);
    CHECK_EQ(catch (do_int, NULL), 0x42);
    CHECK_EQ(catch (do_int3, NULL), 3);
}

static void general_protection(void) {
    CHECK_EQ(catch (do_wrmsr, (void *)0xdeadbeefull), 13);
    CHECK_EQ(last_fault.error, 0);
    CHECK_EQ(catch (do_rdmsr, (void *)0xdeadbeefull), 13);
    CHECK_EQ(catch (do_load_ds, (void *)0x1000), 13);
    CHECK_EQ(last_fault.error, 0x1000);
    CHECK_EQ(catch (do_cr4, (void *)(1ull << 31)), 13);
    CHECK_EQ(catch (do_read, (void *)0x8000000000001000ull), 13);
    CHECK_EQ(last_fault.error, 0);
    static u8 buffer[32] __attribute__((aligned(16)));
    CHECK_EQ(catch (do_movaps, buffer + 1), 13);
    CHECK_EQ(catch (do_movaps, buffer), -1);
}

static void page_faults(void) {
    const u64 va = 0x40000000; /* above what a small guest has as RAM; page tables decide */
    static u8 page[4096] __attribute__((aligned(4096)));
    map_page(va, (u64)page, 0);
    CHECK_EQ(catch (do_read, (void *)(va + 8)), 14);
    CHECK_EQ(last_fault.error, 0);
    CHECK_EQ(last_fault.cr2, va + 8);
    CHECK_EQ(catch (do_write, (void *)(va + 12)), 14);
    CHECK_EQ(last_fault.error, 2);
    map_page(va, (u64)page, 1);
    CHECK_EQ(catch (do_read, (void *)va), -1);
    CHECK_EQ(catch (do_write, (void *)va), 14);
    CHECK_EQ(last_fault.error, 3);
    map_page(va, (u64)page, 3 | 1ull << 63);
    CHECK_EQ(catch (do_write, (void *)va), -1);
    CHECK_EQ(catch (do_jump, (void *)va), 14);
    CHECK_EQ(last_fault.error, 0x11);
    CHECK_EQ(last_fault.rip, va);
    map_page(va, (u64)page | 1ull << 51, 3);
    CHECK_EQ(catch (do_read, (void *)va), 14);
    CHECK_EQ(last_fault.error, 9);
}

static void accessed_and_dirty(void) {
    const u64 va = 0x40001000;
    static u8 page[4096] __attribute__((aligned(4096)));
    map_page(va, (u64)page, 3);
    CHECK_EQ(*page_entry(va) & 0x60, 0);
    do_read((void *)va);
    CHECK_EQ(*page_entry(va) & 0x60, 0x20);
    do_write((void *)va);
    CHECK_EQ(*page_entry(va) & 0x60, 0x60);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    faults_without_code();
    general_protection();
    page_faults();
    accessed_and_dirty();
}
