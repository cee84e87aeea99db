/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Access rights and caching rules of four-level paging (SDM vol. 3, 4.5 to 4.10): every combination
 * of U/S, R/W, XD at two levels with CR0.WP, CR4.SMEP, CR4.SMAP, EFLAGS.AC and PKRU, for reads,
 * writes and fetches of both privilege levels; reserved bits; accessed and dirty bits; large pages;
 * PCIDs and INVPCID; what control registers refuse.
 */
#include "lib/guest.h"

#define VA      0x40200000ull /* the page under test */
#define CODE_VA 0x50000000ull /* user code that touches it */
#define XD      (1ull << 63)
#define PS      0x80ull

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, G = 0x100 };
enum { CR0_WP = 1 << 16, SMEP = 1 << 20, SMAP = 1 << 21, PKE = 1 << 22, PGE = 1 << 7 };
enum { PCIDE = 1 << 17 };
enum access { READ, WRITE, FETCH };

static u64 small[512] __attribute__((aligned(4096)));
static u64 spare_table[512] __attribute__((aligned(4096)));
static bool has_smep, has_smap, has_pku, has_pcid, has_invpcid, has_1g;

/* 0: read; 16: write; 32: fetch. The target page holds "ret" at 0 and "int $0x80" at 16. */
__asm__(".globl user_access, user_access_end\n"
        "user_access:\n"
        "    movb (%rdi), %al\n    int $0x80\n    .balign 16\n"
        "    movb %al, (%rdi)\n    int $0x80\n    .balign 16\n"
        "    jmp *%rdi\n"
        "user_access_end:\n");
extern u8 user_access[], user_access_end[];

static void do_access(void *arg) {
    u64 kind = (u64)arg & 3, ac = (u64)arg >> 2 & 1;
    if (ac) {
        __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf" ::: "memory", "cc");
    }
    if (kind == READ) {
        (void)*(volatile u8 *)(VA + 64);
    } else if (kind == WRITE) {
        *(volatile u8 *)(VA + 64) = 1;
    } else {
        ((void (*)(void))VA)();
    }
}

static int supervisor(enum access kind, bool ac) {
    int v = catch (do_access, (void *)((u64)kind | (u64)ac << 2));
    __asm__ volatile("pushf; andl $~0x40000, (%%rsp); popf" ::: "memory", "cc");
    return v;
}

static int user(enum access kind) {
    int v = run_user(CODE_VA + kind * 16, kind == FETCH ? VA + 16 : VA + 64, 0);
    return v == EXIT_USER ? -1 : v;
}

static void flush(void) {
    invlpg(VA);
}

/* --- the matrix --------------------------------------------------------------------------------
 */

struct setting {
    u64 leaf, dir; /* U, W, XD of the page table entry and the directory entry */
    bool wp, smep, smap, ac;
    u32 pkru; /* bits AD, WD of key 1 */
};

/* The error code, or -1 when the access is allowed (4.6). */
static int expected(const struct setting *s, enum access kind, bool is_user) {
    u64 both = s->leaf & s->dir;
    bool u = both & U, w = both & W, xd = (s->leaf | s->dir) & XD;
    bool denied = false, key = false;
    if (is_user) {
        denied = !u || (kind == WRITE && !w) || (kind == FETCH && xd);
    } else if (kind == FETCH) {
        denied = xd || (u && s->smep);
    } else {
        denied = (u && s->smap && !s->ac) || (kind == WRITE && !w && s->wp);
    }
    if (u && kind != FETCH) {
        key = (s->pkru & 1) || (kind == WRITE && (s->pkru & 2) && (is_user || s->wp));
    }
    if (!denied && !key) {
        return -1;
    }
    return P | (kind == WRITE ? 2 : 0) | (is_user ? 4 : 0) | (kind == FETCH ? 16 : 0) |
           (key ? 32 : 0);
}

