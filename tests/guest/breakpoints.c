/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debug exceptions, all combinations (SDM vol. 3, chapter 17): data breakpoints of every length and
 * kind under accesses around them, I/O breakpoints, two at once, local and global enables, RF
 * (17.3.1.1), REP, MOV SS (6.8.3), general detect, TF with SYSCALL and ICEBP. debug.c has the rest.
 */
#include "lib/guest.h"

#define CODE_VA 0x50000000ull
#define READ_DR(n)                                                                                 \
    ({                                                                                             \
        u64 v_;                                                                                    \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v_));                                         \
        v_;                                                                                        \
    })
#define WRITE_DR(n, v) __asm__ volatile("mov %0, %%dr" #n ::"r"((u64)(v)) : "memory")

enum { BS = 1 << 14, BD = 1 << 13, DR6_FIXED = 0xffff0ff0, DR7_FIXED = 0x400, GD = 1 << 13 };
enum { EXEC = 0, WRITE = 1, IO = 2, ANY = 3, DE = 8, TF = 0x100, RF = 0x10000 };

static struct hit { u64 rip, dr6, dr7, flags, cs; } hits[64];
static volatile u32 hit_count, limit;
static u8 area[256] __attribute__((aligned(64)));

static void on_debug(struct frame *f) {
    u64 dr6 = READ_DR(6);
    hits[hit_count++ & 63] = (struct hit){f->rip, dr6, READ_DR(7), f->rflags, f->cs};
    WRITE_DR(6, DR6_FIXED);
    if ((dr6 & 0xf) && hit_count >= limit) {
        f->rflags |= RF; /* an instruction breakpoint does not strike again */
    }
    if (hit_count > 60) {
        f->rflags &= ~(u64)TF;
        WRITE_DR(7, DR7_FIXED);
    }
}

static u64 control(u32 n, u32 kind, u32 size, bool local) {
    u64 len = size == 8 ? 2 : size - 1;
    return (local ? 1u : 2u) << n * 2 | (kind | len << 2) << (16 + n * 4);
}

static void arm(u64 dr7) {
    hit_count = 0;
    limit = 1;
    WRITE_DR(6, DR6_FIXED);
    WRITE_DR(7, DR7_FIXED | dr7);
}

static void disarm(void) {
    WRITE_DR(7, DR7_FIXED);
    WRITE_DR(6, DR6_FIXED);
}

/* --- data: length x kind x access --------------------------------------------------------------
 */

#define ACCESS(name, text)                                                                         \
    __attribute__((noinline)) static void name(u8 *p) {                                            \
        __asm__ volatile(text "\n nop" ::"r"(p), "a"(0ull) : "memory", "cc");                      \
    }
ACCESS(read1, "movb (%0), %%al")
ACCESS(read2, "movw (%0), %%ax")
ACCESS(read4, "movl (%0), %%eax")
ACCESS(read8, "movq (%0), %%rax")
ACCESS(write1, "movb %%al, (%0)")
ACCESS(write2, "movw %%ax, (%0)")
ACCESS(write4, "movl %%eax, (%0)")
ACCESS(write8, "movq %%rax, (%0)")
ACCESS(add4, "addl %%eax, (%0)")
ACCESS(lock4, "lock addl %%eax, (%0)")
ACCESS(xchg8, "xchgq %%rax, (%0)")
ACCESS(bts4, "btsl $0, (%0)")
ACCESS(test4, "testl %%eax, (%0)")

static const struct access {
    void (*fn)(u8 *p);
    u8 size;
    bool write;
} accesses[] = {{read1, 1, false}, {read2, 2, false}, {read4, 4, false}, {read8, 8, false},
                {write1, 1, true}, {write2, 2, true}, {write4, 4, true}, {write8, 8, true},
                {add4, 4, true},   {lock4, 4, true},  {xchg8, 8, true},  {bts4, 4, true},
                {test4, 4, false}};

static void data_one(u32 size, u32 kind, const struct access *a, int offset) {
    u64 at = (u64)area + 64;
    bool overlap = offset < (int)size && offset + a->size > 0;
    bool want = overlap && (kind == ANY || a->write);
    WRITE_DR(2, at);
    arm(control(2, kind, size, false));
    a->fn((u8 *)at + offset);
    u32 got = hit_count;
    u64 dr6 = hits[0].dr6;
    disarm();
    if (got != want) {
        print("length %u kind %u access %u write %d offset %d: %u\n", size, kind, a->size, a->write,
              offset, got);
    }
    CHECK_EQ(got, want);
    CHECK(!got || (dr6 & (BS | 0xf)) == 4);
}

