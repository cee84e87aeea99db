/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector state (SDM vol. 1, chapter 13; vol. 3, chapter 13): kept across interrupts, #NM by CR0.TS,
 * #UD by CR0.EM and CR4, #XM by MXCSR, XSAVE and XRSTOR with what XCR0 and the header allow.
 */
#include "lib/guest.h"

enum { TS = 8, EM = 4, OSFXSR = 0x200, OSXMMEXCPT = 0x400, OSXSAVE = 1 << 18, VECTOR = 0x45 };

static u8 area[4096] __attribute__((aligned(64)));
static u8 pattern[32] __attribute__((aligned(32))), out[32] __attribute__((aligned(32)));
static volatile u32 interrupts;
static bool has_avx, has_xsave, has_xsaveopt, has_xsavec;

static u64 xgetbv(u32 index) {
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(index));
    return (u64)hi << 32 | lo;
}

struct xcr {
    u32 index;
    u64 value;
};

static void do_xsetbv(void *arg) {
    struct xcr *x = arg;
    __asm__ volatile("xsetbv" ::"c"(x->index), "a"((u32)x->value), "d"((u32)(x->value >> 32)));
}

static int xsetbv(u32 index, u64 value) {
    struct xcr x = {index, value};
    return catch (do_xsetbv, &x);
}

static void do_sse(void *arg) {
    (void)arg;
    __asm__ volatile("paddd %xmm0, %xmm0");
}

static void do_avx(void *arg) {
    (void)arg;
    __asm__ volatile("vpaddd %xmm0, %xmm0, %xmm0");
}

static void do_x87(void *arg) {
    (void)arg;
    __asm__ volatile("fldz; fstp %st(0)");
}

static void do_wait(void *arg) {
    (void)arg;
    __asm__ volatile("fwait");
}

static void do_mmx(void *arg) {
    (void)arg;
    __asm__ volatile("emms");
}

static void do_xgetbv(void *arg) {
    xgetbv((u32)(u64)arg);
}

static void do_xsave(void *arg) {
    __asm__ volatile("xsave (%0)" ::"r"(arg), "a"(~0u), "d"(~0u) : "memory");
}

static void do_xrstor(void *arg) {
    __asm__ volatile("xrstor (%0)" ::"r"(arg), "a"(~0u), "d"(~0u) : "memory");
}

static void do_divide(void *arg) {
    u32 mxcsr = (u32)(u64)arg;
    __asm__ volatile("ldmxcsr %0\n"
                     "pxor %%xmm1, %%xmm1\n"
                     "mov $0x3f800000, %%eax\n"
                     "movd %%eax, %%xmm0\n"
                     "divss %%xmm1, %%xmm0\n" ::"m"(mxcsr)
                     : "eax");
}

static void do_ldmxcsr(void *arg) {
    u32 mxcsr = (u32)(u64)arg;
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
}

/* --- availability ------------------------------------------------------------------------------
 */

static void availability(void) {
    u64 cr0 = READ_CR(0), cr4 = READ_CR(4);
    CHECK_EQ(catch (do_sse, NULL), -1);
    WRITE_CR(0, cr0 | TS);
    CHECK_EQ(catch (do_sse, NULL), 7);
    CHECK_EQ(catch (do_x87, NULL), 7);
    CHECK_EQ(catch (do_mmx, NULL), 7);
    CHECK_EQ(catch (do_wait, NULL), 7); /* MP is set */
    __asm__ volatile("clts");
    CHECK_EQ(READ_CR(0) & TS, 0);
    CHECK_EQ(catch (do_sse, NULL), -1);
    WRITE_CR(0, (cr0 | TS) & ~2ull);
    CHECK_EQ(catch (do_wait, NULL), -1);
    WRITE_CR(0, cr0 | EM);
    CHECK_EQ(catch (do_sse, NULL), 6);
    CHECK_EQ(catch (do_x87, NULL), 7);
    CHECK_EQ(catch (do_mmx, NULL), 6);
    WRITE_CR(0, cr0);
    WRITE_CR(4, cr4 & ~(u64)OSFXSR);
    CHECK_EQ(catch (do_sse, NULL), 6);
    WRITE_CR(4, cr4);
    CHECK_EQ(catch (do_avx, NULL), 6); /* OSXSAVE is 0 */
    CHECK_EQ(catch (do_xgetbv, NULL), 6);
}