static void one(const struct setting *s, enum access kind, bool is_user) {
    int want = expected(s, kind, is_user);
    int vector = is_user ? user(kind) : supervisor(kind, s->ac);
    int got = vector == -1 ? -1 : vector == 14 ? (int)last_fault.error : 1000 + vector;
    bool address = got == -1 || (last_fault.cr2 & ~0xfffull) == VA;
    if (got != want || !address) {
        print("leaf %lx dir %lx wp %d smep %d smap %d ac %d pkru %x, access %d user %d:\n", s->leaf,
              s->dir, s->wp, s->smep, s->smap, s->ac, s->pkru, kind, is_user);
    }
    CHECK_EQ(got, want);
    CHECK(address);
}

static void apply(const struct setting *s) {
    small[0] = (u64)spare_page[0] | P | s->leaf | (has_pku ? 1ull << 59 : 0);
    pd[VA >> 21] = (u64)small | P | s->dir;
    WRITE_CR(0, (READ_CR(0) & ~(u64)CR0_WP) | (s->wp ? CR0_WP : 0));
    WRITE_CR(4, (READ_CR(4) & ~(u64)(SMEP | SMAP)) | (s->smep ? SMEP : 0) | (s->smap ? SMAP : 0));
    if (has_pku) {
        __asm__ volatile("wrpkru" ::"a"(s->pkru << 2), "c"(0), "d"(0));
    }
    flush();
}

static void matrix(void) {
    static const u64 dirs[] = {U | W, U, W, U | W | XD};
    for (u32 i = 0; i < 2048; i++) {
        struct setting s = {
            .leaf = (i & 1 ? U : 0) | (i & 2 ? W : 0) | (i & 4 ? XD : 0),
            .dir = dirs[i >> 3 & 3],
            .wp = i & 32,
            .smep = i & 64,
            .smap = i & 128,
            .ac = i & 256,
            .pkru = i >> 9,
        };
        if ((s.smep && !has_smep) || (s.smap && !has_smap) || (s.pkru && !has_pku)) {
            continue;
        }
        apply(&s);
        for (enum access kind = READ; kind <= FETCH; kind++) {
            one(&s, kind, false);
            one(&s, kind, true);
        }
    }
    struct setting all = {.leaf = U | W, .dir = U | W, .wp = true};
    apply(&all);
}

/* --- reserved bits, large pages, A and D -------------------------------------------------------
 */

static void fault_is(int error) {
    flush();
    int v = supervisor(READ, false);
    CHECK_EQ(v, error < 0 ? -1 : 14);
    if (v == 14) {
        CHECK_EQ(last_fault.error, error);
    }
}

static void reserved_bits(void) {
    u64 saved = pd[VA >> 21], l3 = pdpt[1], l4 = pml4[0];
    small[0] = (u64)spare_page[0] | P | W | 1ull << 51; /* above MAXPHYADDR */
    fault_is(9);
    small[0] = (u64)spare_page[0] | W | 1ull << 51; /* not present: not looked at */
    fault_is(0);
    small[0] = (u64)spare_page[0] | P | W | 0x7full << 52; /* ignored, unless CR4.PKE */
    fault_is(-1);
    pd[VA >> 21] = 0x200000 | P | W | PS | 1 << 13;
    fault_is(9);
    pd[VA >> 21] = 0x200000 | P | W | PS | 1 << 12; /* PAT is not reserved */
    fault_is(-1);
    pd[VA >> 21] = saved;
    pdpt[1] = l3 | 1ull << 51;
    fault_is(9);
    pdpt[1] = has_1g ? 0x40000000 | P | W | PS | 1 << 20 : l3 | PS;
    fault_is(9);
    pdpt[1] = l3;
    pml4[0] = l4; /* bit 7 there would take the running code away: left out */
    small[0] = (u64)spare_page[0] | P | W | XD;
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull); /* without NXE bit 63 is reserved */
    fault_is(9);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    fault_is(-1);
}

