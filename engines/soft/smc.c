/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code pages, and vCPUs waiting for one another; see smc.h.
 *
 * Guest mode: c->in_guest is 1 while the vCPU may use cached translations. A requester sets a bit
 * in c->request and waits until the vCPU has served it or is outside guest mode; a vCPU entering
 * guest mode sets in_guest first and then looks at its requests (both sequentially consistent), so
 * one of the two sees the other. Whoever waits for others is itself outside guest mode, so waits
 * never form a circle.
 *
 * Lock order: stop_lock > watch_lock; both are taken outside guest mode only.
 */
#include "engines/soft/smc.h"

#include "engines/soft/block.h"
#include "engines/soft/tlb.h"
#include "engines/soft/tr.h"
#include "engines/soft/verify.h"

enum { QUIET_STORES = 24, SPINS = 200 };

#define PURGE_NONE UINT64_MAX
#define PURGE_ALL  (UINT64_MAX - 1)

static u32 request_of(const struct soft_vcpu *c) {
    return __atomic_load_n(&c->request, __ATOMIC_SEQ_CST);
}
static bool in_guest(const struct soft_vcpu *c) {
    return __atomic_load_n(&c->in_guest, __ATOMIC_SEQ_CST);
}
static struct soft_vcpu *vcpu_at(const struct soft_vm *vm, u32 i) {
    return __atomic_load_n(&vm->vcpu[i], __ATOMIC_ACQUIRE);
}

/* --- guest mode --------------------------------------------------------------------------------
 */

void soft_guest_leave(struct soft_vcpu *c) {
    __atomic_store_n(&c->in_guest, 0, __ATOMIC_SEQ_CST);
}

void soft_guest_enter(struct soft_vcpu *c) {
    struct host *host = c->vm->host;
    for (;;) {
        __atomic_store_n(&c->in_guest, 1, __ATOMIC_SEQ_CST);
        u32 request = request_of(c);
        if (LIKELY(!(request & (SOFT_REQ_PURGE | SOFT_REQ_STOP)))) {
            return;
        }
        if (request & SOFT_REQ_STOP) {
            soft_guest_leave(c);
            host->ops->wait(host, &c->request, request, HOST_FOREVER);
        } else {
            smc_purge(c);
        }
    }
}

static void wait_until_quiet(struct soft_vcpu *other, u32 bit) {
    struct host *host = other->vm->host;
    for (u32 spins = 0; in_guest(other) && (!bit || (request_of(other) & bit)); spins++) {
        if (spins < SPINS) {
            __builtin_ia32_pause();
        } else {
            host->ops->yield(host);
        }
    }
}

void soft_stop_others(struct soft_vcpu *c) {
    struct soft_vm *vm = c->vm;
    soft_guest_leave(c);
    mutex_lock(vm->host, &vm->stop_lock);
    for (u32 i = 0; i < SOFT_MAX_VCPUS; i++) {
        struct soft_vcpu *other = vcpu_at(vm, i);
        if (other && other != c) {
            soft_request(other, SOFT_REQ_STOP);
        }
    }
    for (u32 i = 0; i < SOFT_MAX_VCPUS; i++) {
        struct soft_vcpu *other = vcpu_at(vm, i);
        if (other && other != c) {
            wait_until_quiet(other, 0);
        }
    }
}

void soft_resume_others(struct soft_vcpu *c) {
    struct soft_vm *vm = c->vm;
    for (u32 i = 0; i < SOFT_MAX_VCPUS; i++) {
        struct soft_vcpu *other = vcpu_at(vm, i);
        if (other && other != c) {
            __atomic_fetch_and(&other->request, ~(u32)SOFT_REQ_STOP, __ATOMIC_SEQ_CST);
            vm->host->ops->wake(vm->host, &other->request, 1);
        }
    }
    mutex_unlock(vm->host, &vm->stop_lock);
    soft_guest_enter(c);
}

/* --- purging translations ----------------------------------------------------------------------
 */

void smc_purge(struct soft_vcpu *c) {
    __atomic_fetch_and(&c->request, ~(u32)SOFT_REQ_PURGE, __ATOMIC_SEQ_CST);
    u64 page = __atomic_exchange_n(&c->purge_page, PURGE_NONE, __ATOMIC_SEQ_CST);
    if (page == PURGE_ALL) {
        soft_tlb_drop_all_writes(c);
    } else if (page != PURGE_NONE) {
        soft_tlb_drop_writes(c, page);
    }
}

/* watch_lock held. */
static void purge_request(struct soft_vcpu *c, u64 page) {
    u64 none = PURGE_NONE;
    if (!__atomic_compare_exchange_n(&c->purge_page, &none, page, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST)) {
        __atomic_store_n(&c->purge_page, PURGE_ALL, __ATOMIC_SEQ_CST);
    }
    soft_request(c, SOFT_REQ_PURGE);
}

/* watch_lock held, the caller is outside guest mode. */
static void purge(struct soft_vm *vm, u64 vcpus, u64 page) {
    for (u32 i = 0; i < SOFT_MAX_VCPUS; i++) {
        struct soft_vcpu *c = vcpu_at(vm, i);
        if (c && (vcpus & BIT(i))) {
            purge_request(c, page);
        }
    }
    for (u32 i = 0; i < SOFT_MAX_VCPUS; i++) {
        struct soft_vcpu *c = vcpu_at(vm, i);
        if (c && (vcpus & BIT(i))) {
            wait_until_quiet(c, SOFT_REQ_PURGE);
        }
    }
}

void smc_drop_all_writes(struct soft_vm *vm) {
    mutex_lock(vm->host, &vm->watch_lock);
    purge(vm, UINT64_MAX, PURGE_ALL);
    mutex_unlock(vm->host, &vm->watch_lock);
}

