/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that run on the real processor: which handler an instruction gets, the rules for
 * #UD and #NM (Intel SDM volume 2, section 2.4 and volume 3, section 2.5), and the handlers for
 * register, load and store forms. Those rules depend only on what mode_key holds, so they are
 * settled when a block is bound: an instruction that may not execute is bound to the fault.
 *
 * Legacy SSE memory operands must be aligned (INSN_ALIGNED): checked on the linear address. A
 * memory operand in one page of RAM is used in place, anything else goes through a bounce buffer.
 * Lock rule: everything belongs to the vCPU's thread.
 */
#include "engines/soft/vec.h"

#include "core/cpu/cpuid.h"

/* --- faults ------------------------------------------------------------------------------------
 */

static void raise_ud(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_ud(c);
}

static void raise_nm(struct soft_vcpu *c, const struct uop *u) {
    (void)u;
    soft_fault(c, EXC_NM, false, 0);
}

uop_fn vec_ud(void) {
    return raise_ud;
}

uop_fn vec_nm(void) {
    return raise_nm;
}

void vec_stub_fault(struct soft_vcpu *c, u32 status) {
    u8 vector = (u8)status;
    if (vector == EXC_XM && !(c->s.cr4 & CR4_OSXMMEXCPT)) {
        vector = EXC_UD;
    } else if (vector != EXC_XM && vector != EXC_MF) {
        vector = EXC_UD; /* the host knows less than the policy says */
    }
    soft_fault(c, vector, false, 0);
}

/* --- memory operands ---------------------------------------------------------------------------
 */

/* Addresses as bind.c prepares them for integer handlers. */
static bool address_simple(const struct soft_vcpu *c, const struct insn *i, s64 disp) {
    if (disp != (s32)disp) {
        return false;
    }
    if (c->mode == 64) {
        return i->addrsize == 8;
    }
    bool flat = i->mem.seg == SEG_DS || i->mem.seg == SEG_SS || i->mem.seg == SEG_ES;
    return c->mode == 32 && c->seg_flat && i->addrsize == 4 && flat;
}

static u16 gpr_field(u8 n) {
    return (u16)(offsetof(struct soft_vcpu, s.gpr) + sizeof(u64) * n);
}

void vec_bind_address(struct bind *b, const struct insn_operand *mem) {
    struct uop *u = b->uop;
    const struct insn_mem *m = &b->insn->mem;
    s64 disp = m->disp + (m->base == MEM_RIP ? u->offset + u->len : 0);
    u->opsize = (u8)mem->size;
    u->dst = (b->insn->flags & INSN_ALIGNED) != 0;
    u->spare |= address_simple(b->c, b->insn, disp) ? UOP_SIMPLE : 0;
    if (!(u->spare & UOP_SIMPLE)) {
        return;
    }
    u->disp = (s32)disp;
    u->base_off = u->index_off = u->seg_off = (u16)offsetof(struct soft_vcpu, zero);
    if (m->base == MEM_RIP) {
        u->base_off = (u16)offsetof(struct soft_vcpu, block_rip);
    } else if (m->base != MEM_NONE) {
        u->base_off = gpr_field(m->base);
    }
    if (m->index != MEM_NONE) {
        u->index_off = gpr_field(m->index);
    }
    if (b->c->mode == 64 && (m->seg == SEG_FS || m->seg == SEG_GS)) {
        u->seg_off = (u16)(offsetof(struct soft_vcpu, s.seg) + m->seg * sizeof(struct segment) +
                           offsetof(struct segment, base));
    }
}

u64 vec_offset(const struct soft_vcpu *c, const struct uop *u) {
    return u->spare & UOP_SIMPLE ? uop_addr(c, u) - field64(c, u->seg_off)
                                 : soft_ea((struct soft_vcpu *)(uintptr_t)c, u);
}

static u64 mem_linear(struct soft_vcpu *c, const struct uop *u, u64 offset, enum access access) {
    u64 linear = soft_linear(c, u->seg, offset, u->opsize, access);
    if (u->dst && UNLIKELY(linear & (u->opsize - 1u))) {
        soft_gp(c, 0);
    }
    return linear;
}

/* Operands of up to 8 bytes whose alignment is never checked: exception type 11. */
static bool unchecked(const struct insn *i) {
    return i->id == INSN_VCVTPH2PS || i->id == INSN_VCVTPS2PH;
}

void *vec_mem_read(struct soft_vcpu *c, const struct uop *u, u64 offset) {
    if (UNLIKELY(c->align_check) && unchecked(u->insn)) {
        vec_align_off(c);
    }
    u64 linear = mem_linear(c, u, offset, ACCESS_READ);
    void *p = soft_lin_ptr(c, linear, u->opsize, ACCESS_READ, c->mmu);
    if (!p) {
        p = c->vec->bounce;
        soft_lin_read(c, linear, p, u->opsize, c->mmu);
    }
    vec_align_on(c);
    return p;
}