static void accessed_dirty(void) {
    small[0] = (u64)spare_page[0] | P | W;
    pd[VA >> 21] = (u64)small | P | W;
    pdpt[1] &= ~(u64)A;
    flush();
    supervisor(READ, false);
    CHECK_EQ(small[0] & (A | D), A);
    CHECK_EQ(pd[VA >> 21] & (A | D), A);
    CHECK_EQ(pdpt[1] & (A | D), A);
    supervisor(WRITE, false);
    CHECK_EQ(small[0] & (A | D), A | D);
    CHECK_EQ(pd[VA >> 21] & (A | D), A);
    small[0] = (u64)spare_page[0] | P; /* a refused write leaves no D */
    flush();
    CHECK_EQ(supervisor(WRITE, false), 14);
    CHECK_EQ(small[0] & D, 0);
    small[0] =
        (u64)spare_page[0] | P | W; /* written through a cached read translation: D all the same */
    flush();
    supervisor(READ, false);
    supervisor(WRITE, false);
    CHECK_EQ(small[0] & D, D);
    small[0] &= ~(u64)D;
    flush();
    supervisor(WRITE, false);
    CHECK_EQ(small[0] & D, D);
}

/* Two large pages that an emulator might not tell apart (their addresses differ by 0x201 times 2
 * MiB): to invalidate one must not make the other unknown. */
static void two_large_pages(void) {
    const u64 far = VA + (0x201ull << 21);
    volatile u32 *one = (volatile u32 *)(VA + 0x5000), *two = (volatile u32 *)(far + 0x16000);
    u64 saved = pd[VA >> 21], above = pd[far >> 21];
    *(volatile u32 *)0x5000 = *(volatile u32 *)0x16000 = 21;
    *(volatile u32 *)0x205000 = *(volatile u32 *)0x216000 = 22;
    pd[VA >> 21] = pd[far >> 21] = 0 | P | W | PS;
    WRITE_CR(3, READ_CR(3));
    CHECK_EQ(*one, 21);
    CHECK_EQ(*two, 21);
    pd[VA >> 21] = pd[far >> 21] = 0x200000 | P | W | PS;
    invlpg((u64)one + 0x100000);
    invlpg((u64)two + 0x100000);
    CHECK_EQ(*one, 22);
    CHECK_EQ(*two, 22);
    pd[VA >> 21] = saved;
    pd[far >> 21] = above;
    WRITE_CR(3, READ_CR(3));
}

static void large_pages(void) {
    u64 saved = pd[VA >> 21], l3 = pdpt[1];
    pd[VA >> 21] = 0 | P | W | PS; /* the first 2 MiB again, with this image in it */
    flush();
    static volatile u32 word = 0x12345678;
    CHECK_EQ(*(volatile u32 *)(VA + ((u64)&word & 0x1fffff)), (u64)&word < 0x200000 ? word : 0);
    CHECK_EQ(pd[VA >> 21] & (A | D), A);
    *(volatile u32 *)(VA + 0x5000) = 7;
    CHECK_EQ(*(volatile u32 *)0x5000, 7);
    CHECK_EQ(pd[VA >> 21] & (A | D), A | D);
    pd[VA >> 21] = 0 | P | W;
    invlpg(VA + 0x123000); /* any address of a large page flushes it whole */
    pd[VA >> 21] = 0x200000 | P | W | PS;
    invlpg(VA + 0x123000);
    *(volatile u32 *)0x205000 = 9;
    CHECK_EQ(*(volatile u32 *)(VA + 0x5000), 9);
    pd[VA >> 21] = saved;
    if (has_1g) {
        pdpt[1] = 0 | P | W | PS;
        WRITE_CR(3, READ_CR(3));
        *(volatile u32 *)0x5000 = 11;
        CHECK_EQ(*(volatile u32 *)0x40005000, 11);
        CHECK_EQ(pdpt[1] & (A | D), A);
        *(volatile u32 *)0x40005000 = 12;
        CHECK_EQ(pdpt[1] & (A | D), A | D);
        CHECK_EQ(*(volatile u32 *)0x5000, 12);
        pdpt[1] = l3;
    }
    WRITE_CR(3, READ_CR(3));
}

/* --- what must not be remembered ---------------------------------------------------------------
 */

static void point_at(u32 page, u64 flags) {
    small[0] = (u64)spare_page[page] | P | W | flags;
}

static u32 seen(void) {
    return *(volatile u32 *)(VA + 128);
}