/* 11.5.4 and table 11-9: divide by zero, masked and not. */
static void numeric(void) {
    CHECK_EQ(catch (do_divide, (void *)0x1f80), -1);
    CHECK_EQ(catch (do_divide, (void *)(0x1f80ull & ~0x200ull)), 19);
    WRITE_CR(4, READ_CR(4) & ~(u64)OSXMMEXCPT);
    CHECK_EQ(catch (do_divide, (void *)(0x1f80ull & ~0x200ull)), 6);
    WRITE_CR(4, READ_CR(4) | OSXMMEXCPT);
    CHECK_EQ(catch (do_ldmxcsr, (void *)0x11f80), 13);
    CHECK_EQ(catch (do_ldmxcsr, (void *)0x1f80), -1);
}

/* --- across interrupts -------------------------------------------------------------------------
 */

static void on_timer(struct frame *f) {
    (void)f;
    interrupts++;
    mmio_write(LAPIC + 0xb0, 0);
}

static void across_interrupts(void) {
    for (u32 i = 0; i < 32; i++) {
        pattern[i] = (u8)(i * 7 + 1);
    }
    mmio_write(LAPIC + 0xf0, 0x1ff);
    irq_handler(VECTOR, on_timer);
    mmio_write(LAPIC + 0x3e0, 0xb);
    mmio_write(LAPIC + 0x320, VECTOR | 1 << 17);
    u64 end = rdtsc() + tsc_hz() * 2;
    u32 wrong = 0;
    __asm__ volatile("movdqa (%0), %%xmm3\n movdqa (%0), %%xmm15\n" ::"r"(pattern));
    if (has_avx) {
        __asm__ volatile("vmovdqa (%0), %%ymm7" ::"r"(pattern));
    }
    mmio_write(LAPIC + 0x380, 200000);
    irq_on();
    while (interrupts < 10 && rdtsc() < end) {
        __asm__ volatile("movdqa %%xmm3, (%0)" ::"r"(out) : "memory");
        wrong += memcmp(out, pattern, 16) != 0;
    }
    irq_off();
    mmio_write(LAPIC + 0x380, 0);
    __asm__ volatile("movdqa %%xmm15, (%0)" ::"r"(out) : "memory");
    wrong += memcmp(out, pattern, 16) != 0;
    if (has_avx) {
        __asm__ volatile("vmovdqa %%ymm7, (%0)" ::"r"(out) : "memory");
        wrong += memcmp(out, pattern, 32) != 0;
    }
    CHECK(interrupts >= 10);
    CHECK_EQ(wrong, 0);
    mmio_write(LAPIC + 0x320, 1 << 16);
}

/* --- XSAVE -------------------------------------------------------------------------------------
 */

static void xcr0_rules(void) {
    u32 r[4];
    WRITE_CR(4, READ_CR(4) | OSXSAVE);
    cpuid(1, 0, r);
    CHECK_EQ(r[2] >> 27 & 1, 1); /* CPUID shows CR4.OSXSAVE */
    CHECK_EQ(xgetbv(0) & 1, 1);
    CHECK_EQ(catch (do_xgetbv, (void *)2), 13);
    CHECK_EQ(xsetbv(0, 0), 13); /* bit 0 must be 1 */
    CHECK_EQ(xsetbv(0, 2), 13);
    CHECK_EQ(xsetbv(0, 5), 13); /* AVX without SSE */
    CHECK_EQ(xsetbv(1, 1), 13);
    CHECK_EQ(xsetbv(0, 1ull << 62 | 3), 13);
    CHECK_EQ(xsetbv(0, 1), -1);
    cpuid(13, 0, r);
    CHECK_EQ(r[1], 576); /* what XCR0 needs: legacy area and header */
    CHECK_EQ(xsetbv(0, 3), -1);
    CHECK_EQ(xgetbv(0), 3);
    if (has_avx) {
        CHECK_EQ(catch (do_avx, NULL), 6);
        CHECK_EQ(xsetbv(0, 7), -1);
        CHECK_EQ(catch (do_avx, NULL), -1);
        cpuid(13, 0, r);
        CHECK_EQ(r[1], 832);
        WRITE_CR(0, READ_CR(0) | TS);
        CHECK_EQ(catch (do_avx, NULL), 7);
        CHECK_EQ(catch (do_xsave, area), 7);
        __asm__ volatile("clts");
    }
}

static void ymm_set(const u8 *from) {
    if (has_avx) {
        __asm__ volatile("vmovdqa (%0), %%ymm2" ::"r"(from));
    } else {
        __asm__ volatile("movdqa (%0), %%xmm2" ::"r"(from));
    }
}