static void data(void) {
    static const u8 sizes[] = {1, 2, 4, 8};
    for (u32 s = 0; s < 4; s++) {
        for (u32 a = 0; a < sizeof(accesses) / sizeof(accesses[0]); a++) {
            for (int offset = -8; offset <= 8; offset++) {
                data_one(sizes[s], WRITE, &accesses[a], offset);
                data_one(sizes[s], ANY, &accesses[a], offset);
            }
        }
    }
    /* the address is aligned down to the length (17.2.5) */
    WRITE_DR(0, (u64)area + 67);
    arm(control(0, WRITE, 4, false));
    write1(area + 64);
    CHECK_EQ(hit_count, 1);
    disarm();
}

/* Two that match report both; a local enable is as good as a global one. */
static void several(void) {
    WRITE_DR(0, (u64)area);
    WRITE_DR(3, (u64)area + 4);
    arm(control(0, WRITE, 4, true) | control(3, ANY, 4, true));
    write8(area);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].dr6 & 0xf, 9);
    CHECK_EQ(hits[0].flags & RF, 0); /* a trap */
    disarm();
    write8(area);
    CHECK_EQ(hit_count, 1);
}

/* What accesses memory without saying so. */
static void implicit(void) {
    u64 rsp;
    __asm__ volatile("mov %%rsp, %0" : "=r"(rsp));
    WRITE_DR(1, (rsp & ~15ull) - 0x208);
    arm(control(1, WRITE, 8, false));
    __asm__ volatile(
        "mov %%rsp, %%rcx\n lea -0x200(%0), %%rsp\n push %%rax\n mov %%rcx, %%rsp" ::"r"(rsp &
                                                                                         ~15ull)
        : "rcx", "memory");
    CHECK_EQ(hit_count, 1);
    arm(control(1, WRITE, 8, false));
    __asm__ volatile(
        "mov %%rsp, %%rcx\n lea -0x200(%0), %%rsp\n call 1f\n1: mov %%rcx, %%rsp" ::"r"(rsp &
                                                                                        ~15ull)
        : "rcx", "memory");
    CHECK_EQ(hit_count, 1);
    arm(control(1, WRITE, 8, false));
    __asm__ volatile(
        "mov %%rsp, %%rcx\n lea -0x208(%0), %%rsp\n pop %%rax\n mov %%rcx, %%rsp" ::"r"(rsp &
                                                                                        ~15ull)
        : "rax", "rcx", "memory");
    CHECK_EQ(hit_count, 0);
    WRITE_DR(1, (u64)area + 64 + 12);
    arm(control(1, WRITE, 1, false));
    __asm__ volatile("movups %%xmm0, (%0)\n nop" ::"r"(area + 64) : "memory");
    CHECK_EQ(hit_count, 1);
    arm(control(1, ANY, 1, false));
    __asm__ volatile("fninit\n fldt (%0)\n fstp %%st(0)" ::"r"(area + 64 + 8));
    CHECK_EQ(hit_count, 1);
    disarm();
}

/* --- REP, RF -----------------------------------------------------------------------------------
 */

__asm__(".globl rep_at, rep_end, nops_at, twice\n"
        "rep_code:\n"
        "rep_at: rep stosb\n"
        "rep_end: nop\n"
        "    ret\n"
        "nops:\n"
        "nops_at: nop\n"
        "    dec %ecx\n"
        "    jnz nops_at\n"
        "    ret\n");
void rep_code(void);
void nops(void);
extern char rep_at[], rep_end[], nops_at[];

static void rep_stos(u8 *to, u64 count) {
    __asm__ volatile("call rep_code" : "+D"(to), "+c"(count) : "a"(0) : "memory");
}

