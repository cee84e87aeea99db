/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random programs against the real processor: dozens of instructions of all families in sequence,
 * with jumps, loops, memory operands and faults, in 64-bit mode, and through compatibility segments
 * in 32-bit and 16-bit mode (flat segments, and segments of the LDT with a base and a short limit).
 *
 * Both sides run the program at CPL 3 until something traps, at the latest the INT3 at its end;
 * then vector, RIP, general registers, flags, XMM and YMM registers and memory must be the same.
 * usage: soft_run_test [--programs N] [--seed N]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <asm/ldt.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "core/cpu/decode.h"
#include "tests/unit/lib_native.h"
#include "tests/unit/soft_machine.h"
#include "tests/unit/soft_run_forms.h"

/* clang-format off */
enum { RAM_BYTES = 0x8000, GUEST_RAM = 0x180000, GUEST_CODE = 0x190000, CODE_AT = 0x100, LIMIT = 0x7fff };
enum { XS_MXCSR = 24, XS_XMM = 160, XS_BV = 512, XS_YMMH = 576 };
/* clang-format on */

/* No value that random registers are likely to have; the code below names it. */
#define PLACE 0x2a5f1000ull

enum side { SIDE_64, SIDE_32, SIDE_32_LDT, SIDE_16, SIDES };

/* Places that the entry and exit code name. */
struct place {
    u8 xsave[1024] ALIGNED(64);
    u64 gpr[16];
    u64 frame[5]; /* RIP, CS, RFLAGS, RSP, SS */
    u64 host_rsp;
    u64 ds, es;
    u32 mxcsr;
};

_Static_assert(offsetof(struct place, gpr) == 1024 && offsetof(struct place, frame) == 1152 &&
                   offsetof(struct place, host_rsp) == 1192 && offsetof(struct place, ds) == 1200 &&
                   offsetof(struct place, mxcsr) == 1216,
               "the code below names these offsets");

/* clang-format off */
__asm__(
    ".pushsection .text\n"
    ".globl enter_native, leave_native\n"
    ".hidden enter_native, leave_native\n"
    "enter_native:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov $0x2a5f1000, %edi\n"
    "mov %rsp, 1192(%rdi)\n"
    "stmxcsr 1216(%rdi)\n"
    "mov $7, %eax\n xor %edx, %edx\n xrstor64 (%rdi)\n"
    "mov 1200(%rdi), %ds\n mov 1208(%rdi), %es\n"
    "mov 1056(%rdi), %rsp\n"
    "lea 1152(%rdi), %rsp\n"
    "mov 1024(%rdi), %rax\n mov 1032(%rdi), %rcx\n mov 1040(%rdi), %rdx\n mov 1048(%rdi), %rbx\n"
    "mov 1064(%rdi), %rbp\n mov 1072(%rdi), %rsi\n"
    "mov 1088(%rdi), %r8\n mov 1096(%rdi), %r9\n mov 1104(%rdi), %r10\n mov 1112(%rdi), %r11\n"
    "mov 1120(%rdi), %r12\n mov 1128(%rdi), %r13\n mov 1136(%rdi), %r14\n mov 1144(%rdi), %r15\n"
    "mov 1080(%rdi), %rdi\n"
    "iretq\n"
    "leave_native:\n"
    "cld\n"
    "xor %eax, %eax\n mov %eax, %ds\n mov %eax, %es\n"
    "fninit\n vzeroupper\n ldmxcsr 0x2a5f1000+1216\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
    "ret\n"
    ".popsection\n");
/* clang-format on */

void enter_native(void);
void leave_native(void);

struct result {
    u32 vector, error;
    u64 cr2, rip, flags, gpr[16];
    u8 xmm[256], ymmh[256];
};

static struct sm *m;
static struct place *place;
static struct result native, guest;
static volatile sig_atomic_t armed, timed_out;
static u64 seed = 0x5eed;
static u32 programs = 1500;

static u64 rnd(void) {
    return native_random(&seed);
}
static u64 below(u64 n) {
    return rnd() % n;
}

