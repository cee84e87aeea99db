/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is left of the integer set: sign extension in rAX, single flags, decimal arithmetic, BOUND,
 * CMPXCHG8B and 16B, CPUID, RDTSC, RDPID, random numbers, fences, cache hints, NOP, UD.
 * Intel SDM volume 2. Decimal instructions do not exist on the 64-bit host: what the manual calls
 * undefined (OF, and CF AF of AAM) comes out clear; AAD leaves the flags of its addition.
 */
#include "core/cpu/cpuid.h"
#include "engines/soft/block.h"
#include "engines/soft/engine.h"
#include "engines/soft/int.h"

#define HANDLER(name) static void name(struct soft_vcpu *c, const struct uop *u)

/* --- sign extension ----------------------------------------------------------------------------
 */

HANDLER(cbw_u16) {
    set_u16(c, GPR_RAX, (u16)(s8)c->s.gpr[GPR_RAX]);
    NEXT(c, u);
}
HANDLER(cbw_u32) {
    set_u32(c, GPR_RAX, (u32)(s16)c->s.gpr[GPR_RAX]);
    NEXT(c, u);
}
HANDLER(cbw_u64) {
    set_u64(c, GPR_RAX, (u64)(s32)c->s.gpr[GPR_RAX]);
    NEXT(c, u);
}
HANDLER(cwd_u16) {
    set_u16(c, GPR_RDX, (s16)c->s.gpr[GPR_RAX] < 0 ? UINT16_MAX : 0);
    NEXT(c, u);
}
HANDLER(cwd_u32) {
    set_u32(c, GPR_RDX, (s32)c->s.gpr[GPR_RAX] < 0 ? UINT32_MAX : 0);
    NEXT(c, u);
}
HANDLER(cwd_u64) {
    set_u64(c, GPR_RDX, (s64)c->s.gpr[GPR_RAX] < 0 ? UINT64_MAX : 0);
    NEXT(c, u);
}

/* --- flags -------------------------------------------------------------------------------------
 */

HANDLER(lahf) {
    const u64 low = FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF;
    set_u8(c, 1, (u8)((c->aflags & low) | 2));
    NEXT(c, u);
}
HANDLER(sahf) {
    c->aflags = (c->aflags & FLAG_OF) | get_u8(c, 1);
    NEXT(c, u);
}
HANDLER(salc) {
    set_u8(c, 0, c->aflags & FLAG_CF ? 0xff : 0);
    NEXT(c, u);
}
HANDLER(clc) {
    c->aflags &= ~FLAG_CF;
    NEXT(c, u);
}
HANDLER(stc) {
    c->aflags |= FLAG_CF;
    NEXT(c, u);
}
HANDLER(cmc) {
    c->aflags ^= FLAG_CF;
    NEXT(c, u);
}
HANDLER(cld) {
    c->s.rflags &= ~FLAG_DF;
    NEXT(c, u);
}
HANDLER(std_) {
    c->s.rflags |= FLAG_DF;
    NEXT(c, u);
}

/* --- decimal -----------------------------------------------------------------------------------
 */

static u64 result_flags(u8 v) { /* SF ZF PF of a byte */
    u64 f = v & 0x80 ? FLAG_SF : 0;
    f |= v ? 0 : FLAG_ZF;
    return f | (__builtin_popcount(v) & 1 ? 0 : FLAG_PF);
}

static void decimal_adjust(struct soft_vcpu *c, bool subtract) {
    u8 al = get_u8(c, 0), old = al;
    bool cf = c->aflags & FLAG_CF, af = c->aflags & FLAG_AF, carry = false;
    if ((al & 15) > 9 || af) {
        carry = cf || (subtract ? al < 6 : al > 0xff - 6);
        al = (u8)(subtract ? al - 6 : al + 6);
        af = true;
    } else {
        af = false;
    }
    if (old > 0x99 || cf) {
        al = (u8)(subtract ? al - 0x60 : al + 0x60);
        carry = true;
    } else if (!subtract) {
        carry = false;
    }
    set_u8(c, 0, al);
    c->aflags = result_flags(al) | (carry ? FLAG_CF : 0) | (af ? FLAG_AF : 0);
}
HANDLER(daa) {
    decimal_adjust(c, false);
    NEXT(c, u);
}
HANDLER(das) {
    decimal_adjust(c, true);
    NEXT(c, u);
}