void *vec_mem_write(struct soft_vcpu *c, const struct uop *u, u64 offset, u64 *linear) {
    *linear = mem_linear(c, u, offset, ACCESS_WRITE);
    void *p = soft_lin_ptr(c, *linear, u->opsize, ACCESS_WRITE, c->mmu);
    if (!p) {
        soft_lin_probe(c, *linear, u->opsize, ACCESS_WRITE, c->mmu);
    }
    return p;
}

/* --- handlers ----------------------------------------------------------------------------------
 */

/* The stub of an instruction for which the pool had no room. */
stub_fn vec_stub_slow(struct soft_vcpu *c, const struct uop *u) {
    u8 code[STUB_MAX];
    u32 len = vec_emit(u->insn, code);
    return vec_pool_scratch(c, code, len); /* len is not 0: it was emitted at binding */
}

static void vec_reg(struct soft_vcpu *c, const struct uop *u) {
    u32 status = vec_stub(c, u)(c, NULL, &c->vec->host_mxcsr);
    if (UNLIKELY(status)) {
        vec_stub_fault(c, status);
    }
    NEXT(c, u);
}

static void vec_load(struct soft_vcpu *c, const struct uop *u) {
    void *mem = vec_mem_fast(c, u, false);
    if (UNLIKELY(!mem)) {
        mem = vec_mem_read(c, u, vec_offset(c, u));
    }
    u32 status = vec_stub(c, u)(c, mem, &c->vec->host_mxcsr);
    if (UNLIKELY(status)) {
        vec_stub_fault(c, status);
    }
    NEXT(c, u);
}

/* VCVTPS2PH: the conversion's exceptions and MXCSR flags come before those of the store. */
static void convert_store(struct soft_vcpu *c, const struct uop *u) {
    u32 status = vec_stub(c, u)(c, c->vec->bounce, &c->vec->host_mxcsr);
    if (status) {
        vec_stub_fault(c, status);
    }
    vec_align_off(c);
    u64 linear = mem_linear(c, u, vec_offset(c, u), ACCESS_WRITE);
    soft_lin_write(c, linear, c->vec->bounce, u->opsize, c->mmu);
    vec_align_on(c);
    NEXT(c, u);
}

static void vec_store_slow(struct soft_vcpu *c, const struct uop *u) {
    u64 linear;
    if (u->insn->id == INSN_VCVTPS2PH) {
        return convert_store(c, u);
    }
    void *mem = vec_mem_write(c, u, vec_offset(c, u), &linear);
    u32 status = vec_stub(c, u)(c, mem ? mem : c->vec->bounce, &c->vec->host_mxcsr);
    if (status) {
        vec_stub_fault(c, status);
    }
    if (!mem) {
        soft_lin_write(c, linear, c->vec->bounce, u->opsize, c->mmu);
    }
    NEXT(c, u);
}

static void vec_store(struct soft_vcpu *c, const struct uop *u) {
    void *mem = vec_mem_fast(c, u, true);
    if (UNLIKELY(!mem)) {
        return vec_store_slow(c, u);
    }
    u32 status = vec_stub(c, u)(c, mem, &c->vec->host_mxcsr);
    if (UNLIKELY(status)) {
        vec_stub_fault(c, status);
    }
    NEXT(c, u);
}

/* MOVNTI, MOVDIRI: what they hint at cannot be seen by the guest. */
static void plain_store(struct soft_vcpu *c, const struct uop *u) {
    soft_store(c, u, u->opsize, soft_gpr_get(c, u->src, u->opsize));
    NEXT(c, u);
}

static void movdir64b(struct soft_vcpu *c, const struct uop *u) {
    u8 data[64];
    u64 from = soft_linear(c, u->seg, soft_ea(c, u), 64, ACCESS_READ);
    soft_lin_read(c, from, data, 64, c->mmu);
    u64 offset = soft_gpr_get(c, u->src, u->addrsize);
    u64 to = soft_linear(c, SEG_ES, offset, 64, ACCESS_WRITE);
    if (to & 63) {
        soft_gp(c, 0);
    }
    soft_lin_write(c, to, data, 64, c->mmu);
    NEXT(c, u);
}

/* --- binding -----------------------------------------------------------------------------------
 */

bool vec_bind_stub(struct bind *b) {
    u8 code[STUB_MAX];
    u32 len = vec_emit(b->insn, code);
    if (!len) {
        return false;
    }
    stub_fn fn = vec_pool_get(b->c, code, len);
    memcpy((u8 *)(uintptr_t)&uop_kept(b->uop)->stub, &fn, sizeof(fn)); /* NULL: emitted each time */
    return true;
}

