/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that rests gives its share of the engine's memory back: what start-up translated and
 * decoded is mostly never run again. Whether it rests is told by time: windows of some seconds of
 * which the vCPU slept nearly all. A minute of them makes a rest; a shorter pause does not, since
 * whoever types the next command should find the machine warm. Then everything that can be made
 * again is dropped, at the end of each window in which more than some MiB have come together.
 *
 * On the vCPU's thread, between two instructions.
 */
#include "engines/soft/block.h"
#include "engines/soft/engine.h"
#include "engines/soft/look.h"
#include "engines/soft/tlb.h"
#include "engines/soft/tr.h"

/* Awake for less than one part in so many, and what it may hold then: the clock and idle loop of
 * Linux make 1 to 2 MiB of code and tables; a guest with a little to do keeps more, or it would
 * make the same again in each window. */
enum {
    WINDOW_SECONDS = 4,
    REST_WINDOWS = 15,
    RESTING = 100,
    RESTING_KEEP_MIB = 3,
    LIGHT = 12,
    LIGHT_KEEP_MIB = 5,
    LIGHT_BLOCKS_MIB = 3
};

static size_t held(const struct soft_vcpu *c) {
    size_t look = c->tlb->look ? (size_t)c->tlb->look->touched * PAGE_SIZE : 0;
    return soft_cache_touched(c) + (c->tr ? (size_t)tr_cache_touched(c->tr) : 0) + look;
}

static void give_back(struct soft_vcpu *c) {
    soft_cache_trim(c);
    if (c->tlb->look) {
        soft_look_trim(c);
    }
    if (c->tr) {
        tr_cache_trim(c);
    }
    c->idle.trims++;
}

static void window_end(struct soft_vcpu *c, u64 now) {
    struct soft_idle *i = &c->idle;
    u64 length = now - i->window;
    u64 windows = MAX(length / (WINDOW_SECONDS * NSEC_PER_SEC), (u64)1); /* a long sleep is many */
    bool light = i->window && i->busy < length / LIGHT;
    u64 keep = i->busy < length / RESTING ? RESTING_KEEP_MIB : LIGHT_KEEP_MIB;
    i->light = light ? (u32)MIN(i->light + windows, (u64)REST_WINDOWS) : 0;
    bool rests = i->light == REST_WINDOWS;
    soft_cache_limit(c, rests ? LIGHT_BLOCKS_MIB * MIB : SIZE_MAX);
    if (rests && held(c) > keep * MIB) {
        give_back(c);
    }
    i->window = now;
    i->busy = 0;
}

void soft_idle(struct engine_vcpu *ev, bool rests) {
    struct soft_vcpu *c = soft_of(ev);
    struct soft_idle *i = &c->idle;
    u64 now = c->vm->host->ops->now(c->vm->host);
    if (!c->vm->host->ops->pages_discard || c->verify) {
        return;
    }
    if (!rests) {
        i->woke = now;
        return;
    }
    i->busy += i->woke ? now - i->woke : 0;
    if (now - i->window >= WINDOW_SECONDS * NSEC_PER_SEC) {
        window_end(c, now);
    }
}
