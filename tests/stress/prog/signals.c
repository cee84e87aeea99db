/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals in tight loops: asynchronous ones must find and leave registers, flags, vector and x87
 * state as they were; synchronous ones must report exactly where and with which registers.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <immintrin.h>
#include <setjmp.h>
#include <sys/time.h>

static _Atomic u64 rounds, signals_seen;

/* --- asynchronous
 * --------------------------------------------------------------------------------- */

static void on_alarm(int sig, siginfo_t *info, void *ctx) {
    (void)sig;
    (void)info;
    (void)ctx;
    signals_seen++;
    /* spoil what the kernel has to give back */
    __asm__ volatile("pxor %%xmm0, %%xmm0; pcmpeqd %%xmm7, %%xmm7; pxor %%xmm15, %%xmm15; fninit; "
                     "fld1; std; cld; stc" ::
                         : "xmm0", "xmm7", "xmm15", "cc");
}

/* Counts with carry kept over the loop; all registers hold known values. */
static void register_loop(u64 seed) {
    u64 v[12], sum = 0;
    for (u32 i = 0; i < 12; i++) {
        v[i] = rnd_step(&seed);
    }
    __asm__ volatile(
        "push %%rbp\n\t"
        "mov 0(%%rsi), %%rax; mov 8(%%rsi), %%rbx; mov 16(%%rsi), %%rdx; mov 24(%%rsi), %%r8\n\t"
        "mov 32(%%rsi), %%r9; mov 40(%%rsi), %%r10; mov 48(%%rsi), %%r11; mov 56(%%rsi), %%r12\n\t"
        "mov 64(%%rsi), %%r13; mov 72(%%rsi), %%r14; mov 80(%%rsi), %%r15; mov 88(%%rsi), %%rbp\n\t"
        "mov $3000, %%ecx\n\t"
        "stc\n"
        "1:\n\t"
        "inc %%rax; inc %%r13; lea 1(%%r14), %%r14; dec %%r14\n\t" /* all keep CF */
        "jnc 2f\n\t"
        "lea (%%rdi,%%rbx), %%rdi; not %%r15; not %%r15\n\t"
        "mov (%%rsi), %%r8; movq 24(%%rsi), %%r8\n\t"
        "dec %%ecx\n\t"
        "jnz 1b\n\t"
        "jmp 3f\n"
        "2:\n\t"
        "mov $-1, %%rdi\n"
        "3:\n\t"
        "sub 0(%%rsi), %%rax; sub 64(%%rsi), %%r13; sub %%r13, %%rax; or %%rax, %%rdi\n\t"
        "cmp 8(%%rsi), %%rbx; jne 2b; cmp 16(%%rsi), %%rdx; jne 2b; cmp 24(%%rsi), %%r8; jne 2b\n\t"
        "cmp 32(%%rsi), %%r9; jne 2b; cmp 40(%%rsi), %%r10; jne 2b; cmp 48(%%rsi), %%r11; jne "
        "2b\n\t"
        "cmp 56(%%rsi), %%r12; jne 2b; cmp 72(%%rsi), %%r14; jne 2b; cmp 80(%%rsi), %%r15; jne "
        "2b\n\t"
        "cmp 88(%%rsi), %%rbp; jne 2b\n\t"
        "pop %%rbp\n\t"
        : "+D"(sum)
        : "S"(v)
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc",
          "memory");
    CHECK_EQ(sum, 3000 * v[1]);
}

static void float_loop(u64 seed) {
    double x = (double)(seed % 1000) + 0.5;
    long double y = (long double)x;
    double want = x;
    for (u32 i = 0; i < 400; i++) {
        x = x * 1.000001 + 0.25;
        y = y + 0.125L;
    }
    for (u32 i = 0; i < 400; i++) {
        want = want * 1.000001 + 0.25;
    }
    CHECK(x == want);
    CHECK(y == (long double)(seed % 1000) + 0.5L + 50.0L);
}

__attribute__((target("avx2"))) static void avx_loop(u64 seed) {
    __m256i a = _mm256_set1_epi64x((long long)seed), one = _mm256_set1_epi64x(1), b = a;
    for (u32 i = 0; i < 1000; i++) {
        b = _mm256_add_epi64(b, one);
        __asm__ volatile("" : "+x"(b), "+x"(one));
    }
    u64 out[4];
    _mm256_storeu_si256((__m256i *)(void *)out, b);
    for (u32 i = 0; i < 4; i++) {
        CHECK_EQ(out[i], seed + 1000);
    }
}

static void asynchronous(u64 end) {
    struct itimerval t = {.it_interval = {0, 1000}, .it_value = {0, 1000}};
    bool avx = __builtin_cpu_supports("avx2");
    u64 seed = rnd_seed();
    on_signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &t, NULL);
    while (now_ns() < end && !stress_bad) {
        register_loop(rnd_step(&seed));
        float_loop(rnd_step(&seed) >> 1);
        if (avx) {
            avx_loop(rnd_step(&seed));
        }
        rounds++;
    }
    memset(&t, 0, sizeof(t));
    setitimer(ITIMER_REAL, &t, NULL);
    CHECK(signals_seen > 0);
}