static void strings(void) {
    /* a trap between two iterations has RF set, behind the last one not (17.3.1.1) */
    WRITE_DR(0, (u64)area + 2);
    arm(control(0, WRITE, 1, false));
    rep_stos(area, 6);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)rep_at);
    CHECK_EQ(hits[0].flags & RF, RF);
    arm(control(0, WRITE, 1, false));
    rep_stos(area, 3);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)rep_end);
    CHECK_EQ(hits[0].flags & RF, 0);
    /* an instruction breakpoint strikes once for all iterations */
    WRITE_DR(0, rep_at);
    arm(control(0, EXEC, 1, false));
    rep_stos(area, 6);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)rep_at);
    disarm();
}

static void resume(void) {
    u64 n = 3;
    WRITE_DR(0, nops_at);
    arm(control(0, EXEC, 1, false)); /* RF covers one execution: each time round strikes */
    __asm__ volatile("call nops" : "+c"(n)::"memory", "cc");
    CHECK_EQ(hit_count, 3);
    n = 1;
    arm(control(0, EXEC, 1, false));
    limit = 4; /* RF only at the fourth: the same one strikes until then */
    __asm__ volatile("call nops" : "+c"(n)::"memory", "cc");
    CHECK_EQ(hit_count, 4);
    CHECK_EQ(hits[3].rip, (u64)nops_at);
    disarm();
    /* POPF cannot set RF */
    u64 flags;
    __asm__ volatile("pushf\n orl $0x10000, (%%rsp)\n popf\n pushf\n pop %0" : "=r"(flags));
    CHECK_EQ(flags & RF, 0);
}

/* --- MOV SS ------------------------------------------------------------------------------------
 */

__asm__(".globl ss_after, ss_next, ss_int, ss_back\n"
        "ss_data: mov (%rdi), %ss\n" /* its data breakpoint waits for the next instruction */
        "ss_after: nop\n"
        "ss_next: nop\n    ret\n"
        "ss_trap: mov (%rdi), %ss\n"
        "ss_int: int $0x70\n"
        "ss_back: ret\n");
void ss_data(void);
void ss_trap(void);
extern char ss_next[], isr_stubs[];
static u16 ss_value = 0x10;
static volatile u32 ints;

static void on_int(struct frame *f) {
    (void)f;
    ints++;
}

static void stack_segment(void) {
    WRITE_DR(0, &ss_value);
    arm(control(0, ANY, 2, false));
    __asm__ volatile("call ss_data" ::"D"(&ss_value) : "memory");
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)ss_next);
    CHECK_EQ(hits[0].dr6 & 0xf, 1);
    /* with INT n as the next instruction: at its handler's first one */
    irq_handler(0x70, on_int);
    ints = 0;
    arm(control(0, ANY, 2, false));
    __asm__ volatile("call ss_trap" ::"D"(&ss_value) : "memory");
    disarm();
    CHECK_EQ(ints, 1);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, (u64)(isr_stubs + 0x70 * 16));
    CHECK_EQ(hits[0].cs, 8);
}

/* --- ports -------------------------------------------------------------------------------------
 */

static void ports(void) {
    u8 text[4] = {0};
    void *p = text;
    u64 n = 2;
    WRITE_CR(4, READ_CR(4) | DE);
    WRITE_DR(0, 0xe2);
    arm(control(0, IO, 2, false));
    (void)inb(0xe1);
    CHECK_EQ(hit_count, 0);
    (void)inb(0xe2);
    CHECK_EQ(hit_count, 1);
    (void)inw(0xe3);
    CHECK_EQ(hit_count, 2);
    (void)inw(0xe1);
    CHECK_EQ(hit_count, 3);
    (void)inl(0xe0);
    CHECK_EQ(hit_count, 4);
    outb(0xe3, 0);
    CHECK_EQ(hit_count, 5);
    outb(0xe4, 0);
    CHECK_EQ(hit_count, 5);
    arm(control(0, IO, 2, false));
    __asm__ volatile("rep outsb" : "+S"(p), "+c"(n) : "d"(0xe2) : "memory");
    CHECK_EQ(hit_count, 2);
    disarm();
    WRITE_CR(4, READ_CR(4) & ~(u64)DE);
}

/* --- single step -------------------------------------------------------------------------------
 */

enum { STAR = 0xc0000081, LSTAR, CSTAR, FMASK };
__asm__(".globl entry_syscall, entry_second\n"
        "entry_syscall: nop\n"
        "entry_second: nop\n    int $0x80\n");