static void ascii_adjust(struct soft_vcpu *c, bool subtract) {
    u16 ax = (u16)c->s.gpr[GPR_RAX];
    bool adjust = (ax & 15) > 9 || (c->aflags & FLAG_AF);
    if (adjust) {
        ax = (u16)(subtract ? ax - 0x106 : ax + 0x106);
    }
    ax &= 0xff0f;
    set_u16(c, GPR_RAX, ax);
    c->aflags = result_flags((u8)ax) | (adjust ? FLAG_CF | FLAG_AF : 0);
}
HANDLER(aaa) {
    ascii_adjust(c, false);
    NEXT(c, u);
}
HANDLER(aas) {
    ascii_adjust(c, true);
    NEXT(c, u);
}
HANDLER(aam) {
    u8 al = get_u8(c, 0), base = (u8)u->imm;
    if (!base) {
        soft_fault(c, EXC_DE, false, 0);
    }
    set_u16(c, GPR_RAX, (u16)((al / base) << 8 | al % base));
    c->aflags = result_flags(al % base);
    NEXT(c, u);
}
HANDLER(aad) {
    u64 f, sum = get_u8(c, 0);
    u8 tens = (u8)(get_u8(c, 1) * (u8)u->imm);
    __asm__("addb %b2, %b0" SAVE_FLAGS "%q1" : "+q"(sum), "=&r"(f) : "q"(tens) : "cc");
    set_u16(c, GPR_RAX, (u8)sum);
    c->aflags = f;
    NEXT(c, u);
}

/* --- BOUND, CMPXCHG8B, CMPXCHG16B --------------------------------------------------------------
 */

/* Below the lower bound the upper one is not read. */
static s64 bound_load(struct soft_vcpu *c, const struct uop *u, u32 at) {
    u64 offset = soft_ea(c, u) + at;
    offset &= u->addrsize == 2 ? UINT16_MAX : UINT32_MAX;
    u64 linear = soft_linear(c, u->seg, offset, u->opsize, ACCESS_READ);
    u64 v = soft_lin_load(c, linear, u->opsize, c->mmu);
    return u->opsize == 2 ? (s16)v : (s32)v;
}

HANDLER(bound) {
    u64 r = soft_gpr_get(c, u->dst, u->opsize);
    s64 v = u->opsize == 2 ? (s16)r : (s32)r;
    if (v < bound_load(c, u, 0) || v > bound_load(c, u, u->opsize)) {
        soft_fault(c, EXC_BR, false, 0);
    }
    NEXT(c, u);
}

struct quad {
    u64 lo, hi;
};

static void lock_cmpxchg8b(struct soft_vcpu *c, void *p) {
    u64 f = flags_in(c), a = (u32)c->s.gpr[GPR_RAX], d = (u32)c->s.gpr[GPR_RDX];
    u64 ax = f;
    __asm__ volatile(LOAD_FLAGS "movl %k[a], %%eax\n\tlock cmpxchg8b %[m]" SAVE_FLAGS "%q[f]"
                     : "+&a"(ax), "+&d"(d), [m] "+m"(((struct ram_u64 *)p)->v), [f] "=&r"(f)
                     : [a] "r"(a), "b"((u32)c->s.gpr[GPR_RBX]), "c"((u32)c->s.gpr[GPR_RCX])
                     : "cc", "memory");
    c->aflags = f;
    if (!(f & FLAG_ZF)) {
        set_u32(c, GPR_RAX, (u32)ax);
        set_u32(c, GPR_RDX, (u32)d);
    }
}

static void lock_cmpxchg16b(struct soft_vcpu *c, void *p) {
    u64 f = flags_in(c), a = c->s.gpr[GPR_RAX], d = c->s.gpr[GPR_RDX];
    u64 ax = f;
    __asm__ volatile(LOAD_FLAGS "movq %[a], %%rax\n\tlock cmpxchg16b %[m]" SAVE_FLAGS "%q[f]"
                     : "+&a"(ax), "+&d"(d), [m] "+m"(*(struct quad *)p), [f] "=&r"(f)
                     : [a] "r"(a), "b"(c->s.gpr[GPR_RBX]), "c"(c->s.gpr[GPR_RCX])
                     : "cc", "memory");
    c->aflags = f;
    if (!(f & FLAG_ZF)) {
        c->s.gpr[GPR_RAX] = ax;
        c->s.gpr[GPR_RDX] = d;
    }
}

