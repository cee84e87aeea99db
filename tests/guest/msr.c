/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers and control registers: what each takes, what it refuses, and that a
 * refused write changes nothing (SDM vol. 4, table 2-2; vol. 3, 2.5 for CR0, CR4, XCR0; 12.11 for
 * MTRRs and PAT). Reserved bits, values that are not canonical, read-only and missing registers
 * raise #GP(0).
 */
#include "lib/guest.h"

struct access {
    u32 index;
    u64 value;
};

static void do_write(void *arg) {
    const struct access *a = arg;
    wrmsr(a->index, a->value);
}

static void do_read(void *arg) {
    struct access *a = arg;
    a->value = rdmsr(a->index);
}

static bool readable(u32 index, u64 *value) {
    struct access a = {index, 0};
    int v = catch (do_read, &a);
    *value = a.value;
    return v == -1;
}

static int write(u32 index, u64 value) {
    struct access a = {index, value};
    int v = catch (do_write, &a);
    if (v == 13) {
        CHECK_EQ(last_fault.error, 0);
    }
    return v;
}

/* Takes good, refuses bad, and bad leaves it as it was. */
static void takes(u32 index, u64 good, u64 bad) {
    u64 old, now = 0;
    CHECK(readable(index, &old));
    int v = write(index, good);
    readable(index, &now);
    if (v != -1 || now != good) {
        print("MSR %x takes %lx: %d, reads %lx\n", index, good, v, now);
    }
    CHECK_EQ(v, -1);
    CHECK_EQ(now, good);
    if (bad) {
        v = write(index, bad);
        readable(index, &now);
        if (v != 13 || now != good) {
            print("MSR %x refuses %lx: %d, reads %lx\n", index, bad, v, now);
        }
        CHECK_EQ(v, 13);
        CHECK_EQ(now, good);
    }
    write(index, old);
}

static void read_only(u32 index) {
    u64 value;
    CHECK(readable(index, &value));
    CHECK_EQ(write(index, value ^ 1), 13);
}

static void missing(u32 index) {
    u64 value;
    bool there = readable(index, &value);
    if (there) {
        print("MSR %x is there\n", index);
    }
    CHECK(!there);
    CHECK_EQ(write(index, 0), 13);
}

#define HIGH 0xffff800000000000ull /* canonical */
#define HOLE 0x0000800000000000ull /* not */

static void registers(void) {
    static const u32 canonical[] = {0x175,      0x176,      0xc0000082, 0xc0000083,
                                    0xc0000100, 0xc0000101, 0xc0000102};
    for (u32 i = 0; i < sizeof(canonical) / sizeof(*canonical); i++) {
        takes(canonical[i], HIGH | 0x1234567, HOLE);
        takes(canonical[i], 0x00007fffffffffff, 0xffff7fffffffffff);
    }
    takes(0xc0000081, 0x0123456789abcdef, 0);              /* STAR: any value */
    takes(0xc0000084, 0x47700, 0);                         /* SFMASK */
    takes(0x277, 0x0007040600070106, 0x0007040600070102);  /* PAT: type 2 is reserved */
    takes(0x277, 0x0506070401000706, 0x0306070401000706);  /* and 3 */
    takes(0x200, 0xe0000000 | 6, 0xe0000000 | 2);          /* MTRR base: type 2 */
    takes(0x200, 0xe0000000 | 1, 0xe0000000 | 1 << 8 | 1); /* reserved bits */
    takes(0x250, 0x0606060606060606, 0x0606060606060602);  /* fixed MTRR */
    takes(0x2ff, 0xc06, 0xc02);                            /* default type */
    takes(0x2ff, 0xc06, 0xc06 | 1 << 8);                   /* reserved bit */
    takes(0xc0000080, rdmsr(0xc0000080), rdmsr(0xc0000080) | 1ull << 32);
    takes(0xc0000080, rdmsr(0xc0000080), rdmsr(0xc0000080) | 2);
    takes(0x1b, rdmsr(0x1b), rdmsr(0x1b) | 1); /* APIC base: reserved bit */
    read_only(0xfe);                           /* MTRRCAP */
    read_only(0x179);                          /* MCG_CAP */
}

static void not_there(void) {
    static const u32 list[] = {0x3,        0x30,       0x480,      0x48f,      0x600,
                               0x1000,     0x4000,     0x3fffffff, 0x7fffffff, 0x80000000,
                               0xbfffffff, 0xc0000000, 0xc00000ff, 0xc0000110, 0xc0001fff,
                               0xd0000000, 0xffffffff};
    for (u32 i = 0; i < sizeof(list) / sizeof(*list); i++) {
        missing(list[i]);
    }
}

/* --- control registers -------------------------------------------------------------------------
 */

static void do_cr0(void *arg) {
    WRITE_CR(0, arg);
}
static void do_cr4(void *arg) {
    WRITE_CR(4, arg);
}

