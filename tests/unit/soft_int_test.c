/* SPDX-License-Identifier: Apache-2.0 */
/* Integer instructions of the software engine against the real processor: random registers, flags,
 * operands and encodings; results, flags, memory and faults must be the same. With --rate it
 * prints how many guest instructions run per second instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <time.h>

#include "core/cpu/decode.h"
#include "tests/unit/lib_native.h"
#include "tests/unit/soft_machine.h"

enum { RAM_BYTES = 0x4000, GUEST_RAM = 0x180000, GUEST_CODE = 0x190000, CASES = 600 };

static struct sm *m;
static struct native_state *native;
static u64 seed = 0x1234567;
static u32 failures, failed_form;
static u8 bits = 64;   /* of the code that is made */
static bool overrides; /* with segment prefixes */

static u64 rnd(void) {
    return native_random(&seed);
}
static u64 below(u64 n) {
    return rnd() % n;
}

/* --- set-up ------------------------------------------------------------------------------------
 */

/* Linear addresses of the native side, mapped to the guest's memory. Tables and code are read-only
 * (CR0.WP is set), but for the exceptions' stack: a program whose stack pointer went astray gets a
 * page fault. Could it change page tables, two machines would notice that at different times. */
static void map_places(void) {
    u64 pd = SM_PT + 0x2000, pt_ram = 0x100000, pt_code = 0x101000, pt_low = 0x102000;
    sm_put(m, pd, 8, pt_low | 7);
    for (u64 i = 0; i < 512; i++) {
        sm_put(m, pt_low + i * 8, 8, i << 12 | (i == (SM_IST1 - 1) >> 12 ? 3 : 1));
    }
    sm_put(m, pd + (NATIVE_RAM >> 21) * 8, 8, pt_ram | 7);
    sm_put(m, pd + (NATIVE_CODE >> 21) * 8, 8, pt_code | 7);
    for (u64 i = 0; i < RAM_BYTES / 4096; i++) {
        sm_put(m, pt_ram + i * 8, 8, (GUEST_RAM + i * 4096) | 7);
    }
    sm_put(m, pt_code, 8, GUEST_CODE | 5);
    for (u32 v = 0; v < 256; v++) {
        sm_idt(m, (u8)v, SEL_CS64, SM_HANDLER + v * 16, 0x8e, 1);
    }
}

static int set_up(void **state) {
    (void)state;
    m = sm_create();
    sm_setup(m, SM_LONG, 0);
    map_places();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sm_destroy(m);
    return 0;
}

/* --- random instructions -----------------------------------------------------------------------
 */

/* An opcode with what varies: %r ModRM, %b %w %v immediates of 1, 2 and operand size (at most 4)
 * bytes, %q a full one; digits behind %r fix reg. */
