/* SPDX-License-Identifier: Apache-2.0 */
/* The software engine as the machine sees it, and what its vCPUs share. */
#ifndef ENGINES_SOFT_ENGINE_H
#define ENGINES_SOFT_ENGINE_H

#include "core/cpu/decode.h"
#include "core/if/mutex.h"
#include "engines/soft/soft.h"

extern const struct engine_ops soft_engine_ops;

enum { SOFT_MAX_VCPUS = 64 };

struct smc_page;
struct vec_pool;

struct soft_vm {
    struct engine_vm *ev;
    struct host *host;
    struct ram *ram;
    struct vec_pool *vec_pool;
    struct soft_vcpu *vcpu[SOFT_MAX_VCPUS]; /* atomic pointers: NULL before create */

    struct smc_page *pages; /* one per page of RAM, by ram_page_index (smc.h) */
    u64 page_count;
    struct mutex watch_lock; /* pages becoming watched or unwatched; taken outside guest mode */
    struct mutex stop_lock;  /* held by the vCPU that runs alone */
    u32 quiet;               /* counts vCPUs leaving guest mode; waited on */
    u32 resumed;             /* counts ends of exclusive sections; waited on */

    u64 *dirty; /* the dirty bitmap, kept until vm_destroy; ram->dirty points here while on */
    u64 dirty_size;

    /* The machine's clock: rdtsc, or the host's clock scaled, when the rates differ. */
    bool tsc_native;
    u64 tsc_mult;         /* ticks per ns, 32.32 fixed point */
    u64 tsc_start;        /* machine clock when the VM was created */
    u64 tsc_first_offset; /* of vCPU 0, when its TSC was set from outside */
    bool tsc_first_valid;
};

static inline struct soft_vcpu *soft_of(struct engine_vcpu *ev) {
    return ev->priv;
}

/* How translated code treats an instruction; SOFT_CALLOUT where there is no translator. */
enum soft_handling {
    SOFT_IDENTICAL, /* the same instruction, its memory operand redirected */
    SOFT_INLINE,    /* other instructions in its place */
    SOFT_CALLOUT,   /* a call of C code, or the interpreter */
};
enum soft_handling soft_tr_handling(struct engine_vcpu *vcpu, const struct insn *insn);

/* run.c */
int soft_run(struct engine_vcpu *ev, struct vm_exit *exit);
void soft_idle(struct engine_vcpu *ev, bool rests); /* idle.c */
void soft_request(struct soft_vcpu *c, u32 bits);   /* any thread */

#endif
