/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's counters as text: for --stats at the end and for `sosia stats` while it runs. Each
 * line is "NAME VALUE..."; engines count on the vCPUs' threads, and what is read here of a running
 * machine is each counter's value of some moment, not all of the same.
 */
#include "cmd/stats.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/cpu/decode.h"
#include "core/vm/vm.h"

struct text {
    char *at;
    size_t size, used;
};

PRINTF_LIKE(2, 3) static void put(struct text *t, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(t->at + t->used, t->size - t->used, fmt, args);
    va_end(args);
    if (n > 0) {
        size_t room = t->size - t->used - 1;
        t->used += (size_t)n < room ? (size_t)n : room;
    }
}

#define LLU(v) ((unsigned long long)(v))

static double percent(u64 part, u64 all) {
    return all ? 100.0 * (double)part / (double)all : 0;
}

/* --stats=full */
static void put_counted(struct text *t, const struct engine_tr_stats *s) {
    const struct engine_tr_counted *n = &s->counted;
    u64 hits = n->looks > s->misses ? n->looks - s->misses : 0;
    u64 found = n->jumps > s->jump_misses ? n->jumps - s->jump_misses : 0;
    put(t, "  executed in translated code: instructions %llu\n", LLU(n->instructions));
    put(t, "  looks: hits %llu (%.3f %%), misses %llu\n", LLU(hits), percent(hits, n->looks),
        LLU(s->misses));
    put(t, "  indirect jumps: found %llu (%.3f %%), not in the table %llu\n", LLU(found),
        percent(found, n->jumps), LLU(s->jump_misses));
}

static void put_translator(struct text *t, const struct engine_tr_stats *s) {
    static const char *const why[ENGINE_TR_LEFT] = {
        "exceptions", "unjoined jumps",        "entries refused", "indirect targets unknown",
        "slow",       "behind an instruction", "behind a jump"};
    put(t, "  traces %llu, bytes %llu to %llu, joins %llu, outdated %llu\n", LLU(s->blocks),
        LLU(s->bytes_in), LLU(s->bytes_out), LLU(s->links), LLU(s->kills));
    put(t,
        "  forgotten: regions of a full cache %llu, everything for changed memory or features "
        "%llu, "
        "for too many pages %llu\n",
        LLU(s->evictions), LLU(s->flushed_remap), LLU(s->flushed_slots));
    put(t, "  entered %llu, cold blocks interpreted %llu\n", LLU(s->entries), LLU(s->cold));
    put(t, "  left:");
    for (u32 k = 0; k < ENGINE_TR_LEFT; k++) {
        put(t, "%s %s %llu", k ? "," : "", why[k], LLU(s->left[k]));
    }
    put(t, "\n  memory: misses %llu, left to the interpreter %llu, over page ends %llu\n",
        LLU(s->misses), LLU(s->slow), LLU(s->crossed));
    if (s->counting) {
        put_counted(t, s);
    }
    put(t, "  instructions left to the interpreter %llu:", LLU(s->steps));
    for (size_t k = 0; k < ARRAY_LEN(s->step_top) && s->step_top[k].count; k++) {
        put(t, "%s %s %llu", k ? "," : "", insn_name(s->step_top[k].id), LLU(s->step_top[k].count));
    }
    put(t, "\n");
}

void stats_sum(struct vm *vm, const struct engine_ops *engine, struct engine_stats *sum) {
    *sum = (struct engine_stats){0};
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        struct engine_stats s = {0};
        engine->stats(vm->engine_vcpus[i], &s);
        sum->instructions += s.instructions;
        sum->exits += s.exits;
        sum->interrupts += s.interrupts;
        sum->exceptions += s.exceptions;
        sum->tr.code_bytes += s.tr.code_bytes;
    }
}

size_t stats_text(struct vm *vm, const struct engine_ops *engine, char *out, size_t size) {
    struct text t = {.at = out, .size = size};
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        struct engine_stats s = {0};
        engine->stats(vm->engine_vcpus[i], &s);
        put(&t, "vCPU %u: instructions %llu, exits %llu, interrupts %llu, exceptions %llu\n", i,
            LLU(s.instructions), LLU(s.exits), LLU(s.interrupts), LLU(s.exceptions));
        if (s.tr.entries) {
            put_translator(&t, &s.tr);
        }
    }
    return t.used;
}