static void compare_exchange(struct soft_vcpu *c, u64 at, u32 size,
                             void (*op)(struct soft_vcpu *c, void *p)) {
    void *p = mem_lock(c, at, size);
    if (p) {
        op(c, p);
        return;
    }
    struct lock_op lock;
    soft_lock_begin(c, &lock, at, size);
    op(c, lock.p);
    soft_lock_end(c, &lock);
}

HANDLER(cmpxchg8b) {
    compare_exchange(c, uop_addr(c, u), 8, lock_cmpxchg8b);
    NEXT(c, u);
}
HANDLER(cmpxchg16b) {
    u64 at = uop_addr(c, u);
    if (at & 15) {
        soft_gp(c, 0);
    }
    compare_exchange(c, at, 16, lock_cmpxchg16b);
    NEXT(c, u);
}

/* --- identification, time, random numbers ------------------------------------------------------
 */

HANDLER(cpuid) {
    u32 out[4];
    cpuid_query(c->vm->ev->cpuid, c->ev->id, &c->s, get_u32(c, GPR_RAX), get_u32(c, GPR_RCX), out);
    set_u32(c, GPR_RAX, out[0]);
    set_u32(c, GPR_RBX, out[1]);
    set_u32(c, GPR_RCX, out[2]);
    set_u32(c, GPR_RDX, out[3]);
    NEXT(c, u);
}

static void check_tsd(struct soft_vcpu *c) {
    if ((c->s.cr4 & CR4_TSD) && c->cpl != 0) {
        soft_gp(c, 0);
    }
}
static void put_tsc(struct soft_vcpu *c) {
    u64 t = soft_tsc(c);
    set_u32(c, GPR_RAX, (u32)t);
    set_u32(c, GPR_RDX, (u32)(t >> 32));
}
HANDLER(rdtsc) {
    check_tsd(c);
    put_tsc(c);
    NEXT(c, u);
}
HANDLER(rdtscp) {
    check_tsd(c);
    put_tsc(c);
    set_u32(c, GPR_RCX, (u32)c->s.msr.tsc_aux);
    NEXT(c, u);
}
HANDLER(rdpid) {
    soft_gpr_set(c, u->dst, u->opsize, (u32)c->s.msr.tsc_aux);
    NEXT(c, u);
}