static void save_restore(void) {
    static const u8 zero[32] __attribute__((aligned(32)));
    u32 width = has_avx ? 32 : 16;
    memset(area, 0, sizeof(area));
    ymm_set(pattern);
    do_xsave(area);
    CHECK_EQ(memcmp(area + 160 + 2 * 16, pattern, 16), 0);
    CHECK_EQ(*(u64 *)(area + 512) & 2, 2);
    if (has_avx) {
        CHECK_EQ(memcmp(area + 576 + 2 * 16, pattern + 16, 16), 0);
        CHECK_EQ(*(u64 *)(area + 512) & 4, 4);
    }
    ymm_set(zero);
    do_xrstor(area);
    memset(out, 0, sizeof(out));
    __asm__ volatile("movdqu %%xmm2, (%0)" ::"r"(out) : "memory");
    CHECK_EQ(memcmp(out, pattern, 16), 0);
    if (has_avx) {
        __asm__ volatile("vmovdqa %%ymm2, (%0)" ::"r"(out) : "memory");
    }
    CHECK_EQ(memcmp(out, pattern, width), 0);
    *(u64 *)(area + 512) = 0; /* XSTATE_BV 0: initial state */
    do_xrstor(area);
    __asm__ volatile("movdqu %%xmm2, (%0)" ::"r"(out) : "memory");
    CHECK_EQ(memcmp(out, zero, 16), 0);
    CHECK_EQ(catch (do_xrstor, area + 8), 13); /* 64-byte alignment */
    CHECK_EQ(catch (do_xsave, area + 8), 13);
    *(u64 *)(area + 512) = 1ull << 60; /* a component that XCR0 does not have */
    CHECK_EQ(catch (do_xrstor, area), 13);
    *(u64 *)(area + 512) = 3;
    *(u64 *)(area + 528) = 1; /* header bytes 16 to 63 */
    CHECK_EQ(catch (do_xrstor, area), 13);
    *(u64 *)(area + 528) = 0;
    *(u32 *)(area + 24) = 0xffffffff; /* MXCSR */
    CHECK_EQ(catch (do_xrstor, area), 13);
    *(u32 *)(area + 24) = 0x1f80;
    CHECK_EQ(catch (do_xrstor, area), -1);
}

static void compacted(void) {
    if (!has_xsavec) {
        return;
    }
    memset(area, 0, sizeof(area));
    ymm_set(pattern);
    __asm__ volatile("xsavec (%0)" ::"r"(area), "a"(~0u), "d"(~0u) : "memory");
    CHECK_EQ(*(u64 *)(area + 520) >> 63, 1);
    CHECK_EQ(*(u64 *)(area + 520) & 7, xgetbv(0));
    ymm_set(pattern + 0);
    __asm__ volatile("pxor %xmm2, %xmm2");
    do_xrstor(area);
    __asm__ volatile("movdqu %%xmm2, (%0)" ::"r"(out) : "memory");
    CHECK_EQ(memcmp(out, pattern, 16), 0);
    *(u64 *)(area + 520) &= ~2ull; /* XSTATE_BV has what XCOMP_BV has not */
    *(u64 *)(area + 512) |= 2;
    CHECK_EQ(catch (do_xrstor, area), 13);
}

/* A VEX.128 instruction clears the upper half, a legacy one keeps it. */
static void upper_halves(void) {
    if (!has_avx) {
        return;
    }
    ymm_set(pattern);
    __asm__ volatile("paddd %%xmm2, %%xmm2\n vmovdqa %%ymm2, (%0)" ::"r"(out) : "memory");
    CHECK_EQ(memcmp(out + 16, pattern + 16, 16), 0);
    __asm__ volatile("vpaddd %%xmm2, %%xmm2, %%xmm2\n vmovdqa %%ymm2, (%0)" ::"r"(out) : "memory");
    CHECK_EQ(*(u64 *)(out + 16) | *(u64 *)(out + 24), 0);
    ymm_set(pattern);
    __asm__ volatile("vzeroupper\n vmovdqa %%ymm2, (%0)" ::"r"(out) : "memory");
    CHECK_EQ(memcmp(out, pattern, 16), 0);
    CHECK_EQ(*(u64 *)(out + 16) | *(u64 *)(out + 24), 0);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    u32 r[4];
    cpuid(1, 0, r);
    has_xsave = r[2] >> 26 & 1;
    has_avx = has_xsave && r[2] >> 28 & 1;
    cpuid(13, 1, r);
    has_xsaveopt = has_xsave && (r[0] & 1);
    has_xsavec = has_xsave && (r[0] >> 1 & 1);
    availability();
    numeric();
    if (has_xsave) {
        xcr0_rules();
        for (u32 i = 0; i < 32; i++) {
            pattern[i] = (u8)(i * 7 + 1);
        }
        save_restore();
        compacted();
        upper_halves();
    }
    across_interrupts();
}