/* --- the native side ---------------------------------------------------------------------------
 */

static const u8 gpr_of_greg[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGPROF};
static struct sigaction kept[ARRAY_LEN(signals)]; /* the host's, which serve the engine */

static void on_signal(int sig, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    u8 *fp = (u8 *)uc->uc_mcontext.fpregs;
    u64 bv;
    if (!armed) { /* the engine's own, or a bug */
        for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
            if (signals[i] == sig && (kept[i].sa_flags & SA_SIGINFO)) {
                kept[i].sa_sigaction(sig, info, context);
                return;
            }
        }
        if (sig != SIGPROF) {
            signal(sig, SIG_DFL);
        }
        return;
    }
    armed = 0;
    timed_out = sig == SIGPROF;
    native = (struct result){.vector = (u32)g[REG_TRAPNO],
                             .error = (u32)g[REG_ERR],
                             .cr2 = (u64)g[REG_CR2],
                             .rip = (u64)g[REG_RIP],
                             .flags = (u64)g[REG_EFL]};
    for (u32 i = 0; i < 16; i++) {
        native.gpr[i] = (u64)g[gpr_of_greg[i]];
    }
    memcpy(&bv, fp + XS_BV, 8);
    memcpy(native.xmm, fp + XS_XMM, 256);
    if (bv & 4) {
        memcpy(native.ymmh, fp + XS_YMMH, 256);
    }
    g[REG_RIP] = (greg_t)(uintptr_t)leave_native;
    g[REG_RSP] = (greg_t)place->host_rsp;
    g[REG_CSGSFS] = (greg_t)(0x33 | 0x2bull << 48);
    g[REG_EFL] = 0x202;
}

/* Processor time: on a busy host programs would be stopped, or this function, before they end. */
static void run_native(void) {
    struct itimerval limit = {.it_value = {.tv_usec = 50000}}, none = {{0}};
    setitimer(ITIMER_PROF, &limit, NULL);
    armed = 1;
    enter_native();
    setitimer(ITIMER_PROF, &none, NULL);
}

static bool ldt_entry(u32 n, u32 base, bool code, bool wide) {
    struct user_desc d = {.entry_number = n,
                          .base_addr = base,
                          .limit = LIMIT,
                          .seg_32bit = wide,
                          .contents = code ? 2 : 0,
                          .useable = 1};
    return syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) == 0;
}

/* What the segments of each side are, natively (LDT entries 0..4) and so in the guest. */
struct view {
    u8 bits;
    bool ldt;
    u16 cs, data;
    u32 cs_attr, data_attr, cs_base, data_base;
};
static const struct view views[SIDES] = {
    [SIDE_64] = {64, false, 0x33, 0x2b, 0xa0fb, 0xc0f3, 0, 0},
    [SIDE_32] = {32, false, 0x23, 0x2b, 0xc0fb, 0xc0f3, 0, 0},
    [SIDE_32_LDT] = {32, true, 0x07, 0x0f, 0x40fb, 0x40f3, NATIVE_CODE, NATIVE_RAM},
    [SIDE_16] = {16, true, 0x17, 0x1f, 0x00fb, 0x00f3, NATIVE_CODE, NATIVE_RAM},
};

static void *map_at(u64 address, u64 size, int prot) {
    void *p = mmap((void *)address, size, prot,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
    return p == (void *)address ? p : NULL;
}

static bool native_begin_all(void) {
    place = map_at(PLACE, 4096, PROT_READ | PROT_WRITE);
    return place && map_at(NATIVE_CODE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) &&
           map_at(NATIVE_RAM, RAM_BYTES, PROT_READ | PROT_WRITE) &&
           map_at(NATIVE_RAM + RAM_BYTES, 4096, PROT_NONE) &&
           ldt_entry(0, NATIVE_CODE, true, true) && ldt_entry(1, NATIVE_RAM, false, true) &&
           ldt_entry(2, NATIVE_CODE, true, false) && ldt_entry(3, NATIVE_RAM, false, false);
}

static void signals_use(void) {
    static u8 stack[1 << 16];
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
    sigaltstack(&ss, NULL);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], &sa, NULL);
    }
}