static bool names_xmm(const struct insn *i) {
    for (u32 n = 0; n < i->operand_count; n++) {
        if (i->op[n].kind == OPERAND_REG && i->op[n].reg_class == REG_XMM) {
            return true;
        }
    }
    return false;
}

static uop_fn check_x87(const struct insn *i, u64 key) {
    if (i->id == INSN_FWAIT) {
        return (key & KEY_MP) && (key & KEY_TS) ? raise_nm : NULL;
    }
    return key & (KEY_EM | KEY_TS) ? raise_nm : NULL;
}

static uop_fn check_vex(const struct insn *i, u64 key) {
    if (!(key & KEY_PE) || (key & KEY_V86)) {
        return raise_ud;
    }
    if (!(i->flags & INSN_AVX)) {
        return NULL; /* BMI on general registers */
    }
    if (!(key & KEY_AVX)) {
        return raise_ud;
    }
    return key & KEY_TS ? raise_nm : NULL;
}

/* The fault that the mode dictates, or NULL when the instruction may execute. */
static uop_fn mode_fault(const struct insn *i, u64 key) {
    if (i->enc == ENC_VEX) {
        return check_vex(i, key);
    }
    if (i->flags & INSN_X87) {
        return check_x87(i, key);
    }
    bool mmx_only = (i->flags & INSN_MMX) && !names_xmm(i);
    if (i->flags & (INSN_SSE | INSN_MMX)) {
        if ((key & KEY_EM) || (!mmx_only && !(key & KEY_OSFXSR))) {
            return raise_ud;
        }
        return key & KEY_TS ? raise_nm : NULL;
    }
    return NULL;
}

bool vec_is_integer(u16 id) {
    switch (id) {
    case INSN_POPCNT:
    case INSN_LZCNT:
    case INSN_TZCNT:
    case INSN_ANDN:
    case INSN_BEXTR:
    case INSN_BLSI:
    case INSN_BLSMSK:
    case INSN_BLSR:
    case INSN_BZHI:
    case INSN_MULX:
    case INSN_PDEP:
    case INSN_PEXT:
    case INSN_RORX:
    case INSN_SARX:
    case INSN_SHLX:
    case INSN_SHRX:
    case INSN_ADCX:
    case INSN_ADOX:
    case INSN_CRC32:
    case INSN_MOVBE:
        return true;
    default:
        return false;
    }
}

static bool bind_store_hint(struct bind *b) {
    const struct insn *i = b->insn;
    u8 reg = (u8)((i->rex & 4) << 1 | (i->modrm >> 3 & 7));
    switch (i->id) {
    case INSN_MOVNTI:
    case INSN_MOVDIRI:
        b->uop->opsize = i->mode == 64 && (i->rex & 8) ? 8 : 4;
        b->uop->fn = plain_store;
        break;
    case INSN_MOVDIR64B:
        b->uop->fn = movdir64b;
        break;
    default:
        return false;
    }
    b->uop->src = reg;
    return true;
}

static bool bind_operands(struct bind *b) {
    const struct insn *i = b->insn;
    const struct insn_operand *mem = insn_mem_operand(i);
    if (!vec_bind_stub(b)) {
        return false;
    }
    if (!mem) {
        b->uop->fn = vec_reg;
        return true;
    }
    vec_bind_address(b, mem);
    b->uop->fn = mem->flags & OPERAND_WRITE ? vec_store : vec_load;
    return true;
}

static bool bind_allowed(struct bind *b) {
    const struct insn *i = b->insn;
    if (vec_bind_env(b) || vec_bind_mask(b)) {
        return true;
    }
    if (i->flags & (INSN_X87 | INSN_MMX)) {
        return vec_bind_x87(b);
    }
    return bind_operands(b);
}

bool bind_vector(struct bind *b) {
    const struct insn *i = b->insn;
    bool xsave = vec_is_xsave(i->id);
    bool hint = i->id == INSN_MOVNTI || i->id == INSN_MOVDIRI || i->id == INSN_MOVDIR64B;
    bool vector = (i->flags & (INSN_X87 | INSN_MMX | INSN_SSE | INSN_AVX)) != 0;
    bool integer = vec_is_integer(i->id) || i->id == INSN_RDRAND || i->id == INSN_RDSEED;
    if (!xsave && !hint && !vector && !integer) {
        return false;
    }
    uop_fn fault = i->cpuid & ~b->c->ev->vm->cpuid->features ? raise_ud
                   : i->prefixes & PREFIX_LOCK               ? raise_ud
                   : xsave || hint                           ? NULL
                                                             : mode_fault(i, b->c->mode_key);
    if (fault) {
        b->uop->fn = fault;
        return true;
    }
    if (xsave) {
        return vec_bind_xsave(b);
    }
    if (hint) {
        return bind_store_hint(b);
    }
    if (!bind_allowed(b)) {
        b->uop->fn = raise_ud; /* known to the decoder, but with no way to execute it here */
    }
    return true;
}