/* --- signals to oneself and to a thread
 * ------------------------------------------------------------ */

static atomic_bool quit;
static atomic_uint caught;

static void on_usr1(int sig, siginfo_t *info, void *ctx) {
    (void)sig;
    (void)info;
    (void)ctx;
    caught++;
}

static void *victim(void *arg) {
    u64 seed = (u64)(uintptr_t)arg;
    while (!quit && !stress_bad) {
        register_loop(rnd_step(&seed));
        float_loop(rnd_step(&seed) >> 1);
    }
    return NULL;
}

static void storm(u64 end) {
    pthread_t t[2];
    on_signal(SIGUSR1, on_usr1);
    on_signal(SIGUSR2, on_alarm);
    for (u32 i = 0; i < 2; i++) {
        t[i] = start(victim, (void *)(uintptr_t)(i + 1));
    }
    u32 raised = 0;
    while (now_ns() < end && !stress_bad) {
        pthread_kill(t[raised & 1], SIGUSR2);
        raise(SIGUSR1);
        CHECK_EQ(caught, ++raised);
        rounds++;
    }
    quit = true;
    for (u32 i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
    }
}

/* --- synchronous
 * ------------------------------------------------------------------------------------ */

static struct {
    int sig;
    u64 rip, addr, gpr[16];
} fault;
static u8 *code, *forbidden;

enum { FRAME_REGS = 13 };
static const u8 frame_reg[FRAME_REGS] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RBP,
                                         REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12,
                                         REG_R13, REG_R14, REG_R15};
static u64 frame_want[FRAME_REGS];

/* Goes on at the RET that ends the code. */
static void on_fault(int sig, siginfo_t *info, void *ctx) {
    ucontext_t *u = ctx;
    fault.sig = sig;
    fault.rip = (u64)u->uc_mcontext.gregs[REG_RIP];
    fault.addr = (u64)(uintptr_t)info->si_addr;
    for (u32 i = 0; i < FRAME_REGS; i++) {
        fault.gpr[i] = (u64)u->uc_mcontext.gregs[frame_reg[i]];
    }
    if (fault.rip - (u64)(uintptr_t)code >= PAGE) {
        _exit(3);
    }
    u->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(code + PAGE - 1);
}

struct bad_insn {
    int sig;
    u8 bytes[12];
    u8 len;
    bool memory; /* at RSI */
};

static const struct bad_insn bad_insns[] = {
    {SIGSEGV, {0x48, 0x8b, 0x06}, 3, true},             /* mov rax, [rsi] */
    {SIGSEGV, {0x4c, 0x89, 0x2e}, 3, true},             /* mov [rsi], r13 */
    {SIGSEGV, {0xf0, 0x4c, 0x0f, 0xc1, 0x3e}, 5, true}, /* lock xadd [rsi], r15 */
    {SIGSEGV, {0x48, 0x87, 0x1e}, 3, true},             /* xchg [rsi], rbx */
    {SIGSEGV, {0xff, 0x36}, 2, true},                   /* push [rsi] */
    {SIGSEGV, {0x8f, 0x06}, 2, true},                   /* pop [rsi] */
    {SIGSEGV, {0xf3, 0x0f, 0x6f, 0x06}, 4, true},       /* movdqu xmm0, [rsi] */
    {SIGSEGV, {0xdd, 0x06}, 2, true},                   /* fld qword [rsi] */
    {SIGSEGV, {0x4c, 0x0f, 0xb1, 0x36}, 4, true},       /* cmpxchg [rsi], r14 */
    {SIGSEGV, {0x48, 0x0f, 0xa4, 0x16, 0x05}, 5, true}, /* shld [rsi], rdx, 5 */
    {SIGILL, {0x0f, 0x0b}, 2, false},                   /* ud2 */
    {SIGFPE,
     {0x31, 0xd2, 0x31, 0xc9, 0xf7, 0xf1},
     6,
     false},                                 /* xor edx,edx; xor ecx,ecx; div ecx */
    {SIGSEGV, {0xf4}, 1, false},             /* hlt */
    {SIGSEGV, {0x0f, 0x20, 0xc0}, 3, false}, /* mov rax, cr0 */
};

/* Random harmless instructions in front: inc, dec, not, neg, add reg, imm8 of known registers. */
static u32 put_noise(u64 *seed, u8 *w, u32 count) {
    u32 len = 0;
    for (u32 k = 0; k < count; k++) {
        u64 r = rnd_step(seed);
        u32 index = (u32)(r % FRAME_REGS);
        static const u8 number[FRAME_REGS] = {0, 3, 1, 2, 5, 8, 9, 10, 11, 12, 13, 14, 15};
        u32 reg = number[index];
        u8 imm = (u8)(r >> 8);
        w[len++] = (u8)(0x48 | reg >> 3);
        w[len++] = 0x83;
        bool add = r >> 16 & 1;
        w[len++] = (u8)((add ? 0xc0 : 0xf0) | (reg & 7)); /* add or xor */
        w[len++] = imm;
        u64 v = (u64)(s64)(int8_t)imm;
        frame_want[index] = add ? frame_want[index] + v : frame_want[index] ^ v;
    }
    return len;
}

