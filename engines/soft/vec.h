/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector, x87 and other unprivileged instructions that the real processor executes on guest state.
 *
 *   vec.c       binding, rules for #UD and #NM, handlers     vec_emit.c  the bytes of a stub
 *   vec_pool.c  executable memory, shared stubs              vec_x87.c   x87 and MMX in the real
 * FPU vec_env.c   FSTENV, FSAVE and their kin                  vec_mask.c  masked moves, gathers
 *   xsave.c     FXSAVE, the XSAVE family, MXCSR
 *
 * Where guest state lives while the vCPU runs: XMM, YMM, MXCSR and PKRU always in c->s.xsave, every
 * component materialised (XSTATE_BV means nothing); x87 and MMX there too, or, once an instruction
 * has touched them, in the real x87 unit of this thread (soft_vec.x87_live). soft_vec_leave brings
 * them home. A stub is a leaf function
 *
 *   u32 stub(struct soft_vcpu *c, void *mem, const u32 *host_mxcsr)
 *
 * that loads the operands that the instruction names, executes it with its memory operand as [rsi],
 * stores the results, and returns 0 or STUB_FAULT | vector when the processor raised an exception.
 */
#ifndef ENGINES_SOFT_VEC_H
#define ENGINES_SOFT_VEC_H

#include "core/if/mutex.h"
#include "engines/soft/mem.h"
#include "engines/soft/soft.h"

/* --- what the rest of the engine calls ---------------------------------------------------------
 */

struct vec_pool; /* the stubs of one machine, shared by its vCPUs */

/* With the machine. -ERR_NOMEM, or -ERR_UNSUPPORTED when the host cannot hook faults. */
int soft_vec_pool_create(struct host *host, struct vec_pool **out);
void soft_vec_pool_destroy(struct host *host, struct vec_pool *pool);

/* With the vCPU; fills c->vec. */
int soft_vec_create(struct soft_vcpu *c, struct host *host, struct vec_pool *pool);
void soft_vec_destroy(struct soft_vcpu *c, struct host *host);

/* Before engine_ops.run returns, and before anyone looks at c->s.xsave's x87 part. */
void soft_vec_leave(struct soft_vcpu *c);
/* After state_set (STATE_XSAVE) and reset: parts that XSTATE_BV calls initial become so in bytes.
 */
void soft_vec_state_loaded(struct soft_vcpu *c);
/* Before state_get (STATE_XSAVE): leaves and makes XSTATE_BV canonical. */
void soft_vec_state_store(struct soft_vcpu *c);
/* state_set's check of an XSAVE image: 0, or -ERR_INVAL (reserved MXCSR bits, unknown components).
 */
int soft_vec_state_check(const struct soft_vcpu *c, const u8 *xsave, u64 xcr0);

/* PKRU lives in the XSAVE image; 0 where the policy has none. */
u32 soft_pkru_get(const struct soft_vcpu *c);
void soft_pkru_set(struct soft_vcpu *c, u32 value);

/* --- inside ------------------------------------------------------------------------------------
 */

enum {
    XS_FCW = 0,
    XS_FSW = 2,
    XS_FTW = 4, /* abridged: bit n set when register n is not empty */
    XS_FOP = 6,
    XS_FIP = 8,
    XS_FDP = 16,
    XS_MXCSR = 24,
    XS_MXCSR_MASK = 28,
    XS_ST = 32,
    XS_XMM = 160,
    XS_LEGACY = 416, /* what the processor writes of the 512 bytes */
    XS_BV = 512,     /* header */
    XS_XCOMP = 520,
    XS_YMMH = 576,
};

enum { MXCSR_DEFAULT = 0x1f80, FCW_DEFAULT = 0x37f };
enum { STUB_FAULT = 0x100, STUB_MAX = 320, SCRATCH_SLOTS = 16 };

typedef u32 (*stub_fn)(struct soft_vcpu *c, void *mem, const u32 *host_mxcsr);

struct soft_vec {
    struct vec_pool *pool;
    struct host *host;
    u32 index; /* of this vCPU */
    u32 host_mxcsr;
    u32 mxcsr_mask; /* bits that LDMXCSR may set */
    u8 linear_bits; /* of the host's linear addresses: what its x87 unit keeps of FIP */
    bool x87_live;  /* the guest's x87 and MMX registers are in the real unit */
    u32 scratch;    /* next scratch slot of this vCPU (vec_pool.c) */
    /* Of the last x87 instruction that is not a control instruction, when x87_live. */
    u64 fip, fdp;
    u16 fop;
    u64 loaded_fip, loaded_fdp; /* what FXRSTOR put into the unit */
    u16 loaded_fop;
    u8 bounce[64] ALIGNED(64); /* memory operand that is not plain RAM */
    u8 fx[512] ALIGNED(64);    /* FXSAVE image on its way to and from the unit */
};

/* vec_pool.c: executable copy of a stub; NULL when the pool is full. Any vCPU thread. */
stub_fn vec_pool_get(struct soft_vcpu *c, const u8 *code, u32 len);
/* The same in a slot of this vCPU, good until SCRATCH_SLOTS more were asked for. */
stub_fn vec_pool_scratch(struct soft_vcpu *c, const u8 *code, u32 len);