/* --- pages -------------------------------------------------------------------------------------
 */

struct smc_page *smc_page_of(struct soft_vm *vm, u64 gpa) {
    u64 index = ram_page_index(vm->ram, gpa);
    return index < vm->page_count ? &vm->pages[index] : NULL;
}

/* For writers: their stores must be looked at. */
static bool is_watched(const struct smc_page *page) {
    return __atomic_load_n(&page->watched, __ATOMIC_SEQ_CST);
}

/* For decoders: no vCPU can store any more without that. A page is WATCH_BEGUN while one of them
 * still waits for the last fast translations to go, and another must not take it for done. */
static bool is_safe(const struct smc_page *page) {
    return __atomic_load_n(&page->watched, __ATOMIC_SEQ_CST) == WATCH_DONE;
}

bool smc_page_opened(struct soft_vcpu *c, u64 gpa) {
    struct smc_page *page = smc_page_of(c->vm, gpa);
    u64 me = BIT(c->ev->id);
    if (!page || is_watched(page)) {
        return true;
    }
    if (!(__atomic_load_n(&page->writers, __ATOMIC_RELAXED) & me)) {
        __atomic_fetch_or(&page->writers, me, __ATOMIC_SEQ_CST);
    }
    return is_watched(page);
}

static void watch_locked(struct soft_vcpu *c, struct smc_page *page, u64 gpa) {
    __atomic_store_n(&page->watched, WATCH_BEGUN, __ATOMIC_SEQ_CST);
    u64 writers = __atomic_exchange_n(&page->writers, 0, __ATOMIC_SEQ_CST);
    u64 me = BIT(c->ev->id);
    if (writers & me) {
        soft_tlb_drop_writes(c, gpa & ~PAGE_MASK);
    }
    purge(c->vm, writers & ~me, gpa & ~PAGE_MASK);
    __atomic_store_n(&page->watched, WATCH_DONE, __ATOMIC_SEQ_CST);
}

void smc_watch(struct soft_vcpu *c, struct smc_page *page, u64 gpa) {
    if (is_safe(page)) {
        return;
    }
    soft_guest_leave(c);
    mutex_lock(c->vm->host, &c->vm->watch_lock);
    if (!is_watched(page)) {
        page->quiet = 0;
        watch_locked(c, page, gpa);
    }
    mutex_unlock(c->vm->host, &c->vm->watch_lock);
    soft_guest_enter(c);
}

static u64 granule_mask(u32 offset, u32 size) {
    u32 first = offset >> 6, last = (offset + size - 1) >> 6;
    return (UINT64_MAX << first) & (UINT64_MAX >> (63 - last));
}

bool smc_mark(struct smc_page *page, u32 offset, u32 size) {
    u64 mask = granule_mask(offset, size);
    if ((__atomic_load_n(&page->granules, __ATOMIC_SEQ_CST) & mask) != mask) {
        __atomic_fetch_or(&page->granules, mask, __ATOMIC_SEQ_CST);
    } else {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    return is_safe(page);
}

u64 smc_marked(const struct smc_page *page) {
    return __atomic_load_n(&page->granules, __ATOMIC_ACQUIRE);
}

bool smc_was_marked(const struct smc_page *page, u64 marked, u32 offset, u32 size) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* the bytes were read before */
    return !(granule_mask(offset, size) & ~marked) && is_safe(page);
}

/* True when code was hit. */
static bool outdate(struct smc_page *page, u64 mask) {
    if (!(__atomic_load_n(&page->granules, __ATOMIC_SEQ_CST) & mask)) {
        return false;
    }
    __atomic_store_n(&page->granules, 0, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&page->generation, 1, __ATOMIC_SEQ_CST);
    return true;
}

static void unwatch(struct soft_vcpu *c, struct smc_page *page, u64 gpa) {
    soft_guest_leave(c);
    mutex_lock(c->vm->host, &c->vm->watch_lock);
    __atomic_store_n(&page->watched, WATCH_NONE, __ATOMIC_SEQ_CST);
    bool decoded = __atomic_load_n(&page->granules, __ATOMIC_SEQ_CST) != 0;
    if (decoded) { /* meanwhile; and it may have been written without a look since */
        watch_locked(c, page, gpa);
        outdate(page, UINT64_MAX);
    }
    mutex_unlock(c->vm->host, &c->vm->watch_lock);
    if (decoded) {
        soft_block_outdated(c, gpa);
        soft_tr_outdated(c->vm, gpa);
    }
    soft_guest_enter(c);
}

bool smc_written(struct soft_vcpu *c, u64 gpa, u32 size) {
    struct smc_page *page = smc_page_of(c->vm, gpa);
    if (!page) {
        return false;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the store before the look at the granules */
    if (!is_watched(page)) {
        return true;
    }
    if (outdate(page, granule_mask((u32)(gpa & PAGE_MASK), size))) {
        page->quiet = 0;
        soft_block_outdated(c, gpa);
        soft_tr_outdated(c->vm, gpa);
        return false;
    }
    if (__atomic_load_n(&page->granules, __ATOMIC_RELAXED) || ++page->quiet < QUIET_STORES) {
        return false;
    }
    unwatch(c, page, gpa);
    return !is_watched(page);
}

void smc_device_wrote(void *ctx, u64 gpa, u64 size) {
    struct soft_vm *vm = ctx;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    soft_verify_external(vm, gpa, size);
    while (size) {
        u64 n = MIN(size, PAGE_SIZE - (gpa & PAGE_MASK));
        struct smc_page *page = smc_page_of(vm, gpa);
        if (page && outdate(page, granule_mask((u32)(gpa & PAGE_MASK), (u32)n))) {
            soft_tr_outdated(vm, gpa);
        }
        gpa += n;
        size -= n;
    }
}
