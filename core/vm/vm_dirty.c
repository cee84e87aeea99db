/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of RAM were written: by the processors, as the engine tells, and by devices, which go
 * through ram_written. A software engine keeps ram.dirty itself and notes both there; for others it
 * is made here and holds what devices write. One thread; the machine stands still for collect.
 */
#include "core/vm/vm.h"

static size_t bitmap_size(const struct vm *vm) {
    return (size_t)(ALIGN_UP(ram_page_count(&vm->ram), 64ull) / 8);
}

int vm_dirty_start(struct vm *vm, struct err *err) {
    if (vm->dirty_on) {
        return 0;
    }
    if (!(vm->caps & ENGINE_CAP_DIRTY_LOG)) {
        return ERR_SET(err, ERR_UNSUPPORTED, "the %s engine does not tell which pages are written",
                       vm->engine.ops->name);
    }
    int rc = vm->engine.ops->dirty_log(&vm->engine, true);
    if (!rc && !vm->ram.dirty) {
        vm->own_dirty = vm->host->ops->pages(vm->host, bitmap_size(vm));
        __atomic_store_n(&vm->ram.dirty, vm->own_dirty, __ATOMIC_SEQ_CST);
        rc = vm->own_dirty ? 0 : -ERR_NOMEM;
    }
    vm->dirty_on = !rc;
    return rc ? ERR_SET(err, ERR_NOMEM, "written pages cannot be noted: %s", err_name(rc)) : 0;
}

static void take_own(struct vm *vm, u64 *bitmap) {
    for (size_t i = 0; vm->own_dirty && i < bitmap_size(vm) / 8; i++) {
        if (__atomic_load_n(&vm->own_dirty[i], __ATOMIC_RELAXED)) {
            bitmap[i] |= __atomic_exchange_n(&vm->own_dirty[i], 0, __ATOMIC_SEQ_CST);
        }
    }
}

/* Slots are multiples of 64 pages but for the last one of a machine whose memory is not: RAM below
 * 4 GiB ends at 3 GiB when there is more. */
int vm_dirty_collect(struct vm *vm, u64 *bitmap) {
    u64 first = 0;
    int rc = vm->dirty_on ? 0 : -ERR_STATE;
    for (u32 i = 0; !rc && i < vm->ram.count; i++) {
        const struct ram_slot *s = &vm->ram.slot[i];
        rc = first % 64
                 ? -ERR_STATE
                 : vm->engine.ops->dirty_get(&vm->engine, s->gpa, s->size, bitmap + first / 64);
        first += s->size >> PAGE_SHIFT;
    }
    if (!rc) {
        take_own(vm, bitmap);
    }
    return rc;
}

void vm_dirty_end(struct vm *vm) {
    if (vm->own_dirty) {
        vm->ram.dirty = NULL;
        vm->host->ops->pages_free(vm->host, vm->own_dirty, bitmap_size(vm));
        vm->own_dirty = NULL;
    }
    vm->dirty_on = false;
}
