/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ways in and out of generated code, made once at the start of each code cache.
 *
 *   enter(c, code)  saves what the C ABI wants kept, loads guest registers, jumps to code
 *   STUB_EXIT       stores guest registers and returns to the caller of enter
 *   STUB_EXIT_FLAGS saves the guest's flags first
 *   STUB_MISS       calls tr_miss_call(c, H_ADDR); goes on at c->tr_resume, or exits
 *   STUB_MISS_FLAGS the same where flags are in RFLAGS and RCX is in H_ADDR
 *   STUB_STEP       calls tr_step_call(c); likewise
 *   STUB_INDIRECT   an indirect jump to H_ADDR: tr_jump_other, or exits
 *   STUB_FLOAT      floating traces are off by H_ADDR now: goes on at H_TEMP2, or exits
 *   STUB_VLOAD      loads the guest's vector registers; goes on at H_TEMP
 *
 * Before C code runs the guest's vector registers go home and the monitor gets its MXCSR back; they
 * are loaded again when generated code needs them, or before it goes on where it had them.
 */
#include "engines/soft/tr.h"
#include "engines/soft/vec.h"

static const u8 kept[] = {GPR_RBX, GPR_RBP, GPR_R12, GPR_R13, GPR_R14, GPR_R15};

static void guest_registers(struct soft_tr *t, bool load) {
    for (u32 n = 0; n < GPR_COUNT; n++) {
        if (tr_in_memory(n)) {
            continue;
        }
        if (load) {
            tr_gs_load(t, n, tr_gpr(n));
        } else {
            tr_gs_store(t, n, tr_gpr(n));
        }
    }
}

/* VEX.128.0F opcode with xmm n and gs:[offset] */
static void move_xmm(struct soft_tr *t, u32 opcode, u32 n, size_t offset) {
    tr_u8(t, 0x65);
    tr_u8(t, 0xc5);
    tr_u8(t, (n & 8 ? 0u : 0x80) | 0x78);
    tr_u8(t, opcode);
    tr_u8(t, 0x04 | (n & 7) << 3);
    tr_u8(t, 0x25);
    tr_u32(t, (u32)offset);
}

/* VINSERTF128 (18) or VEXTRACTF128 (19) of the upper half */
static void move_upper(struct soft_tr *t, u32 opcode, u32 n, size_t offset) {
    u32 v = opcode == 0x18 ? n : 0;
    tr_u8(t, 0x65);
    tr_u8(t, 0xc4);
    tr_u8(t, (n & 8 ? 0u : 0x80) | 0x63);
    tr_u8(t, (~v & 15) << 3 | 5);
    tr_u8(t, opcode);
    tr_u8(t, 0x04 | (n & 7) << 3);
    tr_u8(t, 0x25);
    tr_u32(t, (u32)offset);
    tr_u8(t, 1);
}

static void vectors(struct soft_tr *t, bool load) {
    size_t x = C_OFF(s.xsave);
    for (u32 n = 0; n < 16; n++) {
        move_xmm(t, load ? 0x10 : 0x11, n, x + XS_XMM + 16 * n);
        move_upper(t, load ? 0x18 : 0x19, n, x + XS_YMMH + 16 * n);
    }
    if (load) {
        tr_gs(t, false, 0x0fae, 2, x + XS_MXCSR); /* ldmxcsr */
    } else {
        tr_gs(t, false, 0x0fae, 3, x + XS_MXCSR); /* stmxcsr */
        tr_gs(t, false, 0x0fae, 2, C_OFF(tr_host_mxcsr));
        tr_u8(t, 0xc5); /* vzeroupper */
        tr_u8(t, 0xf8);
        tr_u8(t, 0x77);
    }
    tr_gs_imm(t, C_OFF(tr_vec_live), load);
}