static void call_with_registers(const u64 *in, u64 rsi) {
    __asm__ volatile(
        "push %%rbp; push %%rbx\n\t"
        "mov 8(%%rdi), %%rbx; mov 16(%%rdi), %%rcx; mov 24(%%rdi), %%rdx; mov 32(%%rdi), %%rbp\n\t"
        "mov 40(%%rdi), %%r8; mov 48(%%rdi), %%r9; mov 56(%%rdi), %%r10; mov 64(%%rdi), %%r11\n\t"
        "mov 72(%%rdi), %%r12; mov 80(%%rdi), %%r13; mov 88(%%rdi), %%r14; mov 96(%%rdi), %%r15\n\t"
        "push %%rax; mov %%rsp, %%rax; lea -256(%%rsp), %%rsp; push %%rax\n\t"
        "lea 1f(%%rip), %%rax; push %%rax; lea -0(%%rsp), %%rsp\n\t"
        "mov 104(%%rdi), %%rax; push %%rax; mov (%%rdi), %%rax\n\t"
        "ret\n" /* to the code, whose ret comes to 1 */
        "1:\n\t"
        "pop %%rsp; pop %%rax; pop %%rbx; pop %%rbp\n\t"
        :
        : "D"(in), "S"(rsi)
        : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc",
          "memory");
}

static void fault_once(u64 *seed) {
    u64 in[FRAME_REGS + 1];
    const struct bad_insn *b =
        &bad_insns[rnd_step(seed) % (sizeof(bad_insns) / sizeof(*bad_insns))];
    for (u32 i = 0; i < FRAME_REGS; i++) {
        in[i] = rnd_step(seed);
    }
    in[FRAME_REGS] = (u64)(uintptr_t)(code + rnd_step(seed) % 1500);
    u64 expected[FRAME_REGS];
    u64 insn_seed = *seed;
    u32 runs = rnd_step(seed) % 4 ? 2 : 40;
    for (u32 run = 0; run < runs && !stress_bad; run++) {
        u64 again = insn_seed;
        u8 *w = (u8 *)(uintptr_t)in[FRAME_REGS];
        memcpy(frame_want, in, sizeof(frame_want));
        u8 bytes[256];
        u32 len = put_noise(&again, bytes, (u32)(insn_seed >> 40) % 24);
        memcpy(bytes + len, b->bytes, b->len);
        u32 total = len + b->len;
        u32 rip = b->sig == SIGFPE ? total - 2 : len;
        total += put_noise(&again, bytes + total, 3);
        memcpy(frame_want, in, sizeof(frame_want)); /* what stands before the bad one */
        again = insn_seed;
        put_noise(&again, bytes + 220, 0);
        u8 scratch[256];
        put_noise(&again, scratch, (u32)(insn_seed >> 40) % 24);
        if (b->sig == SIGFPE) {
            frame_want[2] = frame_want[3] = 0;
        }
        memcpy(expected, frame_want, sizeof(expected));
        if (run == 0) {
            memcpy(w, bytes, total);
            w[total] = 0xc3;
        }
        u64 addr = (u64)(uintptr_t)forbidden + (rnd_step(seed) & 0xff8);
        memset(&fault, 0, sizeof(fault));
        call_with_registers(in, addr);
        CHECK_EQ(fault.sig, b->sig);
        CHECK_EQ(fault.rip, in[FRAME_REGS] + rip);
        if (b->memory) {
            CHECK_EQ(fault.addr, addr);
        }
        for (u32 i = 0; i < FRAME_REGS; i++) {
            if (fault.gpr[i] != expected[i]) {
                BAD("register %u at %s is %#llx, not %#llx", frame_reg[i], strsignal(b->sig),
                    (unsigned long long)fault.gpr[i], (unsigned long long)expected[i]);
            }
        }
        rounds++;
    }
}

static void synchronous(u64 end) {
    u64 seed = rnd_seed() + 7;
    code = map_pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
    code[PAGE - 1] = 0xc3;
    forbidden = map_pages(1, PROT_NONE);
    on_signal(SIGSEGV, on_fault);
    on_signal(SIGILL, on_fault);
    on_signal(SIGFPE, on_fault);
    while (now_ns() < end && !stress_bad) {
        fault_once(&seed);
    }
}

int main(void) {
    stress_begin();
    asynchronous(stress_share(0.4));
    storm(stress_share(0.5));
    synchronous(stress_end);
    return stress_done("signals", rounds);
}