extern char entry_syscall[], entry_second[];

static int user(const void *bytes, size_t size, u64 flags) {
    u8 *page = (u8 *)(*page_entry(CODE_VA) & 0x000ffffffffff000ull);
    struct user_context c = {CODE_VA, USER_CS,       2 | flags, 0x60000000 - 16,
                             USER_SS, CODE_VA + 128, 0};
    memcpy(page, bytes, size);
    hit_count = 0;
    return run_user_context(&c);
}

static void steps(void) {
    tss_load();
    map_user(CODE_VA, "\x90", 1);
    wrmsr(STAR, (u64)0x23 << 48 | (u64)0x08 << 32);
    wrmsr(LSTAR, (u64)entry_syscall);
    /* SYSCALL takes TF away by its mask: not one step of the kernel's */
    wrmsr(FMASK, TF);
    CHECK_EQ(user("\x90\x0f\x05", 3, TF), EXIT_USER);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, CODE_VA + 1);
    /* from CPL 3: every instruction; INT n does not step into its handler */
    CHECK_EQ(user("\x90\x90\xcd\x80", 4, TF), EXIT_USER);
    CHECK_EQ(hit_count, 2);
    CHECK_EQ(hits[1].rip, CODE_VA + 2);
    CHECK_EQ(hits[1].dr6 & (BS | 0xf), BS);
    CHECK_EQ(hits[1].cs, USER_CS);
    CHECK_EQ(last_frame.rflags & TF, TF);
    /* REP STOSB with RCX 3, by steps: two with RF, one without */
    CHECK_EQ(user("\xb1\x03\xf3\xaa\xcd\x80", 6, TF), EXIT_USER);
    CHECK_EQ(hit_count, 4);
    CHECK_EQ(hits[1].rip, CODE_VA + 2);
    CHECK_EQ(hits[1].flags & RF, RF);
    CHECK_EQ(hits[2].flags & RF, RF);
    CHECK_EQ(hits[3].rip, CODE_VA + 4);
    CHECK_EQ(hits[3].flags & RF, 0);
    /* ICEBP: a trap without a bit in DR6 */
    CHECK_EQ(user("\xf1\xcd\x80", 3, 0), EXIT_USER);
    CHECK_EQ(hit_count, 1);
    CHECK_EQ(hits[0].rip, CODE_VA + 1);
    CHECK_EQ(hits[0].dr6 & (BS | BD | 0xf), 0);
    /* a faulting instruction has not completed: no step */
    CHECK_EQ(user("\x0f\x0b", 2, TF), 6);
    CHECK_EQ(hit_count, 0);
    CHECK_EQ(last_frame.rflags & (TF | RF), TF | RF);
    /* POPF that sets TF: the step comes behind the next instruction */
    CHECK_EQ(user("\x68\x02\x01\x00\x00\x9d\x90\x90\xcd\x80", 10, 0), EXIT_USER);
    CHECK_EQ(hits[0].rip, CODE_VA + 7);
    CHECK_EQ(hit_count, 2);
    /* POPF that clears it: one more */
    CHECK_EQ(user("\x68\x02\x00\x00\x00\x9d\x90\xcd\x80", 9, TF), EXIT_USER);
    CHECK_EQ(hit_count, 2);
    CHECK_EQ(hits[1].rip, CODE_VA + 6);
}

/* --- general detect ----------------------------------------------------------------------------
 */

__asm__(".globl gd_read, gd_write\n"
        "gd: \n"
        "gd_read: mov %dr0, %rax\n"
        "    ret\n");
void gd(void);
extern char gd_read[];

static void general_detect(void) {
    arm(GD);
    __asm__ volatile("call gd" ::: "rax");
    CHECK_EQ(hit_count, 1); /* the handler's own accesses are free: GD is clear there */
    CHECK_EQ(hits[0].rip, (u64)gd_read); /* a fault */
    CHECK_EQ(hits[0].dr6 & (BS | BD | 0xf), BD);
    CHECK_EQ(hits[0].dr7 & GD, 0);
    CHECK_EQ(READ_DR(7) & GD, 0);
    disarm();
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    irq_handler(1, on_debug);
    data();
    several();
    implicit();
    strings();
    resume();
    stack_segment();
    ports();
    general_detect();
    steps();
}