/* ebx: were they live? */
static void vectors_home(struct soft_tr *t) {
    if (!t->host_avx) {
        tr_imm(t, GPR_RBX, 0);
        return;
    }
    tr_gs(t, false, 0x8b, GPR_RBX, C_OFF(tr_vec_live));
    tr_rr(t, false, 0x85, GPR_RBX, GPR_RBX);
    u32 skip = tr_jcc(t, 4);
    vectors(t, false);
    tr_fix(t, skip, t->used);
}

static void leave(struct soft_tr *t) {
    for (u32 n = ARRAY_LEN(kept); n--;) {
        if (kept[n] >= 8) {
            tr_u8(t, 0x41);
        }
        tr_u8(t, 0x58 | (kept[n] & 7));
    }
    tr_u8(t, 0xc3);
}

static void enter(struct soft_tr *t) {
    for (u32 n = 0; n < ARRAY_LEN(kept); n++) {
        if (kept[n] >= 8) {
            tr_u8(t, 0x41);
        }
        tr_u8(t, 0x50 | (kept[n] & 7));
    }
    tr_gs_store(t, GPR_RSP, C_OFF(tr_host_rsp));
    tr_gs_store(t, GPR_RSI, C_OFF(tr_resume));
    guest_registers(t, true);
    tr_gs_load(t, H_ADDR, C_OFF(next_rip)); /* as behind an indirect jump: for entries X */
    tr_jmp_gs(t, C_OFF(tr_resume));
}

static void stub_begin(struct soft_tr *t, enum tr_stub stub) {
    t->stub[stub] = t->used;
}

/* The exit's number from H_TEMP. C code is about to read what it says, which is in no cache. */
static void put_number(struct soft_tr *t) {
    static const u8 fetch[] = {0x4f, 0x8d, 0x34, 0xb6,              /* lea r14, [r14 + r14*4] */
                               0x43, 0x0f, 0x18, 0x4c, 0xf5, 0x00}; /* prefetcht0 [r13 + r14*8] */
    _Static_assert(sizeof(struct tr_exit) == 5 * 8, "by 5, by 8");
    tr_gs(t, false, 0x89, H_TEMP, C_OFF(tr_exit));
    tr_imm(t, H_TEMP2, (u64)(uintptr_t)t->exits);
    for (u32 n = 0; n < ARRAY_LEN(fetch); n++) {
        tr_u8(t, fetch[n]);
    }
}

static void exit_stub(struct soft_tr *t) {
    stub_begin(t, STUB_EXIT_FLAGS);
    tr_flags_save(t);
    stub_begin(t, STUB_EXIT);
    put_number(t);
    guest_registers(t, false);
    tr_gs_load(t, GPR_RSP, C_OFF(tr_host_rsp));
    vectors_home(t);
    leave(t);
}

static void call_stub(struct soft_tr *t, enum tr_stub stub, u64 fn) {
    stub_begin(t, stub);
    put_number(t);
    guest_registers(t, false);
    tr_gs_load(t, GPR_RSP, C_OFF(tr_host_rsp));
    tr_rm(t, true, 0x8d, GPR_RSP, GPR_RSP, -8); /* the ABI's alignment */
    tr_rr(t, true, 0x89, H_ADDR, GPR_RSI);
    vectors_home(t);
    tr_gs_load(t, GPR_RDI, C_OFF(tr_self));
    tr_imm(t, GPR_RAX, fn);
    tr_rr(t, false, 0xff, 2, GPR_RAX);
    tr_rm(t, true, 0x8d, GPR_RSP, GPR_RSP, 8);
    tr_rr(t, false, 0x85, GPR_RAX, GPR_RAX);
    u32 go_on = tr_jcc(t, 4);
    leave(t);
    tr_fix(t, go_on, t->used);
    if (t->host_avx) {
        tr_rr(t, false, 0x85, GPR_RBX, GPR_RBX);
        u32 skip = tr_jcc(t, 4);
        vectors(t, true);
        tr_fix(t, skip, t->used);
    }
    guest_registers(t, true);
    tr_gs_load(t, H_ADDR, C_OFF(next_rip));
    tr_flags_restore(t); /* behind an instruction that was done they may be in RFLAGS */
    tr_gs_load(t, H_TEMP2, C_OFF(look)); /* tr_mem.c: load_table */
    tr_jmp_gs(t, C_OFF(tr_resume));
}