static void invpcid(u64 type, u64 pcid, u64 address) {
    u64 d[2] = {pcid, address};
    __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

struct invpcid_args {
    u64 type, pcid, address;
};

static void do_invpcid(void *arg) {
    struct invpcid_args *a = arg;
    invpcid(a->type, a->pcid, a->address);
}

static void do_cr3(void *arg) {
    WRITE_CR(3, (u64)arg);
}

static void do_cr4(void *arg) {
    WRITE_CR(4, (u64)arg);
}

static void do_cr0(void *arg) {
    WRITE_CR(0, (u64)arg);
}

static void do_cr8(void *arg) {
    WRITE_CR(8, (u64)arg);
}

static void do_efer(void *arg) {
    wrmsr(0xc0000080, (u64)arg);
}

static void flushes(void) {
    for (u32 i = 1; i < 4; i++) {
        *(u32 *)(spare_page[i] + 128) = i;
    }
    pd[VA >> 21] = (u64)small | P | W;
    point_at(1, 0);
    flush();
    CHECK_EQ(seen(), 1);
    point_at(2, 0);
    flush();
    CHECK_EQ(seen(), 2);
    point_at(3, 0);
    WRITE_CR(3, READ_CR(3));
    CHECK_EQ(seen(), 3);
    WRITE_CR(4, READ_CR(4) | PGE);
    point_at(1, G);
    flush();
    CHECK_EQ(seen(), 1);
    point_at(2, G);
    flush(); /* INVLPG takes global ones too */
    CHECK_EQ(seen(), 2);
    point_at(3, G);
    WRITE_CR(4, READ_CR(4) & ~(u64)PGE); /* a change of PGE takes all */
    CHECK_EQ(seen(), 3);
    memcpy(spare_table, small, sizeof(small));
    spare_table[0] = (u64)spare_page[1] | P | W;
    pd[VA >> 21] = (u64)spare_table | P | W; /* a change above the leaf */
    flush();
    CHECK_EQ(seen(), 1);
    pd[VA >> 21] = (u64)small | P | W;
    flush();
    CHECK_EQ(seen(), 3);
    small[0] = 0; /* not present entries are never cached: no flush is needed on the way back */
    flush();
    CHECK_EQ(supervisor(READ, false), 14);
    point_at(2, 0);
    CHECK_EQ(seen(), 2);
}

static void pcids(void) {
    if (!has_pcid) {
        print("no PCID here\n");
        return;
    }
    u64 cr3 = READ_CR(3) & ~0xfffull;
    WRITE_CR(3, cr3 | 8);
    CHECK_EQ(catch (do_cr4, (void *)(READ_CR(4) | PCIDE)), 13); /* CR3[11:0] must be 0 */
    WRITE_CR(3, cr3);
    CHECK_EQ(catch (do_cr3, (void *)(cr3 | 1ull << 63)), 13); /* without PCIDE it is reserved */
    WRITE_CR(4, READ_CR(4) | PCIDE);
    point_at(1, 0);
    WRITE_CR(3, cr3 | 1);
    CHECK_EQ(READ_CR(3), cr3 | 1);
    CHECK_EQ(seen(), 1);
    point_at(2, 0);
    WRITE_CR(3, cr3 | 2); /* another context, flushed */
    CHECK_EQ(seen(), 2);
    WRITE_CR(3, cr3 | 1); /* flushed as bit 63 is clear */
    CHECK_EQ(seen(), 2);
    WRITE_CR(3, cr3 | 2 | 1ull << 63);
    CHECK_EQ(READ_CR(3), cr3 | 2); /* bit 63 is not kept */
    CHECK_EQ(seen(), 2);
    if (has_invpcid) {
        point_at(3, 0);
        invpcid(0, 2, VA);
        CHECK_EQ(seen(), 3);
        point_at(1, 0);
        invpcid(1, 2, 0);
        CHECK_EQ(seen(), 1);
        point_at(2, 0);
        invpcid(3, 0, 0);
        CHECK_EQ(seen(), 2);
        WRITE_CR(4, READ_CR(4) | PGE);
        point_at(3, G);
        invpcid(2, 0, 0);
        CHECK_EQ(seen(), 3);
        point_at(1, G);
        invpcid(2, 0, 0); /* with globals */
        CHECK_EQ(seen(), 1);
        WRITE_CR(4, READ_CR(4) & ~(u64)PGE);
        struct invpcid_args bad[] = {{4, 0, 0}, {0, 0x1000, 0}, {0, 1, 1ull << 63}, {1, 0x1000, 0}};
        for (u32 i = 0; i < 4; i++) {
            CHECK_EQ(catch (do_invpcid, &bad[i]), 13);
        }
    }
    WRITE_CR(3, cr3);
    WRITE_CR(4, READ_CR(4) & ~(u64)PCIDE);
    CHECK_EQ(READ_CR(4) & PCIDE, 0);
}

/* --- what control registers refuse -------------------------------------------------------------
 */

static void control_registers(void) {
    u64 cr0 = READ_CR(0), cr4 = READ_CR(4), efer = rdmsr(0xc0000080);
    CHECK_EQ(catch (do_cr0, (void *)(cr0 & ~1ull)), 13);         /* PG without PE */
    CHECK_EQ(catch (do_cr0, (void *)(cr0 | 1 << 29)), 13);       /* NW without CD */
    CHECK_EQ(catch (do_cr0, (void *)(cr0 & ~(1ull << 31))), 13); /* PG off in 64-bit code */
    CHECK_EQ(catch (do_cr0, (void *)(cr0 | 1ull << 32)), 13);    /* upper half */
    CHECK_EQ(catch (do_cr4, (void *)(cr4 & ~0x20ull)), 13);      /* PAE off in long mode */
    CHECK_EQ(catch (do_cr4, (void *)(cr4 | 1ull << 40)), 13);    /* reserved */
    CHECK_EQ(catch (do_cr4, (void *)(cr4 | 1ull << 15)), 13);    /* reserved */
    CHECK_EQ(catch (do_cr8, (void *)16), 13);
    CHECK_EQ(catch (do_cr3, (void *)(READ_CR(3) | 1ull << 60)), 13);
    CHECK_EQ(catch (do_efer, (void *)(efer & ~0x100ull)), 13); /* LME with paging on */
    CHECK_EQ(catch (do_efer, (void *)(efer | 0x10000)), 13);   /* reserved */
    CHECK_EQ(READ_CR(0), cr0);
    CHECK_EQ(READ_CR(4), cr4);
    CHECK_EQ(rdmsr(0xc0000080), efer);
    WRITE_CR(0, cr0 | 1 << 18); /* AM */
    CHECK_EQ(READ_CR(0), cr0 | 1 << 18);
    WRITE_CR(0, cr0);
    WRITE_CR(2, 0x123456789abcull);
    CHECK_EQ(READ_CR(2), 0x123456789abcull);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    u32 r[4];
    cpuid(7, 0, r);
    has_smep = r[1] >> 7 & 1;
    has_smap = r[1] >> 20 & 1;
    has_invpcid = r[1] >> 10 & 1;
    has_pku = r[2] >> 3 & 1;
    cpuid(1, 0, r);
    has_pcid = r[2] >> 17 & 1;
    cpuid(0x80000001, 0, r);
    has_1g = r[3] >> 26 & 1;
    print("smep %d smap %d pku %d pcid %d invpcid %d 1g %d\n", has_smep, has_smap, has_pku,
          has_pcid, has_invpcid, has_1g);
    tss_load();
    map_user(CODE_VA, user_access, (size_t)(user_access_end - user_access));
    spare_page[0][0] = 0xc3;
    spare_page[0][16] = 0xcd;
    spare_page[0][17] = 0x80;
    pml4[0] |= U;
    pdpt[1] |= U;
    if (has_pku) {
        WRITE_CR(4, READ_CR(4) | PKE);
    }
    matrix();
    if (has_pku) {
        WRITE_CR(4, READ_CR(4) & ~(u64)PKE);
    }
    reserved_bits();
    accessed_dirty();
    large_pages();
    two_large_pages();
    flushes();
    pcids();
    control_registers();
}
