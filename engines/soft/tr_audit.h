/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An independent look at generated code: what may it do? The decoder goes over the bytes of a trace
 * and follows the values in the registers; see tr_audit.c for the rules.
 */
#ifndef ENGINES_SOFT_TR_AUDIT_H
#define ENGINES_SOFT_TR_AUDIT_H

#include "engines/soft/tr.h"

/* Looks at the trace with that index; false, with a reason in text, when it breaks a rule. */
bool tr_audit(struct soft_vcpu *c, u32 block, char *text, size_t size);
/* All traces that can be reached. */
bool tr_audit_all(struct soft_vcpu *c, char *text, size_t size);
void tr_audit_free(struct soft_tr *t, struct host *host);

/* --- inside ------------------------------------------------------------------------------------
 */

enum audit_kind {
    AUDIT_SUM,    /* a sum: anything that is not known better is one symbol */
    AUDIT_LOW,    /* lower 32 bits of the sum: a number that is the symbol `own` */
    AUDIT_TAG,    /* the sum with all bits of the offset set */
    AUDIT_INDEX,  /* bits 12 to 31 of the sum, and of `own` */
    AUDIT_OFFSET, /* bits 0 to 11 of the sum */
    AUDIT_END,    /* AUDIT_OFFSET + sym[1] * coef[1] */
    AUDIT_BOUND,  /* no bits but those of c */
    AUDIT_LOOK,   /* c->look */
    AUDIT_SLOT,   /* c->look + 8 * index of the sum, and of `own` */
    AUDIT_DTLB,   /* c->dtlb_ac */
    AUDIT_SEEN,   /* c->tr_seen */
    AUDIT_ADDEND, /* host address - linear address, of the sum and len bytes, plus c - at */
    AUDIT_HOST,   /* host address: addend + sum */
};

/* sym[0] * coef[0] + sym[1] * coef[1] + c, modulo 2^64; symbol 0: none. */
struct audit_value {
    u8 kind; /* enum audit_kind */
    bool write;
    u8 coef[2];
    u32 sym[2];
    u64 c;
    u64 at; /* ADDEND, HOST: the constant of the sum that was looked up */
    u32 len;
    u32 own;
    u64 plus; /* END: the count is len + plus */
};

enum {
    CODE_MAX = 96 * 1024,
    FACTS = 8,
    TEMP = GPR_COUNT,
    SLOTS = TEMP + 1,
    VALUES = SLOTS + TR_GROUPS
};
enum { LATE_MAX = 512 };
enum { PAGE_LOW = (u32)PAGE_MASK };

/* What a comparison has shown, on the way on. */
struct fact {
    u32 sym; /* sym + plus is at most `most`; 0: free */
    u64 plus, most;
    bool run; /* the run of sym + plus elements of `size` bytes from `from` stays in its page */
    u32 size;
    struct audit_value from;
};

struct audit {
    struct soft_vcpu *c;
    const struct soft_tr *t;
    const struct tr_block *b;
    const u8 *code;
    u32 from, to, at; /* offsets in the code cache; at: of the instruction */
    struct insn insn;
    struct audit_value v[VALUES]; /* of host registers, c->tr_temp, c->tr_addend */
    u32 next_sym;
    /* The comparison just made, and what the jump behind it has shown. */
    enum { CMP_NONE, CMP_TAG, CMP_COUNT, CMP_RUN } compared;
    struct audit_value cmp;
    u64 cmp_imm;
    struct audit_value passed; /* ADDEND: the slot whose tag was right */
    bool has_passed;
    struct fact fact[FACTS];
    u32 facts;
    u32 anchor; /* the last place where a look may go on; 0: guest registers were changed since */
    bool temp_read; /* c->tr_temp was, since the anchor: it may not change before the look */
    u32 jumps;
    struct late { /* what is known at a jump forward */
        u32 to;
        struct audit_value v[VALUES];
    } late[LATE_MAX];
    const char *why;
    u64 many[CODE_MAX / 64],
        back[CODE_MAX / 64]; /* labels that more than one jump leads to; of looks */
    /* Behind accesses that the interpreter may do; behind the check for live vector registers. */
    u64 after[CODE_MAX / 64], loaded[CODE_MAX / 64];
    u32 load; /* where the check just made comes back to; 0: it was something else */
    u64 start[CODE_MAX / 64], label[CODE_MAX / 64];
};

/* tr_audit_value.c */
struct audit_value audit_fresh(struct audit *a); /* a number that nothing is known of */
struct audit_value audit_constant(u64 c);
bool audit_same_symbols(const struct audit_value *x, const struct audit_value *y);
bool audit_same_sum(const struct audit_value *x, const struct audit_value *y);
struct audit_value audit_as_sum(struct audit_value v); /* as a number of 64 bits */
/* to += v * scale, both sums; false: not followed */
bool audit_sum_sum(struct audit_value *to, const struct audit_value *v, u32 scale);
bool audit_address(struct audit *a,
                   struct audit_value *out); /* the operand's; false: not followed */
enum { ARRAY_READ, ARRAY_WRITE, ARRAY_ADDEND };
bool audit_look_place(const struct audit_value *at, u32 *array, u64 *slot);
bool audit_is_gpr(const struct insn_operand *op, u32 size);
void audit_values(struct audit *a); /* after the instruction */

#endif