static const char *const forms[] = {
    "00%r",      "01%r",     "02%r",     "03%r",        "04%b",        "05%v",        "08%r",
    "09%r",      "0a%r",     "0b%r",     "0c%b",        "0d%v",        "10%r",        "11%r",
    "12%r",      "13%r",     "14%b",     "15%v",        "18%r",        "19%r",        "1a%r",
    "1b%r",      "1c%b",     "1d%v",     "20%r",        "21%r",        "22%r",        "23%r",
    "24%b",      "25%v",     "28%r",     "29%r",        "2a%r",        "2b%r",        "2c%b",
    "2d%v",      "30%r",     "31%r",     "32%r",        "33%r",        "34%b",        "35%v",
    "38%r",      "39%r",     "3a%r",     "3b%r",        "3c%b",        "3d%v",        "80%r%b",
    "81%r%v",    "83%r%b",   "84%r",     "85%r",        "86%r",        "87%r",        "88%r",
    "89%r",      "8a%r",     "8b%r",     "63%r",        "69%r%v",      "6b%r%b",      "8d%r",
    "91",        "92",       "95",       "98",          "99",          "9e",          "9f",
    "a8%b",      "a9%v",     "b0%b",     "b4%b",        "b7%b",        "b8%q",        "bf%q",
    "c0%r%b",    "c1%r%b",   "d0%r",     "d1%r",        "d2%r",        "d3%r",        "c6%r0%b",
    "c7%r0%v",   "f5",       "f8",       "f9",          "fc",          "f6%r0%b",     "f7%r0%v",
    "f6%r2",     "f7%r2",    "f6%r3",    "f7%r3",       "f6%r4",       "f7%r4",       "f6%r5",
    "f7%r5",     "f6%r6",    "f7%r6",    "f6%r7",       "f7%r7",       "fe%r0",       "fe%r1",
    "ff%r0",     "ff%r1",    "ff%r6",    "8f%r0",       "50",          "53",          "54",
    "57",        "58",       "5b",       "5c",          "68%v",        "6a%b",        "c9",
    "c8%w%b",    "d7",       "0f40%r",   "0f41%r",      "0f42%r",      "0f43%r",      "0f44%r",
    "0f45%r",    "0f46%r",   "0f47%r",   "0f48%r",      "0f49%r",      "0f4a%r",      "0f4b%r",
    "0f4c%r",    "0f4d%r",   "0f4e%r",   "0f4f%r",      "0f90%r",      "0f91%r",      "0f92%r",
    "0f93%r",    "0f94%r",   "0f95%r",   "0f96%r",      "0f97%r",      "0f98%r",      "0f99%r",
    "0f9a%r",    "0f9b%r",   "0f9c%r",   "0f9d%r",      "0f9e%r",      "0f9f%r",      "0fa3%r",
    "0fab%r",    "0fb3%r",   "0fbb%r",   "0fba%r4%b",   "0fba%r5%b",   "0fba%r6%b",   "0fba%r7%b",
    "0fa4%r%b",  "0fa5%r",   "0fac%r%b", "0fad%r",      "0faf%r",      "0fb0%r",      "0fb1%r",
    "0fc0%r",    "0fc1%r",   "0fb6%r",   "0fb7%r",      "0fbe%r",      "0fbf%r",      "0fbc%r",
    "0fbd%r",    "0fc8",     "0fcb",     "0fc3%r",      "0fc7%r1",     "f3-0fb8%r",   "f3-0fbc%r",
    "f3-0fbd%r", "0f38f0%r", "0f38f1%r", "f2-0f38f0%r", "f2-0f38f1%r", "66-0f38f6%r", "f3-0f38f6%r",
};

/* Of 32-bit code only. */
static const char *const forms_32[] = {
    "40",   "41",   "44",   "45", "48", "4b", "4c", "4f",     "a0%p", "a1%p",
    "a2%p", "a3%p", "60",   "61", "27", "2f", "37", "3f",     "d4%b", "d5%b",
    "06",   "1e",   "0fa0", "9c", "58", "5d", "51", "82%r%b",
};

static u8 hex_byte(const char *p) {
    u32 hi = (u32)(p[0] <= '9' ? p[0] - '0' : p[0] - 'a' + 10);
    u32 lo = (u32)(p[1] <= '9' ? p[1] - '0' : p[1] - 'a' + 10);
    return (u8)(hi << 4 | lo);
}

static void put_modrm(u8 *code, u32 *n, int reg) {
    u8 modrm = (u8)rnd(), mod = modrm >> 6;
    if (reg >= 0) {
        modrm = (u8)((modrm & 0xc7) | reg << 3);
    }
    code[(*n)++] = modrm;
    u8 base = modrm & 7;
    if (mod != 3 && base == 4) {
        u8 sib = (u8)rnd();
        code[(*n)++] = sib;
        base = sib & 7;
    }
    u32 disp = mod == 1 ? 1 : mod == 2 || (mod == 0 && base == 5) ? 4 : 0;
    s32 v = (s32)below(64) - 32;
    memcpy(code + *n, &v, disp);
    *n += disp;
}