/* --- the guest ---------------------------------------------------------------------------------
 */

static void map_guest(void) {
    u64 pd = SM_PT + 0x2000, pt_ram = 0x100000, pt_code = 0x101000;
    sm_setup(m, SM_LONG, 3);
    sm_put(m, SM_PT + 0x2000, 8, 0x83); /* what the native side has not must fault for CPL 3 */
    sm_put(m, SM_PT + 0x2008, 8, 0x200083);
    sm_put(m, pd + (NATIVE_RAM >> 21) * 8, 8, pt_ram | 7);
    sm_put(m, pd + (NATIVE_CODE >> 21) * 8, 8, pt_code | 7);
    for (u64 i = 0; i < RAM_BYTES / 4096; i++) {
        sm_put(m, pt_ram + i * 8, 8, (GUEST_RAM + i * 4096) | 7);
    }
    sm_put(m, pt_code, 8, GUEST_CODE | 7);
    for (u32 v = 0; v < 32; v++) {
        sm_idt(m, (u8)v, SEL_CS64, SM_HANDLER + v * 16, v == 3 || v == 4 ? 0xee : 0x8e, 1);
    }
    m->s.idtr.limit = 32 * 16 - 1;
}

static void seg_null(u8 seg) {
    m->s.seg[seg] = (struct segment){.attr = SEG_ATTR_UNUSABLE};
}

static void run_guest(const struct view *v) {
    struct cpu_state *s = &m->s;
    memcpy(s->gpr, place->gpr, sizeof(s->gpr));
    s->rip = place->frame[0];
    s->gpr[GPR_RSP] = place->frame[3];
    s->rflags = place->frame[2];
    if (v->bits == 16) { /* IRET loads only SP there: the upper half is what it was */
        s->gpr[GPR_RSP] |= PLACE & 0xffff0000;
    }
    u32 limit = v->ldt ? LIMIT : UINT32_MAX;
    for (u32 i = 0; i < SEG_COUNT; i++) {
        s->seg[i] = (struct segment){
            .sel = v->data, .attr = v->data_attr, .limit = limit, .base = v->data_base};
    }
    s->seg[SEG_CS] =
        (struct segment){.sel = v->cs, .attr = v->cs_attr, .limit = limit, .base = v->cs_base};
    seg_null(SEG_FS);
    seg_null(SEG_GS);
    s->cr2 = 0;
    s->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    s->xcr0 = 7;
    memcpy(s->xsave, place->xsave, 1024);
    sm_run(m);
    guest = (struct result){.vector = (u32)sm_vector(m), .cr2 = s->cr2};
    bool error = guest.vector == 8 || (guest.vector >= 10 && guest.vector <= 14);
    u32 at = error ? 1 : 0;
    guest.error = error ? (u32)sm_frame(m, 0, 8) : 0;
    guest.rip = sm_frame(m, at, 8);
    guest.flags = sm_frame(m, at + 2, 8);
    memcpy(guest.gpr, s->gpr, sizeof(guest.gpr));
    guest.gpr[GPR_RSP] = sm_frame(m, at + 3, 8);
    memcpy(guest.xmm, s->xsave + XS_XMM, 256);
    memcpy(guest.ymmh, s->xsave + XS_YMMH, 256);
}

/* --- programs ----------------------------------------------------------------------------------
 */

