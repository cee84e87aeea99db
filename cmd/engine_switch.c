/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running machine under another engine: its state is saved, the board is taken apart but for RAM
 * and back ends, made again on the other engine, and loaded. The guest sees that time stood still
 * for some milliseconds. Event thread.
 */
#include <stdlib.h>
#include <unistd.h>

#include "cmd/machine.h"
#include "cmd/snapshot_int.h"

#define STATE_MAX (64 * MIB)

enum { STATE_FIRST = 256 << 10 };

/* What survives the board. */
struct moving {
    struct machine *m;
    struct host *host;
    struct cpuid_policy cpuid;
    struct host_ram ram;
    u8 *state;
    size_t size;
    u32 pauses; /* of the machine, without our own */
    bool tracked;
    void (*on_stop)(void *ctx);
    void *on_stop_ctx;
};

int machine_state_save(struct vm *vm, u8 **state, size_t *size, struct err *err) {
    int rc = -ERR_RANGE;
    u8 *buf = NULL;
    for (size_t cap = STATE_FIRST; rc == -ERR_RANGE && cap <= STATE_MAX; cap *= 4) {
        free(buf);
        buf = malloc(cap);
        struct snap_writer w = {.buf = buf, .cap = cap};
        rc = buf ? vm_save(vm, &w) : -ERR_NOMEM;
        *size = w.len;
    }
    if (rc) {
        free(buf);
        return ERR_SET(err, ERR_STATE, "the machine's state cannot be saved: %s", err_name(rc));
    }
    *state = buf;
    return 0;
}

/* Would the other engine be the same processor? */
static int cpuid_check(const struct moving *mv, const struct engine_ops *engine, struct err *err) {
    struct cpuid_policy *p = malloc(sizeof(*p));
    u64 weaker;
    int rc = p ? cpuid_policy_init(p, mv->cpuid.tsc_hz, mv->cpuid.vcpus, err) : -ERR_NOMEM;
    if (!rc && engine->cpuid_limit) {
        rc = engine->cpuid_limit(mv->host, p, err);
    }
    if (!rc) {
        cpuid_policy_emulate(p, engine->cpuid_emulates, NULL, &mv->cpuid);
    }
    rc = rc ? rc : cpuid_policy_adopt(p, &mv->cpuid, &weaker, err);
    free(p);
    return rc;
}

static int board_make(struct moving *mv, const struct engine_ops *engine,
                      const struct engine_caps *caps, struct err *err) {
    struct machine *m = mv->m;
    struct snap_reader r = {.buf = mv->state, .len = mv->size};
    m->caps = *caps;
    m->cfg.ram = &mv->ram;
    m->cfg.cpuid = &mv->cpuid;
    int rc = pc_create(mv->host, engine, &m->cfg, &m->pc, err);
    m->cfg.ram = NULL;
    m->cfg.cpuid = NULL;
    if (rc) {
        return rc;
    }
    m->engine = engine;
    rc = mv->tracked ? vm_dirty_start(pc_vm(m->pc), err) : 0;
    rc = rc ? rc : vm_load(pc_vm(m->pc), &r, err);
    if (rc) {
        mv->ram = vm_take_memory(pc_vm(m->pc));
        pc_destroy(m->pc);
        m->pc = NULL;
    }
    return rc;
}

static void board_unmake(struct moving *mv) {
    struct vm *vm = pc_vm(mv->m->pc);
    mv->on_stop = vm->on_stop;
    mv->on_stop_ctx = vm->on_stop_ctx;
    vm->on_stop = NULL; /* it is not the machine that ends */
    mv->ram = vm_take_memory(vm);
    pc_destroy(mv->m->pc);
    mv->m->pc = NULL;
}

static int board_start(struct moving *mv, struct err *err) {
    struct vm *vm = pc_vm(mv->m->pc);
    vm->on_stop = mv->on_stop;
    vm->on_stop_ctx = mv->on_stop_ctx;
    for (u32 i = 0; i < mv->pauses; i++) {
        vm_pause_begin(vm);
    }
    return vm_start(vm, err);
}

/* Frozen: everything that can say no says it before anything is taken apart. */
static int prepare(struct moving *mv, const struct engine_ops *engine, struct err *err) {
    struct machine *m = mv->m;
    struct vm *vm = pc_vm(m->pc);
    if (vm_stop_get(vm).reason != STOP_NONE) {
        return ERR_SET(err, ERR_STATE, "the machine is about to end");
    }
    mv->pauses = vm->pause_count - 1;
    mv->cpuid = vm->cpuid;
    mv->tracked = vm->dirty_on;
    int rc = cpuid_check(mv, engine, err);
    rc = rc ? rc : machine_state_save(vm, &mv->state, &mv->size, err);
    if (!rc && mv->tracked && vm_dirty_collect(vm, m->snapshot->written)) {
        rc = ERR_SET(err, ERR_STATE, "written pages are not known");
    }
    return rc;
}

/* Makes it again where it was when the other engine cannot. */
static int move(struct moving *mv, const struct engine_ops *engine, const struct engine_caps *caps,
                struct err *err) {
    const struct engine_ops *old = mv->m->engine;
    struct engine_caps old_caps = mv->m->caps;
    struct err again = {0};
    board_unmake(mv);
    int rc = board_make(mv, engine, caps, err);
    if (rc && board_make(mv, old, &old_caps, &again)) {
        complain("%s; and the machine cannot go back: %s", err->text, again.text);
        _exit(EXIT_GUEST_CRASH); /* there is no machine any more */
    }
    int started = board_start(mv, rc ? &again : err);
    return rc ? rc : started;
}

int machine_switch_engine(struct machine *m, enum engine_choice choice, struct err *err) {
    struct moving *mv = calloc(1, sizeof(*mv));
    struct engine_caps caps;
    const struct engine_ops *engine =
        mv ? engine_select(linux_host_host(m->lh), choice, true, &caps, err) : NULL;
    if (!engine) {
        free(mv);
        return err->code ? err->code : ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    if (engine == m->engine || m->gdb) {
        free(mv);
        return engine == m->engine ? 0 : ERR_SET(err, ERR_STATE, "not while a debugger is served");
    }
    mv->m = m;
    mv->host = linux_host_host(m->lh);
    vm_freeze(pc_vm(m->pc));
    int rc = prepare(mv, engine, err);
    if (rc) {
        vm_thaw(pc_vm(m->pc));
    } else {
        rc = move(mv, engine, &caps, err);
    }
    free(mv->state);
    free(mv);
    return rc;
}