/* vec_emit.c: writes the stub of insn to buf (STUB_MAX bytes) and returns its length, or 0 when the
 * form has no stub. */
u32 vec_emit(const struct insn *insn, u8 *buf);
/* Does the instruction take rounding, exceptions or flags from MXCSR? */
bool vec_uses_mxcsr(const struct insn *insn);

/* vec_x87.c */
void vec_x87_load(struct soft_vcpu *c);
bool vec_bind_x87(struct bind *b); /* opcodes D8..DF, 9B */
static inline void vec_x87_need(struct soft_vcpu *c) {
    if (!c->vec->x87_live) {
        vec_x87_load(c);
    }
}
/* Raises #MF when an unmasked x87 exception is pending in the unit. */
void vec_x87_pending(struct soft_vcpu *c);

bool vec_bind_env(struct bind *b); /* vec_env.c */
u16 x87_summary(u16 fsw, u16 fcw); /* FSW with ES and B as flags and masks say */
void vec_x87_init(u8 *xsave);      /* the XSAVE image's x87 part becomes initial */

bool vec_bind_mask(struct bind *b); /* vec_mask.c */
/* xsave.c: FXSAVE, FXRSTOR, the XSAVE family, LDMXCSR, STMXCSR; #UD and #NM included. */
bool vec_is_xsave(u16 id);
bool vec_bind_xsave(struct bind *b);
uop_fn vec_ud(void); /* handlers that raise */
uop_fn vec_nm(void);

/* vec.c */
/* Is it of those on general registers that the host executes in a stub, too (BMI, ADX, POPCNT and
 * their like), and always with the same result? */
bool vec_is_integer(u16 id);
/* Finds or makes the stub; false when the form has none. */
bool vec_bind_stub(struct bind *b);
stub_fn vec_stub_slow(struct soft_vcpu *c, const struct uop *u);
/* Prepares the address of the memory operand: what vec_mem_fast needs, and uop.opsize, uop.dst. */
void vec_bind_address(struct bind *b, const struct insn_operand *mem);
/* Offset of the memory operand in its segment. */
u64 vec_offset(const struct soft_vcpu *c, const struct uop *u);
/* Where the stub finds the operand at offset: guest RAM itself, or the bounce buffer, filled. */
void *vec_mem_read(struct soft_vcpu *c, const struct uop *u, u64 offset);
/* The same for a store: checked; NULL when it is to go to the bounce buffer first and then, by
 * soft_lin_write, to *linear. */
void *vec_mem_write(struct soft_vcpu *c, const struct uop *u, u64 offset, u64 *linear);
/* Raises what a stub has reported. */
_Noreturn void vec_stub_fault(struct soft_vcpu *c, u32 status);

#define UOP_SIMPLE 1u /* uop.spare: its segment cannot matter */
/*
 * The operand's place when its segment cannot matter (UOP_SIMPLE) and its translation is cached;
 * NULL: take the long way. uop.opsize: its bytes; uop.dst: it must be aligned to them.
 */
static inline void *vec_mem_fast(struct soft_vcpu *c, const struct uop *u, bool write) {
    if (UNLIKELY(!(u->spare & UOP_SIMPLE))) {
        return NULL;
    }
    u64 a = uop_addr(c, u);
    const struct tlb_entry *e = tlb_slot(c->dtlb, a);
    u64 tag = write ? e->write : e->read;
    bool aligned = !u->dst || !(a & (u->opsize - 1u));
    return LIKELY(tag == TAG_OF(a, u->opsize) && aligned) ? (void *)(uintptr_t)(a + e->addend)
                                                          : NULL;
}

static inline stub_fn vec_stub(struct soft_vcpu *c, const struct uop *u) {
    stub_fn fn;
    memcpy(&fn, &uop_kept(u)->stub, sizeof(fn));
    return LIKELY(fn != NULL) ? fn : vec_stub_slow(c, u);
}

/* Around accesses that are never checked for alignment (SDM volume 2: masked moves, gathers,
 * half-precision conversions). A fault in between goes through soft_derived_update, which puts the
 * check back. */
static inline void vec_align_off(struct soft_vcpu *c) {
    c->align_check = false;
}
static inline void vec_align_on(struct soft_vcpu *c) {
    c->align_check = c->mode_key & KEY_AC;
}

static inline u8 *vec_xmm(struct soft_vcpu *c, u32 n) {
    return c->s.xsave + XS_XMM + 16 * n;
}
static inline u8 *vec_ymmh(struct soft_vcpu *c, u32 n) {
    return c->s.xsave + XS_YMMH + 16 * n;
}

static inline u16 get16(const u8 *p) {
    u16 v;
    memcpy(&v, p, sizeof(v));
    return v;
}
static inline u32 get32(const u8 *p) {
    u32 v;
    memcpy(&v, p, sizeof(v));
    return v;
}
static inline u64 get64(const u8 *p) {
    u64 v;
    memcpy(&v, p, sizeof(v));
    return v;
}
static inline void put16(u8 *p, u16 v) {
    memcpy(p, &v, sizeof(v));
}
static inline void put32(u8 *p, u32 v) {
    memcpy(p, &v, sizeof(v));
}
static inline void put64(u8 *p, u64 v) {
    memcpy(p, &v, sizeof(v));
}

#endif