/* Every bit of CR4: what CPUID does not offer is reserved. */
static void cr4_bits(void) {
    u32 one[4], seven[4];
    u64 cr4 = READ_CR(4);
    cpuid(1, 0, one);
    cpuid(7, 0, seven);
    bool has[64] = {0};
    has[0] = has[1] = one[3] >> 1 & 1;                           /* VME, PVI */
    has[2] = one[3] >> 4 & 1;                                    /* TSD */
    has[3] = one[3] >> 2 & 1;                                    /* DE */
    has[4] = has[5] = has[7] = has[8] = has[9] = has[10] = true; /* PSE, PAE, PGE, PCE, OSFXSR... */
    has[6] = one[3] >> 7 & 1;                                    /* MCE */
    has[11] = seven[2] >> 2 & 1;                                 /* UMIP */
    has[12] = seven[2] >> 16 & 1;                                /* LA57: not changed below */
    has[13] = one[2] >> 5 & 1;                                   /* VMXE */
    has[14] = one[2] >> 6 & 1;                                   /* SMXE */
    has[16] = seven[1] & 1;                                      /* FSGSBASE */
    has[17] = one[2] >> 17 & 1;                                  /* PCIDE */
    has[18] = one[2] >> 26 & 1;                                  /* OSXSAVE */
    has[20] = seven[1] >> 7 & 1;                                 /* SMEP */
    has[21] = seven[1] >> 20 & 1;                                /* SMAP */
    has[22] = seven[2] >> 3 & 1;                                 /* PKE */
    has[23] = seven[2] >> 7 & 1;                                 /* CET: also needs CR0.WP */
    for (u32 bit = 0; bit < 64; bit++) {
        if (bit == 5 || bit == 12 || bit == 13 || bit == 14 || bit >= 23) {
            if (bit < 24 || bit == 24 || bit == 25 || bit == 27 || bit == 28 || bit == 32) {
                continue; /* newer features than this test knows */
            }
        }
        int v = catch (do_cr4, (void *)(cr4 ^ 1ull << bit));
        int want = has[bit] || (cr4 >> bit & 1) ? -1 : 13;
        if (v != want) {
            print("CR4 bit %u: %d\n", bit, v);
        }
        CHECK_EQ(v, want);
        WRITE_CR(4, cr4);
    }
    CHECK_EQ(READ_CR(4), cr4);
}

/* Reserved bits of CR0 below 32 are ignored and read as 0, above they are #GP. */
static void cr0_bits(void) {
    u64 cr0 = READ_CR(0);
    for (u32 bit = 6; bit < 64; bit++) {
        if (bit == 16 || bit == 18 || bit >= 29) {
            if (bit < 32) {
                continue;
            }
        }
        int v = catch (do_cr0, (void *)(cr0 | 1ull << bit));
        CHECK_EQ(v, bit < 32 ? -1 : 13);
        CHECK_EQ(READ_CR(0), cr0);
    }
    CHECK_EQ(catch (do_cr0, (void *)(cr0 & ~0x10ull)), -1); /* ET cannot be cleared */
    CHECK_EQ(READ_CR(0), cr0);
}

static void do_xsetbv(void *arg) {
    u64 v = (u64)arg;
    __asm__ volatile("xsetbv" ::"a"((u32)v), "d"((u32)(v >> 32)), "c"(0));
}

static void do_xsetbv_1(void *arg) {
    __asm__ volatile("xsetbv" ::"a"((u32)(u64)arg), "d"(0), "c"(1));
}

static void xcr0(void) {
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 26 & 1)) {
        print("no XSAVE here\n");
        return;
    }
    CHECK_EQ(catch (do_xsetbv, (void *)1), 6); /* CR4.OSXSAVE is 0 */
    WRITE_CR(4, READ_CR(4) | 1 << 18);
    cpuid(0xd, 0, r);
    u64 valid = r[0] | (u64)r[3] << 32;
    CHECK_EQ(catch (do_xsetbv, (void *)1), -1);
    CHECK_EQ(catch (do_xsetbv, (void *)0), 13); /* x87 cannot be off */
    CHECK_EQ(catch (do_xsetbv, (void *)5), 13); /* AVX without SSE */
    CHECK_EQ(catch (do_xsetbv, (void *)(valid & 7)), -1);
    CHECK_EQ(catch (do_xsetbv, (void *)(1 | 1ull << 62)), 13);
    CHECK_EQ(catch (do_xsetbv_1, (void *)1), 13); /* XCR1 */
    CHECK_EQ(catch (do_xsetbv, (void *)1), -1);
    WRITE_CR(4, READ_CR(4) & ~(1ull << 18));
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    registers();
    not_there();
    cr4_bits();
    cr0_bits();
    xcr0();
}
