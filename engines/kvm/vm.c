/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine of KVM: its descriptor, memory slots and dirty log.
 * Linux, Documentation/virt/kvm/api.rst, 4.35 (slots) and 4.8 (dirty log).
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/mem/ram.h"
#include "engines/kvm/priv.h"

/* Four pages below the firmware's place at the top of 4 GiB, in the hole that holds no RAM. */
#define IDENTITY_MAP_ADDR 0xfffbc000ull
#define TSS_ADDR          0xfffbd000ul

int kvm_set_hidden_pages(int vm_fd) {
    __u64 identity = IDENTITY_MAP_ADDR;
    if (kvm_has(vm_fd, KVM_CAP_SET_IDENTITY_MAP_ADDR) &&
        ioctl(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity)) {
        return -ERR_IO;
    }
    return ioctl(vm_fd, KVM_SET_TSS_ADDR, TSS_ADDR) ? -ERR_IO : 0;
}

static int open_machine(struct kvm_machine *m, struct err *err) {
    m->dev = kvm_dev_open(err);
    if (m->dev < 0) {
        return m->dev;
    }
    int rc = kvm_dev_check(m->dev, err);
    if (rc) {
        return rc;
    }
    int size = ioctl(m->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run)) {
        return ERR_SET(err, ERR_IO, "/dev/kvm: KVM_GET_VCPU_MMAP_SIZE gives %d", size);
    }
    m->run_size = (size_t)size;
    do {
        m->fd = ioctl(m->dev, KVM_CREATE_VM, 0);
    } while (m->fd < 0 && errno == EINTR);
    if (m->fd < 0) {
        return ERR_SET(err, ERR_IO, "/dev/kvm: cannot create a machine: %s", strerror(errno));
    }
    return 0;
}

static size_t pending_size(const struct kvm_slot *slot) {
    return (size_t)(ALIGN_UP(slot->size / PAGE_SIZE, 64ull) / 8); /* whole u64 words */
}

static void machine_free(struct kvm_machine *m) {
    kvm_doorbells_close(m);
    kvm_msi_close(m);
    for (u32 i = 0; i < KVM_SLOTS; i++) {
        struct kvm_slot *slot = &m->slot[i];
        host_free(m->host, slot->pending, pending_size(slot));
    }
    if (m->fd >= 0) {
        close(m->fd);
    }
    if (m->dev >= 0) {
        close(m->dev);
    }
    host_free(m->host, m, sizeof(*m));
}

int kvm_vm_create(struct engine_vm *vm, struct err *err) {
    struct kvm_machine *m = host_alloc(vm->host, sizeof(*m));
    if (!m) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    m->host = vm->host;
    m->dev = m->fd = -1;
    m->policy = *vm->cpuid;
    int rc = open_machine(m, err);
    rc = rc ? rc : kvm_limit_policy(m->dev, &m->policy, err);
    if (!rc && kvm_set_hidden_pages(m->fd)) {
        rc = ERR_SET(err, ERR_IO, "/dev/kvm: KVM_SET_TSS_ADDR failed: %s", strerror(errno));
    }
    rc = rc ? rc : kvm_irq_setup(m, err);
    if (rc) {
        machine_free(m);
        return rc;
    }
    vm->priv = m;
    return 0;
}

void kvm_vm_destroy(struct engine_vm *vm) {
    if (vm->priv) {
        machine_free(vm->priv);
        vm->priv = NULL;
    }
}

/* --- memory slots
 * --------------------------------------------------------------------------------- */

static int slot_set(struct kvm_machine *m, u32 n, u64 size) {
    const struct kvm_slot *slot = &m->slot[n];
    struct kvm_userspace_memory_region region = {
        .slot = n,
        .flags = (slot->flags & RAM_READONLY ? KVM_MEM_READONLY : 0u) |
                 (m->logging ? KVM_MEM_LOG_DIRTY_PAGES : 0u),
        .guest_phys_addr = slot->gpa,
        .memory_size = size,
        .userspace_addr = (u64)(uintptr_t)slot->hva,
    };
    if (!size) {
        region.flags = 0;
    }
    if (ioctl(m->fd, KVM_SET_USER_MEMORY_REGION, &region)) {
        return errno == ENOMEM ? -ERR_NOMEM : errno == EEXIST ? -ERR_EXISTS : -ERR_INVAL;
    }
    return 0;
}

static int slot_log_start(struct kvm_machine *m, u32 n) {
    struct kvm_slot *slot = &m->slot[n];
    if (!slot->pending) {
        slot->pending = host_alloc(m->host, pending_size(slot));
    }
    return slot->pending ? 0 : -ERR_NOMEM;
}

static void slot_log_stop(struct kvm_machine *m, u32 n) {
    host_free(m->host, m->slot[n].pending, pending_size(&m->slot[n]));
    m->slot[n].pending = NULL;
}