#define RANDOM_HANDLER(op, T)                                                                      \
    HANDLER(op##_##T) {                                                                            \
        T v;                                                                                       \
        u64 f;                                                                                     \
        __asm__ volatile(#op " %" MOD_##T "0" SAVE_FLAGS "%q1" : "=r"(v), "=&r"(f)::"cc");         \
        c->aflags = f;                                                                             \
        set_##T(c, u->dst, v);                                                                     \
        NEXT(c, u);                                                                                \
    }
#define RANDOM_HANDLERS(T)                                                                         \
    RANDOM_HANDLER(rdrand, T)                                                                      \
    RANDOM_HANDLER(rdseed, T)
FOR_WIDE(RANDOM_HANDLERS)

/* --- fences, caches, nothing -------------------------------------------------------------------
 */

HANDLER(nop) {
    NEXT(c, u);
}
HANDLER(pause) {
    __builtin_ia32_pause();
    NEXT(c, u);
}
HANDLER(mfence) {
    __asm__ volatile("mfence" ::: "memory");
    NEXT(c, u);
}
HANDLER(lfence) {
    __asm__ volatile("lfence" ::: "memory");
    NEXT(c, u);
}
HANDLER(sfence) {
    __asm__ volatile("sfence" ::: "memory");
    NEXT(c, u);
}
HANDLER(cache_line) { /* CLFLUSH and kin: checked like a load of one byte */
    u64 at = soft_linear(c, u->seg, soft_ea(c, u), 1, ACCESS_READ);
    soft_lin_probe(c, at, 1, ACCESS_READ, (enum mmu_index)c->mmu);
    NEXT(c, u);
}

/* --- binding -----------------------------------------------------------------------------------
 */

static bool bind_sized(struct bind *b, uop_fn fn16, uop_fn fn32, uop_fn fn64) {
    u8 size = b->insn->opsize;
    return done(b, size == 2 ? fn16 : size == 4 ? fn32 : fn64);
}

static bool bind_dst(struct bind *b, uop_fn fn16, uop_fn fn32, uop_fn fn64) {
    b->uop->dst = b->insn->op[0].reg;
    return bind_sized(b, fn16, fn32, fn64);
}

static bool bind_bound(struct bind *b) {
    b->uop->dst = b->insn->op[0].reg;
    return done(b, bound);
}

static bool bind_cx(struct bind *b, u32 size, uop_fn fn) {
    need_mem(b, size, ACCESS_RMW);
    return done(b, fn);
}

static bool bind_flags(struct bind *b) {
    switch (b->insn->id) {
    case INSN_LAHF:
        return done(b, lahf);
    case INSN_SAHF:
        return done(b, sahf);
    case INSN_SALC:
        return done(b, salc);
    case INSN_CLC:
        return done(b, clc);
    case INSN_STC:
        return done(b, stc);
    case INSN_CMC:
        return done(b, cmc);
    case INSN_CLD:
        return done(b, cld);
    case INSN_STD:
        return done(b, std_);
    case INSN_DAA:
        return done(b, daa);
    case INSN_DAS:
        return done(b, das);
    case INSN_AAA:
        return done(b, aaa);
    case INSN_AAS:
        return done(b, aas);
    case INSN_AAM:
        return done(b, aam);
    case INSN_AAD:
        return done(b, aad);
    default:
        return false;
    }
}

static bool bind_hints(struct bind *b) {
    switch (b->insn->id) {
    case INSN_NOP:
    case INSN_ENDBR32:
    case INSN_ENDBR64:
    case INSN_CLDEMOTE:
    case INSN_PREFETCH:
    case INSN_PREFETCHW:
    case INSN_PREFETCHWT1:
    case INSN_PREFETCHNTA:
    case INSN_PREFETCHT0:
    case INSN_PREFETCHT1:
    case INSN_PREFETCHT2:
        return done(b, nop);
    case INSN_PAUSE:
        return done(b, pause);
    case INSN_MFENCE:
    case INSN_SERIALIZE:
        return done(b, mfence);
    case INSN_LFENCE:
        return done(b, lfence);
    case INSN_SFENCE:
        return done(b, sfence);
    case INSN_CLFLUSH:
    case INSN_CLFLUSHOPT:
    case INSN_CLWB:
        return done(b, cache_line);
    case INSN_UD0:
    case INSN_UD1:
    case INSN_UD2:
        b->last = true;
        return done(b, uop_invalid);
    default:
        return false;
    }
}

bool bind_misc(struct bind *b) {
    switch (b->insn->id) {
    case INSN_CBW:
        return bind_sized(b, cbw_u16, cbw_u32, cbw_u64);
    case INSN_CWD:
        return bind_sized(b, cwd_u16, cwd_u32, cwd_u64);
    case INSN_BOUND:
        return bind_bound(b);
    case INSN_CMPXCHG8B:
        return bind_cx(b, 8, cmpxchg8b);
    case INSN_CMPXCHG16B:
        return bind_cx(b, 16, cmpxchg16b);
    case INSN_CPUID:
        return done(b, cpuid);
    case INSN_RDTSC:
        return done(b, rdtsc);
    case INSN_RDTSCP:
        return done(b, rdtscp);
    case INSN_RDPID:
        b->uop->dst = b->insn->op[0].reg;
        b->uop->opsize = b->c->mode == 64 ? 8 : 4;
        return done(b, rdpid);
    case INSN_RDRAND:
        return bind_dst(b, rdrand_u16, rdrand_u32, rdrand_u64);
    case INSN_RDSEED:
        return bind_dst(b, rdseed_u16, rdseed_u32, rdseed_u64);
    default:
        return bind_flags(b) || bind_hints(b);
    }
}