/* Writes a random instruction of the form; returns its length, 0: try again. */
static u32 generate(const char *form, u8 *code, struct insn *insn) {
    u32 n = 0;
    bool opsize = below(4) == 0, wide = bits == 64 && below(3) == 0;
    static const u8 segment[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    if (overrides && below(16) == 0) {
        code[n++] = segment[below(sizeof(segment))];
    }
    if (below(12) == 0) {
        code[n++] = 0x67;
    }
    if (below(10) == 0) {
        code[n++] = 0xf0;
    }
    if (opsize) {
        code[n++] = 0x66;
    }
    if (form[2] == '-') {
        code[n++] = hex_byte(form);
        form += 3;
    }
    if (wide || (bits == 64 && below(2))) {
        code[n++] = (u8)(0x40 | (wide ? 8 : 0) | below(8));
    }
    while (*form) {
        if (*form != '%') {
            code[n++] = hex_byte(form);
            form += 2;
            continue;
        }
        char what = form[1];
        form += 2;
        u64 imm = below(3) ? rnd() : below(16);
        u32 size = what == 'b' ? 1 : what == 'w' ? 2 : what == 'p' || !opsize || wide ? 4 : 2;
        if (what == 'q') {
            size = wide ? 8 : size;
        }
        if (what == 'w') {
            imm &= 0x1ff;
        }
        if (what == 'p') {
            imm = NATIVE_RAM + below(RAM_BYTES);
        }
        if (what == 'r') {
            int reg = *form >= '0' && *form <= '7' ? *form++ - '0' : -1;
            put_modrm(code, &n, reg);
        } else {
            memcpy(code + n, &imm, size);
            n += size;
        }
    }
    return n <= 15 && insn_decode(insn, code, n, bits) == DECODE_OK && insn->len == n ? n : 0;
}

static u64 pointer(void) { /* somewhere in the RAM, sometimes at its end */
    return NATIVE_RAM +
           (below(50) == 0 ? RAM_BYTES - below(64) : 0x800 + below(RAM_BYTES - 0x1000));
}

static u64 value(void) {
    switch (below(6)) {
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

/* Gives the memory operand an address inside the RAM. */
static void aim(struct insn *insn, u8 *code, u64 *gpr) {
    const struct insn_mem *mem = &insn->mem;
    u64 target = pointer();
    s32 disp = (s32)mem->disp;
    if (mem->base == MEM_RIP || (mem->base == MEM_NONE && mem->disp_size == 4)) {
        disp = (s32)(target - (mem->base == MEM_RIP ? native_rip() + insn->len : 0));
        memcpy(code + insn->disp_offset, &disp, 4);
        if (mem->index != MEM_NONE) {
            gpr[mem->index] = below(8);
        }
        return;
    }
    if (mem->index != MEM_NONE) {
        gpr[mem->index] = below(8);
    }
    if (mem->base != MEM_NONE) {
        gpr[mem->base] = target;
    }
}

static void prepare(struct insn *insn, u8 *code) {
    u64 *gpr = native->gpr;
    for (u32 i = 0; i < 16; i++) {
        gpr[i] = value();
    }
    gpr[GPR_RSP] = pointer() & ~7ull;
    if (insn->id == INSN_LEAVE || insn->id == INSN_ENTER) {
        gpr[GPR_RBP] = pointer();
    }
    if (insn->id == INSN_XLAT) {
        gpr[GPR_RBX] = pointer();
    }
    if (insn->map == MAP_0F && insn->operand_count > 1 && insn->op[0].kind == OPERAND_MEM &&
        insn->op[1].kind == OPERAND_REG && insn->opcode >= 0xa3 && insn->opcode <= 0xbb) {
        gpr[insn->op[1].reg] = below(4096) - 2048; /* BT: reaches far */
    }
    if ((insn->id == INSN_DIV || insn->id == INSN_IDIV) && below(2)) {
        gpr[GPR_RDX] = below(2) ? 0 : UINT64_MAX; /* a quotient that fits */
    }
    if (insn->id == INSN_CMPXCHG && below(2) && insn->op[0].kind == OPERAND_REG) {
        gpr[GPR_RAX] = gpr[insn->op[0].reg];
    }
    if (insn_has_mem(insn)) {
        aim(insn, code, gpr);
    }
    native->flags = 0x202 | (rnd() & FLAG_ARITH);
}

static void fail_case(const char *what, const u8 *code, u32 n, u64 want, u64 got) {
    char text[160], bytes[64] = "";
    struct insn insn;
    insn_decode(&insn, code, n, 64);
    insn_format(&insn, native_rip(), text, sizeof(text));
    for (u32 i = 0; i < n; i++) {
        snprintf(bytes + 3 * i, 4, "%02x ", code[i]);
    }
    failures++;
    if (++failed_form > 2) {
        return; /* enough of this form */
    }
    print_error(
        "%s\n  %s: %s want %llx got %llx\n  rax %llx rcx %llx rdx %llx rbx %llx flags %llx\n",
        bytes, text, what, (unsigned long long)want, (unsigned long long)got,
        (unsigned long long)native->gpr[0], (unsigned long long)native->gpr[1],
        (unsigned long long)native->gpr[2], (unsigned long long)native->gpr[3],
        (unsigned long long)native->flags);
}

static void run_guest(const u8 *code, u32 n) {
    struct cpu_state *s = &m->s;
    u64 at = GUEST_CODE + (native_rip() & 4095);
    u8 padded[16];
    memset(padded, 0x90, sizeof(padded));
    memcpy(padded, code, n);
    padded[15] = 0xf4;
    sm_bytes(m, at, padded, sizeof(padded));
    memcpy(s->gpr, native->gpr, sizeof(s->gpr));
    s->rip = native_rip();
    s->rflags = native->flags & ~FLAG_IF;
    s->seg[SEG_CS] = (struct segment){.sel = SEL_CS64, .limit = 0xffffffff, .attr = 0xa09b};
    s->seg[SEG_SS] = (struct segment){.sel = SEL_DS, .limit = 0xffffffff, .attr = 0xc093};
    s->cr2 = 0;
    sm_run(m);
}

static void compare(const u8 *code, u32 n) {
    int vector = sm_vector(m);
    if (m->exit.kind != EXIT_HLT) {
        fail_case("exit", code, n, EXIT_HLT, m->exit.kind);
    }
    if (native->fault) {
        if (vector != (int)(native->fault & 0xff)) {
            fail_case("vector", code, n, native->fault & 0xff, (u64)(s64)vector);
        }
        if (vector == EXC_PF && m->s.cr2 != native->address) {
            fail_case("cr2", code, n, native->address, m->s.cr2);
        }
    } else {
        if (vector >= 0) {
            fail_case("unexpected vector", code, n, 0, (u64)vector);
        }
        for (u32 i = 0; i < 16; i++) {
            if (native->gpr_out[i] != m->s.gpr[i]) {
                char name[16];
                snprintf(name, sizeof(name), "r%u", i);
                fail_case(name, code, n, native->gpr_out[i], m->s.gpr[i]);
            }
        }
        if ((native->flags_out ^ m->s.rflags) & (FLAG_ARITH | FLAG_DF)) {
            fail_case("flags", code, n, native->flags_out, m->s.rflags);
        }
    }
    const u8 *want = (const u8 *)NATIVE_RAM, *got = m->hram.hva + GUEST_RAM;
    for (u32 i = 0; i < RAM_BYTES; i++) {
        if (want[i] != got[i] && !native->fault) {
            fail_case("memory", code, n, want[i], got[i]);
            return;
        }
    }
}

static void renew_ram(void) {
    u64 *p = (u64 *)NATIVE_RAM;
    for (u32 i = 0; i < RAM_BYTES / 8; i++) {
        p[i] = value();
    }
    sm_bytes(m, GUEST_RAM, p, RAM_BYTES);
}

static void test_forms(void **state) {
    (void)state;
    native_signals_use();
    u32 faults = 0, ran = 0;
    for (u32 f = 0; f < ARRAY_LEN(forms); f++) {
        renew_ram();
        failed_form = 0;
        for (u32 i = 0; i < CASES; i++) {
            u8 code[64];
            struct insn insn;
            u32 n = generate(forms[f], code, &insn);
            if (!n || insn.cpuid & ~m->policy.features) {
                continue;
            }
            prepare(&insn, code);
            native_run(native, code, n);
            run_guest(code, n);
            compare(code, n);
            ran++;
            if (native->fault || failed_form) { /* a partial write may differ */
                renew_ram();
                faults++;
            }
        }
    }
    print_message("%u instructions compared, %u of them faulted\n", ran, faults);
    assert_int_equal(failures, 0);
    assert_true(ran > ARRAY_LEN(forms) * CASES / 3);
}

/* Each conditional jump, alone and behind a comparison (which is joined with it). */
static void test_jumps(void **state) {
    (void)state;
    static const char *const pairs[] = {"39d8",  "4839d8", "38d8",         "3b07",   "4839 07",
                                        "3907",  "803f10", "83 3f 05",     "85d8",   "4885c0",
                                        "84d8",  "a810",   "f7c300100000", "f60701", "4883f8ff",
                                        "85 07", "",       "f8",           "6639d8"};
    renew_ram();
    for (u32 p = 0; p < ARRAY_LEN(pairs); p++) {
        for (u32 cond = 0; cond < 16; cond++) {
            for (u32 i = 0; i < 20; i++) {
                u8 code[16];
                u32 n = 0;
                for (const char *h = pairs[p]; *h; h++) {
                    if (*h != ' ') {
                        code[n++] = hex_byte(h);
                        h++;
                    }
                }
                code[n++] = (u8)(0x70 | cond);
                code[n++] = 2; /* over the next */
                code[n++] = 0xb1;
                code[n++] = 0x55; /* mov cl, 0x55 */
                for (u32 r = 0; r < 16; r++) {
                    native->gpr[r] = below(3) ? value() : below(3);
                }
                native->gpr[GPR_RSP] = pointer() & ~7ull;
                native->gpr[GPR_RDI] = NATIVE_RAM + 0x800 + below(256);
                native->flags = 0x202 | (rnd() & FLAG_ARITH);
                native_run(native, code, n);
                run_guest(code, n);
                compare(code, n);
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* --- programs, by the interpreter and translated ------------------------------------------------
 */

enum { PROGRAM_INSNS = 14, PROGRAM_BYTES = 640, PROGRAM_RUNS = 3 };
static u32 programs = 5000; /* --programs COUNT SEED */

/* mov reg, value: memory operands reach the RAM whatever the instructions before have done */
static u32 put_mov(u8 *code, u8 reg, u64 v) {
    if (bits == 32) {
        code[0] = (u8)(0xb8 | reg);
        memcpy(code + 1, &v, 4);
        return 5;
    }
    code[0] = (u8)(0x48 | reg >> 3);
    code[1] = (u8)(0xb8 | (reg & 7));
    memcpy(code + 2, &v, 8);
    return 10;
}

static u32 put_random(u8 *code, u64 rip) {
    u8 one[64];
    struct insn insn;
    u64 gpr[16] = {0};
    bool only_32 = bits == 32 && below(6) == 0;
    const char *form =
        only_32 ? forms_32[below(ARRAY_LEN(forms_32))] : forms[below(ARRAY_LEN(forms))];
    u32 n = generate(form, one, &insn), len = 0;
    const struct insn_mem *mem = &insn.mem;
    if (!n || (insn.cpuid & ~m->policy.features) || (insn.flags & INSN_BRANCH) ||
        mem->base == MEM_RIP) {
        return 0;
    }
    if (insn_has_mem(&insn)) {
        (void)rip;
        aim(&insn, one, gpr);
        if (mem->base != MEM_NONE) {
            len += put_mov(code + len, mem->base, gpr[mem->base]);
        }
        if (mem->index != MEM_NONE) {
            len += put_mov(code + len, mem->index, gpr[mem->index]);
        }
    }
    memcpy(code + len, one, n);
    return len + n;
}

/* Operands near one another at one register, which moves by constants: they share a look. Often
 * over a page's end, sometimes with another register between. */
static u32 put_near(u8 *code) {
    static const u8 op[] = {0x8b, 0x89, 0x8b, 0x03, 0x01, 0x3b, 0x87, 0x11, 0x84, 0x31};
    u8 reg = (u8)(below(2) ? GPR_RBX : GPR_R9), other = GPR_RSI;
    u64 page = NATIVE_RAM + 0x1000 + 0x1000 * below(2);
    u64 end = below(6) ? page : NATIVE_RAM + RAM_BYTES; /* behind which nothing is */
    u64 at = below(3) ? page + 128 + below(0xe00) : end - 64 + below(128);
    u32 n = put_mov(code, reg, at);
    n += put_mov(code + n, other, pointer());
    for (u32 k = 2 + (u32)below(5); k--;) {
        u8 base = below(4) ? reg : other, to = (u8)below(16), what = op[below(sizeof(op))];
        if (to == reg || to == other || to == GPR_RSP) {
            to = GPR_RAX;
        }
        code[n++] = (u8)(0x40 | (below(2) ? 8 : 0) | to >> 3 << 2 | base >> 3);
        code[n++] = what;
        code[n++] = (u8)(0x40 | (to & 7) << 3 | (base & 7));
        code[n++] = (u8)(below(64) - 32);
        switch (below(8)) {
        case 0: /* add or sub base, imm8 */
            n += (u32)sprintf((char *)code + n, "%c%c%c%c", 0x48 | base >> 3, 0x83,
                              (below(2) ? 0xc0 : 0xe8) | (base & 7), (int)(1 + below(16)));
            break;
        case 1: /* lea base, [base + disp8] */
            n += (u32)sprintf((char *)code + n, "%c%c%c%c", 0x48 | base >> 3 | base >> 3 << 2, 0x8d,
                              0x40 | (base & 7) << 3 | (base & 7), (int)(1 + below(16)));
            break;
        case 2: /* push rax, pop rdx */
            code[n++] = 0x50;
            code[n++] = 0x5a;
            break;
        case 3: /* jcc over cmp eax, edx */
            code[n++] = (u8)(0x70 | below(16));
            code[n++] = 2;
            code[n++] = 0x39;
            code[n++] = 0xd0;
            break;
        default:
            break;
        }
    }
    return n;
}

/* op a, b with two registers */
static u32 put_pair(u8 *code, u8 op, u32 a, u32 b) {
    u32 n = 0;
    bool word = below(6) == 0;
    if (word) {
        code[n++] = 0x66;
    }
    code[n++] = (u8)(0x40 | (below(2) ? 8 : 0) | b >> 3 << 2 | a >> 3);
    code[n++] = (u8)(op - (word || below(5) ? 0 : 1)); /* or of bytes */
    code[n++] = (u8)(0xc0 | (b & 7) << 3 | (a & 7));
    return n;
}

/* Flags of registers, a jump that brings them along, and an access, often to nowhere, before flags
 * are written again; now and then a register changes on the way. */
static u32 put_brought(u8 *code) {
    static const u8 op[] = {0x01, 0x29, 0x39, 0x85, 0x21, 0x09, 0x31};
    static const u8 reg[] = {GPR_RAX, GPR_RDX, GPR_RSI, GPR_R8, GPR_R13, GPR_R14, GPR_R15};
    u32 a = reg[below(sizeof(reg))], b = reg[below(sizeof(reg))];
    u32 n = put_mov(code, GPR_R9, below(3) ? pointer() : 0x7000000000);
    n += put_pair(code + n, op[below(sizeof(op))], a, b);
    if (below(3) == 0) {
        n += put_pair(code + n, 0x89, below(2) ? a : b, GPR_RBP);
    }
    code[n++] = (u8)(0x70 | below(16));
    u32 over = n++, times = (u32)below(3);
    code[n++] = 0x90;
    n += times ? put_pair(code + n, 0x89, reg[below(sizeof(reg))], GPR_RBP) : 0;
    code[over] = (u8)(n - (over + 1));
    if (below(3) == 0) {
        n += put_pair(code + n, 0x89, below(2) ? a : b, GPR_RDI);
    }
    n += (u32)sprintf((char *)code + n, "%c%c%c", 0x41, 0x8b, 0x09); /* mov ecx, [r9] */
    n += put_pair(code + n, 0x39, GPR_RCX, GPR_RDX);
    return n;
}

static u32 put_program(u8 *code) {
    u32 n = 0;
    for (u32 k = 0; k < PROGRAM_INSNS && n < PROGRAM_BYTES - 64;) {
        u32 jump = below(5) == 0 ? 2 : 0; /* over the next instruction, sometimes */
        bool near = bits == 64 && below(6) == 0 && n < PROGRAM_BYTES - 192;
        bool brought = bits == 64 && !near && below(8) == 0;
        jump = near || brought ? 0 : jump;
        u32 len = near      ? put_near(code + n)
                  : brought ? put_brought(code + n)
                            : put_random(code + n + jump, 0);
        if (!len) {
            continue;
        }
        if (jump) {
            code[n] = (u8)(0x70 | below(16));
            code[n + 1] = (u8)len;
        }
        n += jump + len;
        k++;
    }
    code[n++] = 0xf4;
    return n;
}

struct outcome {
    struct cpu_state s;
    int vector;
    u8 ram[RAM_BYTES];
};

/* n: 0 when the code is there already, and with it what was translated of it. */
static void run_program(struct sm *on, const u8 *code, u32 n, const u8 *ram, struct outcome *out) {
    struct sm *keep = m;
    m = on;
    if (n) {
        sm_bytes(m, GUEST_CODE + 64, code, n);
    }
    sm_bytes(m, GUEST_RAM, ram, RAM_BYTES);
    memcpy(m->s.gpr, native->gpr, sizeof(m->s.gpr));
    m->s.rip = (native_rip() & ~4095ull) + 64;
    m->s.rflags = native->flags & ~FLAG_IF;
    m->s.seg[SEG_CS] = (struct segment){.sel = SEL_CS64, .limit = 0xffffffff, .attr = 0xa09b};
    if (bits == 32) {
        m->s.seg[SEG_CS] = (struct segment){.sel = SEL_CS32, .limit = 0xffffffff, .attr = 0xc09b};
    }
    m->s.seg[SEG_SS] = (struct segment){.sel = SEL_DS, .limit = 0xffffffff, .attr = 0xc093};
    m->s.seg[SEG_ES] = m->s.seg[SEG_DS] = m->s.seg[SEG_SS];
    /* half of the RAM, and from 16 bytes further on, with all of it or without */
    m->s.seg[SEG_FS] =
        (struct segment){.sel = SEL_DS, .limit = NATIVE_RAM + 0x1fff, .attr = 0xc093};
    m->s.seg[SEG_GS] =
        (struct segment){.sel = SEL_DS, .base = 16, .limit = 0xffffffff, .attr = 0xc093};
    m->s.cr2 = 0;
    sm_run(m);
    out->s = m->s;
    out->vector = sm_vector(m);
    memcpy(out->ram, m->hram.hva + GUEST_RAM, RAM_BYTES);
    m = keep;
}

static void renew_machine(struct sm *on) {
    struct sm *keep = m;
    m = on;
    sm_setup(m, SM_LONG, 0);
    map_places();
    m = keep;
}

static void compare_programs(u8 mode) {
    static struct outcome want, got;
    static u8 ram[RAM_BYTES], code[PROGRAM_BYTES + 64];
    u32 faults = 0;
    setenv("SOSIA_TEST_TRANSLATOR", "1", 0);
    bits = mode;
    overrides = true;
    struct sm *first = m, *second = sm_create();
    renew_machine(second);
    for (u32 k = 0, n = 0; k < programs * PROGRAM_RUNS; k++) {
        struct insn none = {0};
        bool fresh = k % PROGRAM_RUNS == 0; /* else by jumps that are joined */
        n = fresh ? put_program(code) : n;
        for (u32 i = 0; i < RAM_BYTES / 8; i++) {
            u64 v = value();
            memcpy(ram + 8 * i, &v, 8);
        }
        prepare(&none, code);
        run_program(first, code, fresh ? n : 0, ram, &want);
        run_program(second, code, fresh ? n : 0, ram, &got);
        faults += want.vector >= 0;
        if (want.vector != got.vector || first->exit.kind != second->exit.kind ||
            want.s.rip != got.s.rip || want.s.cr2 != got.s.cr2 ||
            memcmp(want.s.gpr, got.s.gpr, sizeof(want.s.gpr)) ||
            ((want.s.rflags ^ got.s.rflags) & (FLAG_ARITH | FLAG_DF)) ||
            memcmp(want.ram, got.ram, RAM_BYTES)) {
            print_error("run %u: vector %d and %d, rip %llx and %llx, flags %llx and %llx\n", k,
                        want.vector, got.vector, (unsigned long long)want.s.rip,
                        (unsigned long long)got.s.rip, (unsigned long long)want.s.rflags,
                        (unsigned long long)got.s.rflags);
            for (u32 at = 0; at < n;) {
                char text[128];
                struct insn insn;
                insn_decode(&insn, code + at, n - at, bits);
                insn_format(&insn, 64 + at, text, sizeof(text));
                print_error("  %s\n", text);
                at += MAX(insn.len, 1u);
            }
            for (u32 r = 0; r < 16; r++) {
                if (want.s.gpr[r] != got.s.gpr[r]) {
                    print_error("  r%u %llx and %llx\n", r, (unsigned long long)want.s.gpr[r],
                                (unsigned long long)got.s.gpr[r]);
                }
            }
            fail();
        }
    }
    sm_destroy(second);
    bits = 64;
    overrides = false;
    print_message("%u programs, %u runs, %u ended by a fault\n", programs, programs * PROGRAM_RUNS,
                  faults);
}

static void test_programs(void **state) {
    (void)state;
    compare_programs(64);
}

/* In compatibility mode, where the upper halves of registers can have something in them. */
static void test_programs_32(void **state) {
    (void)state;
    compare_programs(32);
}

/* --- rate --------------------------------------------------------------------------------------
 */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void measure(const char *name, const char *hex) {
    u32 n = sm_hex(m, GUEST_CODE, hex);
    sm_put(m, GUEST_CODE + n, 1, 0xf4);
    memset(m->s.gpr, 0, sizeof(m->s.gpr));
    m->s.rip = NATIVE_CODE;
    m->s.rflags = 2;
    m->s.gpr[GPR_RSP] = NATIVE_RAM + 0x2000;
    m->s.gpr[GPR_RDI] = m->s.gpr[GPR_RSI] = NATIVE_RAM + 0x1000;
    m->s.gpr[GPR_RCX] = 20000000;
    struct engine_stats before, after;
    m->vm.ops->stats(&m->vcpu, &before);
    double t = seconds();
    sm_run(m);
    t = seconds() - t;
    m->vm.ops->stats(&m->vcpu, &after);
    printf("%-28s %7.1f M instructions/s\n", name,
           (double)(after.instructions - before.instructions) / t / 1e6);
}

static int rate(void) {
    m = sm_create();
    sm_setup(m, SM_LONG, 0);
    map_places();
    measure("dec jnz", "ffc9 75fc");
    measure("alu loop", "01c8 31c2 4801d0 4829c3 ffc9 75f2");
    measure("load add store", "8b07 01c8 8907 83c001 ffc9 75f3");
    measure("indexed loads", "488b04d7 4883c201 83e20f 4801c3 ffc9 75ee");
    measure("call ret push pop", "e805000000 ffc9 75f7 f4 53 55 5d 5b c3");
    measure("cmp jcc mix", "39c8 7401 90 a801 7501 90 4885db 7901 90 ffc9 75ec");
    measure("movzx lea shl movsxd", "0fb607 488d4410ff c1e003 0fb6d0 486316 01d0 ffc9 75e9");
    sm_destroy(m);
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_forms, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_jumps, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_programs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_programs_32, set_up, tear_down),
    };
    if (argc > 1 && strcmp(argv[1], "--rate") == 0) {
        return rate();
    }
    bool only_programs = argc > 3 && strcmp(argv[1], "--programs") == 0;
    if (only_programs) {
        programs = (u32)strtoul(argv[2], NULL, 0);
        seed = strtoull(argv[3], NULL, 0);
    }
    native = native_setup(RAM_BYTES);
    if (!native) {
        fprintf(stderr, "cannot map the places of the native side\n");
        return 77;
    }
    native_signals_keep();
    if (only_programs) {
        cmocka_set_test_filter("test_programs*");
    }
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    native_teardown();
    return r;
}
