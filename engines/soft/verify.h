/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock-step: what translated code did is done again by the interpreter, from the same state, and
 * the whole state is compared; docs/soft-engine.md has the scheme.
 *
 *   verify.c   windows, the pages written in them, comparing     verify_report.c   what a person
 * reads
 *
 * A window is the run of one to eight traces:
 *
 *   live     generated code runs on the machine. The first store to each page misses (fast write
 *            translations are dropped between windows) and the page's old bytes are kept.
 *   shadow   the interpreter runs from the state at the window's start, one instruction at a time,
 *            on copies of the pages' old bytes, until it stands where generated code has stopped
 *            with the same registers, flags, vector state and memory; or it never does.
 *
 * What can be done only once (ports, registers in memory, time, random numbers, stores beside
 * code) ends a window in front of it and is done by the interpreter in between; exceptions are
 * compared before they are delivered. Each effect on the machine therefore happens once.
 *
 * Lock rule: all belongs to the vCPU's thread, but soft_verify_external, which takes part by
 * atomics.
 */
#ifndef ENGINES_SOFT_VERIFY_H
#define ENGINES_SOFT_VERIFY_H

#include "engines/soft/mem.h"
#include "engines/soft/soft.h"

struct tr_exit;
struct look_set;

enum {
    VERIFY_PAGES = 64,   /* written in one window */
    VERIFY_OPENED = 256, /* fast write translations made since the last window */
    VERIFY_OUTSIDE = 16, /* writes by others in one window */
    VERIFY_TURNS = 8,    /* most traces in a window */
    VERIFY_STEPS = 8192, /* most instructions of the interpreter in one */
    VERIFY_LISTED = 400, /* instructions that a report can name */
};

enum verify_phase { VERIFY_NONE, VERIFY_LIVE, VERIFY_SHADOW };
enum verify_outcome { VERIFY_WENT, VERIFY_FAULTED, VERIFY_STOPPED };

enum verify_end { VERIFY_SAME, VERIFY_LONG, VERIFY_ONCE, VERIFY_FAULT, VERIFY_ACCESS };

/* A page as it was when the window began, and as the interpreter makes it. */
struct verify_page {
    u64 gpa;
    u8 *ram;
    u8 old[PAGE_SIZE] ALIGNED(64), now[PAGE_SIZE] ALIGNED(64); /* as in RAM: operands may need it */
};

/* All of struct soft_vcpu that instructions change, without the words of other threads; of the
 * XSAVE image only what is in use. */
struct verify_state {
    u8 first[offsetof(struct soft_vcpu, request)] ALIGNED(64);
    u8 second[offsetof(struct soft_vcpu, jump) - offsetof(struct soft_vcpu, fault_vector)];
    struct tlb_context *context;
    u64 fip, fdp; /* struct soft_vec */
    u16 fop;
    u32 pkru;
};

struct soft_verify {
    u32 period, countdown; /* one window in so many entries of generated code */
    u64 random;
    u8 phase;         /* enum verify_phase */
    u8 outcome;       /* enum verify_outcome of the live part */
    u32 mxcsr;        /* bits of MXCSR that are compared */
    bool opened_over; /* more translations were made than there is room for */
    u32 exit;         /* what generated code was left by */
    u32 turns;
    u32 page_count, opened_count, looked_count;
    u64 looked_resets;    /* struct soft_look */
    u32 steps, candidate; /* candidate: steps + 1 after which the state was most alike; 0: never */
    u32 likeness;
    u8 ended, ended_vector; /* enum verify_end of the shadow; its exception */
    u64 ended_cr2;
    struct engine_verify_stats stats;

    struct tlb_entry *opened[VERIFY_OPENED];
    struct verify_look {
        struct look_set *set;
        u32 slot;
    } looked[VERIFY_OPENED];
    u32 walking;       /* the page walk writes A and D bits */
    u32 outside_count; /* atomic */
    u32 foreign;       /* atomic: those of other threads */
    struct {
        u64 gpa, size;
    } outside[VERIFY_OUTSIDE];

    struct verify_state before, live, shadow;
    struct verify_page page[VERIFY_PAGES];
    void *outer[8]; /* c->jump of the run loop */

    /* Of a report. */
    u64 listed[VERIFY_LISTED];
    u32 culprit; /* index into listed, + 1 */
    char text[256];
};

int soft_verify_create(struct soft_vcpu *c);
void soft_verify_destroy(struct soft_vcpu *c);

/* In place of tr_enter. */
u32 soft_verify_enter(struct soft_vcpu *c, const u8 *code);

/* May the interpreter do this step of generated code inside a window? */
bool soft_verify_may_step(const struct soft_vcpu *c, const struct tr_exit *e);

/* tlb.c: a fast write translation of a page was made; may not return (the window ends). */
void soft_verify_opened(struct soft_vcpu *c, struct tlb_entry *e, u64 gpa);
/* look.c: likewise in the tables for generated code. */
void soft_verify_looked(struct soft_vcpu *c, struct look_set *set, u32 slot);
/* mem.c: an access was resolved; moves it to the interpreter's copies; may not return. */
void soft_verify_access(struct soft_vcpu *c, bool write, struct mem_at *at);
/* smc.c: memory was written by a device, or A and D bits by a walk. Any thread. */
void soft_verify_external(struct soft_vm *vm, u64 gpa, u64 size);

static inline bool soft_verify_shadow(const struct soft_vcpu *c) {
    return c->verify && c->verify->phase == VERIFY_SHADOW;
}

static inline void soft_verify_walking(struct soft_vcpu *c, bool on) {
    if (UNLIKELY(c->verify)) {
        __atomic_store_n(&c->verify->walking, on, __ATOMIC_RELAXED);
    }
}

/* --- inside ------------------------------------------------------------------------------------
 */

void verify_state_take(const struct soft_vcpu *c, struct verify_state *to);
void verify_state_put(struct soft_vcpu *c, const struct verify_state *from);
static inline const struct cpu_state *verify_cpu(const struct verify_state *s) {
    return (const struct cpu_state *)(const void *)s->first;
}
static inline u64 verify_flags(const struct verify_state *s) {
    u64 arith;
    memcpy(&arith, s->first + offsetof(struct soft_vcpu, aflags), sizeof(arith));
    return (verify_cpu(s)->rflags & ~(u64)FLAG_ARITH) | (arith & FLAG_ARITH);
}
static inline u64 verify_rip(const struct verify_state *s) {
    u64 rip;
    memcpy(&rip, s->first + offsetof(struct soft_vcpu, next_rip), sizeof(rip));
    return rip;
}

/* The fault on its way to the run loop. */
struct verify_fault {
    u8 vector;
    bool has_error;
    u32 error;
    u64 cr2;
};
struct verify_fault verify_fault(const struct verify_state *s);
bool verify_same_system(const struct cpu_state *a, const struct cpu_state *b);
/* First byte of the page that differs and that no outsider wrote; PAGE_SIZE: none. */
u32 verify_page_differs(const struct soft_verify *v, const struct verify_page *p);
/* Shadow, stopped after so many steps; the list and the culprit are filled. */
void verify_shadow_again(struct soft_vcpu *c, u32 steps);

void verify_report(struct soft_vcpu *c); /* verify_report.c: to the log */

#endif
