/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87 and MMX on the real unit of this thread (Intel SDM volume 1, chapters 8 and 9).
 *
 * The first x87 or MMX instruction moves the guest's registers into the unit with FXRSTOR; they
 * stay there over many instructions, since nothing else in a vCPU thread uses x87, and
 * soft_vec_leave brings them back with FXSAVE and leaves the unit as the C ABI wants it. Exceptions
 * that the guest has unmasked show as FSW.ES after the instruction that caused them; the next
 * waiting instruction looks at it first and raises #MF, so that the unit itself never has to.
 *
 * #MF is raised with CR0.NE clear too: the FERR#/IGNNE# wiring to IRQ 13 is left out. FCS and FDS
 * read as 0, as CPUID.7.EBX[13] says. FIP, FDP and FOP are the guest's: the unit sees the addresses
 * of stubs, and x87_sync replaces what a stub has left there.
 */
#include "engines/soft/vec.h"

static void fx_load(const u8 *image) {
    __asm__ volatile("fxrstor64 %0"
                     :
                     : "m"(*(const u8(*)[512])image)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void fx_store(u8 *image) {
    __asm__ volatile("fxsave64 %0\n\tfninit" : "=m"(*(u8(*)[512])image));
}

void vec_x87_load(struct soft_vcpu *c) {
    struct soft_vec *v = c->vec;
    memcpy(v->fx, c->s.xsave, XS_XMM);
    put32(v->fx + XS_MXCSR, v->host_mxcsr);
    put32(v->fx + XS_MXCSR_MASK, 0);
    v->loaded_fop = get16(v->fx + XS_FOP);
    v->loaded_fip = get64(v->fx + XS_FIP);
    v->loaded_fdp = get64(v->fx + XS_FDP);
    fx_load(v->fx);
    v->x87_live = true;
}

/* What the unit holds now: unchanged, cleared, or a stub's own value that the guest's replaces. */
static u64 pointer_value(u64 unit, u64 loaded, u64 guest) {
    return unit == loaded ? loaded : unit == 0 ? 0 : guest;
}

static void x87_sync(struct soft_vcpu *c) {
    struct soft_vec *v = c->vec;
    u8 *x = c->s.xsave;
    /* Processors that save the pointers only with an exception pending leave these as they are. */
    put16(v->fx + XS_FOP, v->loaded_fop);
    put64(v->fx + XS_FIP, v->loaded_fip);
    put64(v->fx + XS_FDP, v->loaded_fdp);
    fx_store(v->fx);
    memcpy(x + XS_FCW, v->fx + XS_FCW, XS_FOP - XS_FCW);
    memcpy(x + XS_ST, v->fx + XS_ST, XS_XMM - XS_ST);
    u16 fop = get16(v->fx + XS_FOP);
    put16(x + XS_FOP, (u16)pointer_value(fop, v->loaded_fop, v->fop));
    put64(x + XS_FIP, pointer_value(get64(v->fx + XS_FIP), v->loaded_fip, v->fip));
    put64(x + XS_FDP, pointer_value(get64(v->fx + XS_FDP), v->loaded_fdp, v->fdp));
    v->x87_live = false;
}

void soft_vec_leave(struct soft_vcpu *c) {
    if (c->vec && c->vec->x87_live) {
        x87_sync(c);
    }
}

static u16 unit_status(void) {
    u16 fsw;
    __asm__ volatile("fnstsw %0" : "=a"(fsw));
    return fsw;
}

void vec_x87_pending(struct soft_vcpu *c) {
    if (UNLIKELY(unit_status() & 0x80)) {
        soft_fault(c, EXC_MF, false, 0);
    }
}

/* --- handlers ----------------------------------------------------------------------------------
 */

/* Bits of uop.src */
enum { X87_WAITS = 1, X87_CONTROL = 2, X87_MMX = 4, X87_CLEARS = 8 };

static bool is_control(const struct insn *i) {
    switch (i->id) {
    case INSN_FNINIT:
    case INSN_FNCLEX:
    case INSN_FLDCW:
    case INSN_FNSTCW:
    case INSN_FNSTSW:
    case INSN_FNENI:
    case INSN_FNDISI:
    case INSN_FNSETPM:
    case INSN_FWAIT:
        return true;
    default:
        return false;
    }
}

static u8 x87_kind(const struct insn *i) {
    if (!(i->flags & INSN_X87)) {
        bool from_memory = i->id == INSN_CVTPI2PS || i->id == INSN_CVTPI2PD;
        return from_memory && i->modrm < 0xc0 ? X87_MMX : X87_WAITS | X87_MMX;
    }
    if (!is_control(i)) {
        return X87_WAITS;
    }
    bool waits = i->id == INSN_FLDCW || i->id == INSN_FWAIT;
    bool clears = i->id == INSN_FNCLEX;
    return (u8)(X87_CONTROL | (waits ? X87_WAITS : 0) | (clears ? X87_CLEARS : 0));
}

static void x87_begin(struct soft_vcpu *c, const struct uop *u) {
    vec_x87_need(c);
    if (u->src & X87_WAITS) {
        vec_x87_pending(c);
    }
    /* Pointers that an exception has left belong to the instruction before: FNCLEX lets others
     * follow, which need not change them (CPUID.7.EBX[6]). */
    if ((u->src & X87_CLEARS) && (unit_status() & 0x80)) {
        x87_sync(c);
        vec_x87_load(c);
    }
}

static void x87_pointers(struct soft_vcpu *c, const struct uop *u, u64 fdp) {
    struct soft_vec *v = c->vec;
    if (!(u->src & (X87_CONTROL | X87_MMX))) {
        v->fip = soft_rip(c);
        v->fdp = fdp;
        v->fop = (u16)((u->insn->opcode & 7) << 8 | u->insn->modrm);
    }
}

static void x87_run(struct soft_vcpu *c, const struct uop *u, void *mem) {
    u32 status = vec_stub(c, u)(c, mem, &c->vec->host_mxcsr);
    if (UNLIKELY(status)) {
        vec_stub_fault(c, status);
    }
}

static void x87_reg(struct soft_vcpu *c, const struct uop *u) {
    x87_begin(c, u);
    x87_pointers(c, u, c->vec->fdp);
    x87_run(c, u, NULL);
    NEXT(c, u);
}

static void x87_mem_load(struct soft_vcpu *c, const struct uop *u) {
    x87_begin(c, u);
    u64 offset = vec_offset(c, u);
    void *mem = vec_mem_fast(c, u, false);
    if (UNLIKELY(!mem)) {
        mem = vec_mem_read(c, u, offset);
    }
    x87_pointers(c, u, offset);
    x87_run(c, u, mem);
    NEXT(c, u);
}

/* An unmasked invalid operation, overflow or underflow leaves the store undone: then the processor
 * does not look at the address either. True when that was so; else the unit is as before. */
static bool x87_store_withheld(struct soft_vcpu *c, const struct uop *u, u64 offset) {
    u8 before[512] ALIGNED(16);
    u16 fcw;
    __asm__ volatile("fnstcw %0" : "=m"(fcw));
    if (x87_kind(u->insn) != X87_WAITS || (fcw & 0x19) == 0x19) {
        return false;
    }
    __asm__ volatile("fxsave64 %0" : "=m"(before));
    x87_run(c, u, c->vec->bounce);
    if (unit_status() & ~fcw & 0x19) {
        x87_pointers(c, u, offset);
        return true;
    }
    fx_load(before);
    return false;
}

/* A masked response may suppress the store, so a bounce buffer starts as what memory holds. */
static void x87_store_slow(struct soft_vcpu *c, const struct uop *u, u64 offset) {
    u64 linear;
    u8 *bounce = c->vec->bounce;
    if (x87_store_withheld(c, u, offset)) {
        return;
    }
    void *mem = vec_mem_write(c, u, offset, &linear);
    if (!mem) {
        soft_lin_read(c, linear, bounce, u->opsize, c->mmu);
    }
    x87_pointers(c, u, offset);
    x87_run(c, u, mem ? mem : bounce);
    if (!mem) {
        soft_lin_write(c, linear, bounce, u->opsize, c->mmu);
    }
}

static void x87_mem_store(struct soft_vcpu *c, const struct uop *u) {
    x87_begin(c, u);
    u64 offset = vec_offset(c, u);
    void *mem = vec_mem_fast(c, u, true);
    if (UNLIKELY(!mem)) {
        x87_store_slow(c, u, offset);
    } else {
        x87_pointers(c, u, offset);
        x87_run(c, u, mem);
    }
    NEXT(c, u);
}

/* --- binding -----------------------------------------------------------------------------------
 */

bool vec_bind_x87(struct bind *b) {
    const struct insn *i = b->insn;
    const struct insn_operand *mem = insn_mem_operand(i);
    b->uop->src = x87_kind(i);
    if (!vec_bind_stub(b)) {
        return false;
    }
    if (!mem) {
        b->uop->fn = x87_reg;
        return true;
    }
    vec_bind_address(b, mem);
    b->uop->fn = mem->flags & OPERAND_WRITE ? x87_mem_store : x87_mem_load;
    return true;
}