static int slot_add(struct kvm_machine *m, const struct kvm_slot *want) {
    u32 n = 0;
    while (n < KVM_SLOTS && m->slot[n].size) {
        n++;
    }
    if (n == KVM_SLOTS) {
        return -ERR_NOMEM;
    }
    m->slot[n] = *want;
    int rc = m->logging ? slot_log_start(m, n) : 0;
    rc = rc ? rc : slot_set(m, n, want->size);
    if (rc) {
        slot_log_stop(m, n);
        m->slot[n] = (struct kvm_slot){0};
    }
    return rc;
}

int kvm_ram_map(struct engine_vm *vm, u64 gpa, u64 size, void *hva, u32 flags) {
    struct kvm_machine *m = kvm_machine_of(vm);
    if (!size || ((gpa | size | (u64)(uintptr_t)hva) & PAGE_MASK) || gpa + size < gpa) {
        return -ERR_INVAL;
    }
    if ((flags & RAM_READONLY) && !kvm_has(m->fd, KVM_CAP_READONLY_MEM)) {
        return -ERR_UNSUPPORTED;
    }
    struct kvm_slot want = {.gpa = gpa, .size = size, .hva = hva, .flags = flags};
    mutex_lock(m->host, &m->lock);
    int rc = slot_add(m, &want);
    mutex_unlock(m->host, &m->lock);
    return rc;
}

int kvm_ram_unmap(struct engine_vm *vm, u64 gpa, u64 size) {
    struct kvm_machine *m = kvm_machine_of(vm);
    int rc = -ERR_NOTFOUND;
    mutex_lock(m->host, &m->lock);
    for (u32 n = 0; n < KVM_SLOTS; n++) {
        if (size && m->slot[n].gpa == gpa && m->slot[n].size == size) {
            rc = slot_set(m, n, 0);
            slot_log_stop(m, n);
            m->slot[n] = (struct kvm_slot){0};
            break;
        }
    }
    mutex_unlock(m->host, &m->lock);
    return rc;
}

/* --- dirty log
 * --------------------------------------------------------------------------------------- */

static int log_switch(struct kvm_machine *m, bool on) {
    int rc = 0;
    m->logging = on;
    for (u32 n = 0; n < KVM_SLOTS && !rc; n++) {
        if (!m->slot[n].size) {
            continue;
        }
        rc = on ? slot_log_start(m, n) : 0;
        rc = rc ? rc : slot_set(m, n, m->slot[n].size);
        if (!on) {
            slot_log_stop(m, n);
        }
    }
    return rc;
}

int kvm_dirty_log(struct engine_vm *vm, bool on) {
    struct kvm_machine *m = kvm_machine_of(vm);
    mutex_lock(m->host, &m->lock);
    int rc = m->logging == on ? 0 : log_switch(m, on);
    if (rc && on) {
        log_switch(m, false);
    }
    mutex_unlock(m->host, &m->lock);
    return rc;
}

/* The kernel hands out, and clears, the bitmap of a whole slot: what was not asked for waits in
 * pending. */
static int slot_fetch(struct kvm_machine *m, u32 n) {
    struct kvm_slot *slot = &m->slot[n];
    size_t size = pending_size(slot);
    u64 *fresh = host_alloc(m->host, size);
    if (!fresh) {
        return -ERR_NOMEM;
    }
    struct kvm_dirty_log log = {.slot = n, .dirty_bitmap = fresh};
    int rc = ioctl(m->fd, KVM_GET_DIRTY_LOG, &log) ? -ERR_IO : 0;
    for (size_t i = 0; !rc && i < size / 8; i++) {
        slot->pending[i] |= fresh[i];
    }
    host_free(m->host, fresh, size);
    return rc;
}

static void slot_hand_out(struct kvm_slot *slot, u64 gpa, u64 size, u64 *bitmap) {
    u64 first = MAX(gpa, slot->gpa) / PAGE_SIZE;
    u64 last = MIN(gpa + size, slot->gpa + slot->size) / PAGE_SIZE;
    for (u64 page = first; page < last; page++) {
        u64 from = page - slot->gpa / PAGE_SIZE, to = page - gpa / PAGE_SIZE;
        if (slot->pending[from / 64] >> from % 64 & 1) {
            slot->pending[from / 64] &= ~BIT(from % 64);
            bitmap[to / 64] |= BIT(to % 64);
        }
    }
}

int kvm_dirty_get(struct engine_vm *vm, u64 gpa, u64 size, u64 *bitmap) {
    struct kvm_machine *m = kvm_machine_of(vm);
    if (((gpa | size) & PAGE_MASK) || gpa + size < gpa) {
        return -ERR_INVAL;
    }
    mutex_lock(m->host, &m->lock);
    int rc = m->logging ? 0 : -ERR_STATE;
    for (u32 n = 0; n < KVM_SLOTS && !rc; n++) {
        struct kvm_slot *slot = &m->slot[n];
        if (slot->size && slot->gpa < gpa + size && gpa < slot->gpa + slot->size) {
            rc = slot_fetch(m, n);
            if (!rc) {
                slot_hand_out(slot, gpa, size, bitmap);
            }
        }
    }
    mutex_unlock(m->host, &m->lock);
    return rc;
}