static u32 hex_digit(char c) {
    return (u32)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static u8 hex_byte(const char *p) {
    return (u8)(hex_digit(p[0]) << 4 | hex_digit(p[1]));
}

static u64 value(void) {
    switch (below(5)) {
    case 0:
        return below(70);
    case 1:
        return (u64)-below(70);
    case 2:
        return BIT(below(64)) - below(3);
    default:
        return rnd();
    }
}

/* ModRM, SIB and displacement of a memory or register operand; the addresses follow from the
 * pointer registers: rbx rbp rsi rdi r12..r15. */
static void put_modrm(u8 *code, u32 *n, int reg, u32 addrsize, u32 bits) {
    u8 modrm = (u8)rnd(), sib = 0x20;
    if (reg >= 0) {
        modrm = (u8)((modrm & 0xc7) | reg << 3);
    }
    if ((modrm >> 3 & 7) == 3 && reg < 0) { /* rather not a pointer as the destination */
        modrm = (u8)(modrm & ~0x30);
    }
    if (modrm >> 6 == 3) {
        modrm = (u8)(below(4) ? (modrm & 0xf8) | below(3) : modrm);
        code[(*n)++] = modrm;
        return;
    }
    if (below(2)) {
        modrm &= 0x7f; /* short displacements */
    }
    if (addrsize != 2) {
        static const u8 bases[] = {3, 3, 5, 6, 7, 4};
        modrm = (u8)((modrm & 0xf8) | bases[below(6)]);
    }
    u32 rm = modrm & 7, mod = modrm >> 6;
    code[(*n)++] = modrm;
    if (addrsize != 2 && rm == 4) {
        static const u8 bases[] = {3, 6, 7, 4};
        sib = (u8)(0x20 | bases[below(4)]);
        code[(*n)++] = sib;
    }
    u32 disp = mod == 1 ? 1 : mod == 2 ? (addrsize == 2 ? 2 : 4) : 0;
    s32 v = (s32)below(100) - 50;
    if (mod == 0 && (addrsize == 2 ? rm == 6 : rm == 5)) {
        disp = addrsize == 2 ? 2 : 4;
        v = bits == 64 ? (s32)(NATIVE_RAM - NATIVE_CODE + below(0x2000)) : (s32)below(0x4000);
    }
    memcpy(code + *n, &v, disp);
    *n += disp;
}

static bool writes_pointer(const struct insn *i) {
    u32 written = 0;
    const u32 pointers =
        1 << GPR_RBX | 1 << GPR_RSP | 1 << GPR_RBP | 1 << GPR_RSI | 1 << GPR_RDI | 0xf000;
    for (u32 n = 0; n < i->operand_count; n++) {
        const struct insn_operand *op = &i->op[n];
        if (op->kind == OPERAND_REG && op->reg_class == REG_GPR && (op->flags & OPERAND_WRITE)) {
            written |= op->size == 1 && op->high_byte ? 1u << (op->reg & 3) : 1u << (op->reg & 15);
        }
    }
    return written & pointers;
}

static u32 generate(const struct view *v, u8 *code, struct insn *insn) {
    const char *form = forms[below(ARRAY_LEN(forms))];
    bool p66 = below(5) == 0, p67 = v->bits != 64 && below(8) == 0, wide = false;
    u32 n = 0;
    if (p67) {
        code[n++] = 0x67;
    }
    bool vex = !strncmp(form, "c5-", 3);
    if (p66 && !vex) {
        code[n++] = 0x66;
    }
    if (form[2] == '-') {
        code[n++] = hex_byte(form);
        p66 = p66 || !strncmp(form, "66-", 3);
        form += 3;
    }
    if (v->bits == 64 && !vex && below(2)) {
        wide = below(2);
        code[n++] = (u8)(0x40 | (wide ? 8 : 0) | below(8));
    }
    u32 addrsize = v->bits == 64 ? 8 : (v->bits == 16) != p67 ? 2 : 4;
    u32 opsize = (v->bits == 16) != p66 && !wide ? 2 : 4;
    while (*form) {
        if (*form != '%') {
            code[n++] = hex_byte(form);
            form += 2;
            continue;
        }
        char what = form[1];
        form += 2;
        if (what == 'r') {
            int reg = *form >= '0' && *form <= '7' ? *form++ - '0' : -1;
            put_modrm(code, &n, reg, addrsize, v->bits);
            continue;
        }
        u64 imm = below(3) ? value() : below(16);
        u32 size = what == 'b' ? 1 : what == 'w' ? 2 : opsize;
        imm &= what == 'w' ? 0x7f : UINT64_MAX;
        if (what == 'v' && (code[n - 1] & 0xf8) == 0xb8 && wide) {
            size = 8;
        }
        memcpy(code + n, &imm, size);
        n += size;
    }
    if (n > 15 || insn_decode(insn, code, n, v->bits) != DECODE_OK || insn->len != n) {
        return 0;
    }
    return writes_pointer(insn) && below(30) ? 0 : n;
}

/* A program: runs of instructions, jumps over some, a counted loop around others. */
static u32 program(const struct view *v, u8 *code) {
    u32 n = 0, want = 2 + (u32)below(24), loop = UINT32_MAX;
    for (u32 i = 0; i < want && n < 0x300; i++) {
        struct insn insn;
        u8 one[64];
        u32 len = generate(v, one, &insn);
        if (!len || (insn.cpuid & ~m->policy.features)) {
            i--;
            continue;
        }
        if (insn.flags & INSN_STRING && insn.prefixes & (PREFIX_REP | PREFIX_REPNE)) {
            static const u8 set16[] = {0xb9, 0, 0}, set32[] = {0xb9, 0, 0, 0, 0};
            bool two = v->bits == 16;
            memcpy(code + n, two ? set16 : set32, two ? 3 : 5); /* mov (e)cx, count */
            code[n + 1] = (u8)below(80);
            n += two ? 3 : 5;
        }
        if (below(6) == 0) { /* jcc over it */
            code[n++] = (u8)(0x70 | below(16));
            code[n++] = (u8)len;
        }
        memcpy(code + n, one, len);
        n += len;
        if (loop == UINT32_MAX && below(12) == 0) {
            loop = n;
        } else if (loop != UINT32_MAX && n - loop < 110 && below(8) == 0) {
            code[n] = (u8)(0xe0 + below(3)); /* loopcc, with a small count somewhere in cx */
            code[n + 1] = (u8)(loop - (n + 2));
            if (below(2)) { /* dec byte [somewhere]; jnz would need a fixed place */
                n += 2;
            }
            loop = UINT32_MAX;
        }
    }
    code[n++] = 0xcc;
    return n;
}

static void random_state(const struct view *v) {
    u64 base = v->ldt ? 0 : NATIVE_RAM;
    u8 *x = place->xsave;
    memset(x, 0, 1024);
    for (u32 i = 0; i < 16; i++) {
        place->gpr[i] = v->bits == 64 ? value() : (u32)value();
        if (i >= 12 || i == GPR_RBX || i == GPR_RBP || i == GPR_RSI || i == GPR_RDI) {
            place->gpr[i] = base + 0x1000 + below(RAM_BYTES - 0x2000);
            if (below(100) == 0) {
                place->gpr[i] = base + RAM_BYTES - below(40);
            }
            if (below(2)) {
                place->gpr[i] &= ~15ull;
            }
        }
        if (v->bits == 16 && (i == GPR_RSI || i == GPR_RDI)) {
            place->gpr[i] = below(0x2000);
        }
        if (v->bits != 64 && i >= 8) {
            place->gpr[i] = 0;
        }
    }
    place->gpr[GPR_RCX] = below(3) ? below(12) : place->gpr[GPR_RCX];
    u64 sp = base + 0x1000 + (below(RAM_BYTES - 0x2000) & ~7ull);
    u64 flags = 0x202 | (rnd() & FLAG_ARITH) | (below(4) ? 0 : FLAG_DF);
    place->frame[0] = (v->ldt ? 0 : NATIVE_CODE) + CODE_AT;
    place->frame[1] = v->cs;
    place->frame[2] = flags;
    place->frame[3] = sp;
    place->frame[4] = v->data;
    place->ds = place->es = v->data;
    x[0] = 0x7f;
    x[1] = 3;
    u32 mxcsr = 0x1f80;
    memcpy(x + XS_MXCSR, &mxcsr, 4);
    for (u32 i = 0; i < 256; i += 4) {
        float f = (float)(s32)rnd() / 1024;
        u32 r = (u32)rnd();
        memcpy(x + XS_XMM + i, below(2) ? (void *)&f : (void *)&r, 4);
        memcpy(x + XS_YMMH + i, &r, 4);
    }
    x[XS_BV] = 7;
}

/* --- comparison --------------------------------------------------------------------------------
 */

static void listing(const struct view *v, const u8 *code, u32 n) {
    u64 rip = place->frame[0];
    for (u32 at = 0; at < n;) {
        struct insn insn;
        char text[160];
        if (insn_decode(&insn, code + at, n - at, v->bits) != DECODE_OK) {
            break;
        }
        insn_format(&insn, rip + at, text, sizeof(text));
        print_error("    %llx:", (unsigned long long)(rip + at));
        for (u32 i = 0; i < insn.len; i++) {
            print_error(" %02x", code[at + i]);
        }
        print_error("  %s\n", text);
        at += insn.len;
    }
}

static bool differ(const char *what, u64 want, u64 got) {
    print_error("  %s: want %llx got %llx\n", what, (unsigned long long)want,
                (unsigned long long)got);
    return true;
}

static bool compare_memory(void) {
    const u8 *want = (const u8 *)NATIVE_RAM, *got = m->hram.hva + GUEST_RAM;
    for (u32 i = 0; i < RAM_BYTES; i++) {
        if (want[i] != got[i]) {
            print_error("  at %x:", i);
            return differ("memory", want[i], got[i]);
        }
    }
    return false;
}

/* A fault in the middle of POPA, PUSHA or ENTER: how much was loaded or stored is up to the
 * processor. */
static bool stopped_halfway(const struct view *v) {
    u64 at = native.rip - place->frame[0] + CODE_AT;
    struct insn insn;
    if (native.vector == EXC_BP || at >= 4080 ||
        insn_decode(&insn, (u8 *)NATIVE_CODE + at, 15, v->bits) != DECODE_OK) {
        return false;
    }
    return insn.id == INSN_POPA || insn.id == INSN_PUSHA || insn.id == INSN_ENTER;
}

static bool compare(const struct view *v) {
    bool bad = false, halfway = stopped_halfway(v);
    char name[8];
    /* An unaligned SSE operand may also lie beyond SS's limit: which comes first is up to the
     * processor. */
    bool either = native.vector == EXC_GP && guest.vector == EXC_SS;
    if (native.vector != guest.vector && !either) {
        bad = differ("vector", native.vector, guest.vector);
    }
    if (native.rip != guest.rip) {
        bad = differ("rip", native.rip, guest.rip);
    }
    if (native.vector == EXC_PF && native.cr2 != guest.cr2) {
        bad = differ("cr2", native.cr2, guest.cr2);
    }
    /* Translated, a fault's frame may show other arithmetic flags where the code was about to
     * overwrite them (docs/soft-engine.md). */
    bool loose = m->vm.translator.on && native.vector != EXC_BP;
    u64 flags = FLAG_DF | FLAG_TF | (loose ? 0 : FLAG_ARITH);
    if ((native.flags ^ guest.flags) & flags) {
        bad = differ("flags", native.flags, guest.flags);
    }
    for (u32 i = 0; i < (v->bits == 64 ? 16u : 8u) && !halfway; i++) {
        u64 mask = v->bits == 64 ? UINT64_MAX : UINT32_MAX;
        if ((native.gpr[i] ^ guest.gpr[i]) & mask) {
            snprintf(name, sizeof(name), "r%u", i);
            bad = differ(name, native.gpr[i], guest.gpr[i]);
        }
    }
    for (u32 i = 0; i < 16; i++) {
        u32 at = i * 16;
        if (memcmp(native.xmm + at, guest.xmm + at, 16)) {
            bad = differ("xmm", i, i);
        }
        if (memcmp(native.ymmh + at, guest.ymmh + at, 16)) {
            bad = differ("ymm", i, i);
        }
    }
    return (!halfway && compare_memory()) || bad;
}

static void renew_ram(void) {
    u64 *p = (u64 *)NATIVE_RAM;
    for (u32 i = 0; i < RAM_BYTES / 8; i++) {
        p[i] = value();
    }
    sm_bytes(m, GUEST_RAM, p, RAM_BYTES);
}

static void run_side(enum side side) {
    const struct view *v = &views[side];
    u8 *code = (u8 *)(NATIVE_CODE + CODE_AT);
    u32 vectors[32] = {0}, bad = 0;
    signals_use();
    renew_ram();
    for (u32 i = 0; i < programs && bad < 4; i++) {
        memset((u8 *)NATIVE_CODE, 0xcc, 4096);
        u32 n = program(v, code);
        random_state(v);
        sm_bytes(m, GUEST_CODE, (u8 *)NATIVE_CODE, 4096);
        run_native();
        if (timed_out) { /* it loops for ever */
            renew_ram();
            continue;
        }
        run_guest(v);
        vectors[native.vector & 31]++;
        if (compare(v)) {
            for (u32 r = 0; r < 16; r++) {
                print_error(" r%u=%llx", r, (unsigned long long)native.gpr[r]);
            }
            print_error("\nprogram %u of side %d: rsp %llx flags %llx rcx %llx\n", i, (int)side,
                        (unsigned long long)place->frame[3], (unsigned long long)place->frame[2],
                        (unsigned long long)place->gpr[1]);
            listing(v, code, n);
            bad++;
        }
        if (native.vector != 3 || bad || i % 16 == 0) {
            renew_ram();
        }
    }
    for (u32 i = 0; i < 32; i++) {
        if (vectors[i]) {
            print_message("  vector %u: %u\n", i, vectors[i]);
        }
    }
    assert_int_equal(bad, 0);
    assert_true(vectors[3] > programs / 20);
}

static void test_64(void **state) {
    (void)state;
    run_side(SIDE_64);
}
static void test_32(void **state) {
    (void)state;
    run_side(SIDE_32);
}
static void test_32_ldt(void **state) {
    (void)state;
    run_side(SIDE_32_LDT);
}
static void test_16(void **state) {
    (void)state;
    run_side(SIDE_16);
}

static int set_up(void **state) {
    (void)state;
    map_guest();
    return 0;
}

/* The sanitizers map memory where random pointers reach it. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_64, set_up, NULL),
        cmocka_unit_test_setup_teardown(test_32, set_up, NULL),
        cmocka_unit_test_setup_teardown(test_32_ldt, set_up, NULL),
        cmocka_unit_test_setup_teardown(test_16, set_up, NULL),
    };
    /* What decimal instructions and PUSH of segment registers leave open differs by vendor. */
    const struct CMUnitTest only_64[] = {
        cmocka_unit_test_setup_teardown(test_64, set_up, NULL),
    };
    u32 leaf[4];
    cpuid_host(0, 0, leaf);
    bool intel = leaf[1] == 0x756e6547;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--programs")) {
            programs = (u32)strtoul(argv[i + 1], NULL, 0);
        } else if (!strcmp(argv[i], "--seed")) {
            seed = strtoull(argv[i + 1], NULL, 0) | 1;
        }
    }
    volatile bool sanitized = SANITIZED; /* or the compiler sees that nothing below ever runs */
    if (sanitized) {
        fprintf(stderr, "programs are not compared under a sanitizer\n");
        return 77;
    }
    if (!native_begin_all()) {
        fprintf(stderr, "cannot map the places of the native side, or no modify_ldt\n");
        return 77;
    }
    m = sm_create();
    for (size_t n = 0; n < ARRAY_LEN(signals); n++) {
        sigaction(signals[n], NULL, &kept[n]);
    }
    if (!intel) {
        fprintf(stderr, "not an Intel processor: only 64-bit programs are compared\n");
    }
    return intel ? cmocka_run_group_tests(tests, NULL, NULL)
                 : cmocka_run_group_tests(only_64, NULL, NULL);
}
