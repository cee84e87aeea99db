/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doorbells: a guest write that the kernel turns into an event without leaving KVM_RUN
 * (Linux, Documentation/virt/kvm/api.rst, 4.59, KVM_IOEVENTFD). The host's event loop watches the
 * event's descriptor and calls the device.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engines/kvm/priv.h"

struct kvm_doorbell {
    struct kvm_doorbell *next;
    struct kvm_ioeventfd reg; /* as registered; flags without DEASSIGN */
    void (*fn)(void *ctx);
    void *ctx;
};

static void doorbell_ring(void *arg) {
    struct kvm_doorbell *bell = arg;
    u64 count;
    if (read(bell->reg.fd, &count, sizeof(count)) == sizeof(count)) {
        bell->fn(bell->ctx);
    }
}

static struct kvm_ioeventfd registration(bool mmio, u64 address, u32 size, bool has_match,
                                         u64 match) {
    return (struct kvm_ioeventfd){
        .addr = address,
        .len = size,
        .datamatch = has_match ? match : 0,
        .flags = (mmio ? 0u : (u32)KVM_IOEVENTFD_FLAG_PIO) |
                 (has_match ? (u32)KVM_IOEVENTFD_FLAG_DATAMATCH : 0u),
        .fd = -1,
    };
}

static bool same(const struct kvm_ioeventfd *a, const struct kvm_ioeventfd *b) {
    return a->addr == b->addr && a->len == b->len && a->flags == b->flags &&
           a->datamatch == b->datamatch;
}

static void doorbell_close(struct kvm_machine *m, struct kvm_doorbell *bell) {
    struct kvm_ioeventfd off = bell->reg;
    off.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    ioctl(m->fd, KVM_IOEVENTFD, &off);
    m->host->ops->fd_unwatch(m->host, bell->reg.fd);
    close(bell->reg.fd);
    host_free(m->host, bell, sizeof(*bell));
}

static int doorbell_open(struct kvm_machine *m, struct kvm_doorbell *bell) {
    bell->reg.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (bell->reg.fd < 0) {
        return -ERR_NOMEM;
    }
    if (m->host->ops->fd_watch(m->host, bell->reg.fd, doorbell_ring, bell)) {
        close(bell->reg.fd);
        return -ERR_NOMEM;
    }
    if (ioctl(m->fd, KVM_IOEVENTFD, &bell->reg)) {
        int code = errno;
        m->host->ops->fd_unwatch(m->host, bell->reg.fd);
        close(bell->reg.fd);
        return code == EEXIST ? -ERR_EXISTS : -ERR_INVAL;
    }
    return 0;
}

int kvm_doorbell_add(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                     u64 match, void (*fn)(void *ctx), void *ctx) {
    struct kvm_machine *m = kvm_machine_of(vm);
    if (!m->host->ops->fd_watch || !kvm_has(m->fd, KVM_CAP_IOEVENTFD)) {
        return -ERR_UNSUPPORTED;
    }
    struct kvm_doorbell *bell = host_alloc(m->host, sizeof(*bell));
    if (!bell) {
        return -ERR_NOMEM;
    }
    *bell = (struct kvm_doorbell){
        .reg = registration(mmio, address, size, has_match, match), .fn = fn, .ctx = ctx};
    int rc = doorbell_open(m, bell);
    if (rc) {
        host_free(m->host, bell, sizeof(*bell));
        return rc;
    }
    mutex_lock(m->host, &m->lock);
    bell->next = m->doorbells;
    m->doorbells = bell;
    mutex_unlock(m->host, &m->lock);
    return 0;
}

/* The lock is not held while closing: fd_unwatch waits for a callback that may run. */
int kvm_doorbell_remove(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                        u64 match) {
    struct kvm_machine *m = kvm_machine_of(vm);
    struct kvm_ioeventfd want = registration(mmio, address, size, has_match, match);
    struct kvm_doorbell *bell = NULL;
    mutex_lock(m->host, &m->lock);
    for (struct kvm_doorbell **at = &m->doorbells; *at; at = &(*at)->next) {
        if (same(&(*at)->reg, &want)) {
            bell = *at;
            *at = bell->next;
            break;
        }
    }
    mutex_unlock(m->host, &m->lock);
    if (!bell) {
        return -ERR_NOTFOUND;
    }
    doorbell_close(m, bell);
    return 0;
}

void kvm_doorbells_close(struct kvm_machine *m) {
    while (m->doorbells) {
        struct kvm_doorbell *bell = m->doorbells;
        m->doorbells = bell->next;
        doorbell_close(m, bell);
    }
}