/* The first choice did not fit. */
static void indirect_stub(struct soft_tr *t) {
    stub_begin(t, STUB_INDIRECT);
    tr_rr(t, true, 0x89, H_TEMP, H_TEMP2); /* the exit's number */
    tr_table_index(t);
    tr_rr(t, false, 0x83, 6, H_TEMP); /* xor */
    tr_u8(t, 2);
    tr_table_op(t, true, 0x3b, H_ADDR, C_OFF(tr_jump[0].rip));
    u32 none = tr_jcc(t, 5);
    tr_table_op(t, false, 0xff, 4, C_OFF(tr_jump[0].host));
    tr_fix(t, none, t->used);
    tr_gs_store(t, H_ADDR, C_OFF(next_rip));
    tr_rr(t, true, 0x89, H_TEMP2, H_TEMP);
    tr_fix(t, tr_jmp(t), t->stub[STUB_EXIT]);
}

/* Floating traces are off by H_ADDR now. */
static void float_stub(struct soft_tr *t) {
    stub_begin(t, STUB_FLOAT);
    tr_gs_store(t, H_TEMP2, C_OFF(tr_resume));
    tr_gs(t, false, 0x89, H_TEMP, C_OFF(tr_exit));
    tr_rr(t, true, 0x89, H_ADDR, H_TEMP);
    tr_rr(t, true, 0xc1, 5, H_TEMP); /* shr: words of 8 bytes, four in each entry */
    tr_u8(t, PAGE_SHIFT - 2);
    tr_rr(t, false, 0x81, 4, H_TEMP); /* and */
    tr_u32(t, 4 * (ARRAY_LEN(t->c->tr_heres) - 1));
    tr_table_op(t, true, 0x3b, H_ADDR, C_OFF(tr_heres[0].delta)); /* cmp */
    u32 other = tr_jcc(t, 5);
    tr_gs_load(t, H_TEMP2, C_OFF(jump_key));
    tr_table_op(t, true, 0x3b, H_TEMP2, C_OFF(tr_heres[0].key));
    u32 stale = tr_jcc(t, 5);
    tr_table_op(t, true, 0x8b, H_TEMP2, C_OFF(tr_heres[0].id));
    tr_gs_store(t, H_TEMP2, C_OFF(tr_here));
    tr_gs_store(t, H_ADDR, C_OFF(tr_delta));
    tr_jmp_gs(t, C_OFF(tr_resume));
    tr_fix(t, other, t->used);
    tr_fix(t, stale, t->used);
    tr_gs_store(t, H_ADDR, C_OFF(tr_delta)); /* C code sees to tr_here (again in tr.c) */
    tr_gs(t, false, 0x8b, H_TEMP, C_OFF(tr_exit));
    tr_fix(t, tr_jmp(t), t->stub[STUB_EXIT]);
}

void tr_stubs(struct soft_tr *t) {
    t->used = 0;
    enter(t);
    exit_stub(t);
    indirect_stub(t);
    float_stub(t);
    stub_begin(t, STUB_MISS_FLAGS);
    tr_rr(t, true, 0x89, H_ADDR, GPR_RCX);
    tr_flags_save(t);
    call_stub(t, STUB_MISS, (u64)(uintptr_t)tr_miss_call);
    call_stub(t, STUB_STEP, (u64)(uintptr_t)tr_step_call);
    if (t->host_avx) {
        stub_begin(t, STUB_VLOAD);
        vectors(t, true);
        tr_rr(t, false, 0xff, 4, H_TEMP); /* jmp */
    }
    t->first = t->used = (u32)ALIGN_UP(t->used, 64u);
}
