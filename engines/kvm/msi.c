/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt routing and message-signalled interrupts. Each message that devices send gets, at its
 * first use, an entry of KVM's routing table and an irqfd: from then on sending it is one write to
 * an eventfd, which KVM turns into an interrupt without taking the machine's locks. A guest that
 * keeps inventing messages fills the bounded table; the rest goes through KVM_SIGNAL_MSI. Linux,
 * Documentation/virt/kvm/api.rst, 4.52 (KVM_SET_GSI_ROUTING), 4.71, 4.75 (KVM_IRQFD).
 *
 * Lock rule: the messages have their own innermost lock; senders come from any thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/if/irqchip.h"
#include "engines/kvm/priv.h"

enum { ISA_IRQS = 16, PIC_PINS = 8, PIN_PIT = 2, GSI_PIT = 0, GSI_CASCADE = 2 };
enum { FIRST_MSI_GSI = IOAPIC_PINS, MAX_ROUTES = 2 * IOAPIC_PINS + KVM_MSI_ROUTES };

static void route_line(struct kvm_irq_routing *r, u32 gsi, u32 chip, u32 pin) {
    r->entries[r->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = {.irqchip = chip, .pin = pin},
    };
}

/* As in core/irq/irqchip.h: ISA interrupts reach both chips, the PIT is pin 2 of the IOAPIC, and
 * line 2 itself is the slave's output. */
static void route_lines(struct kvm_irq_routing *r) {
    for (u32 gsi = 0; gsi < IOAPIC_PINS; gsi++) {
        if (gsi == GSI_CASCADE) {
            continue;
        }
        if (gsi < ISA_IRQS) {
            route_line(r, gsi, gsi < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                       gsi % PIC_PINS);
        }
        route_line(r, gsi, KVM_IRQCHIP_IOAPIC, gsi == GSI_PIT ? PIN_PIT : gsi);
    }
}

static void route_messages(struct kvm_irq_routing *r, const struct kvm_msi_table *t, u32 count) {
    for (u32 i = 0; i < count; i++) {
        r->entries[r->nr++] = (struct kvm_irq_routing_entry){
            .gsi = FIRST_MSI_GSI + i,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {.address_lo = (u32)t->route[i].address,
                      .address_hi = (u32)(t->route[i].address >> 32),
                      .data = t->route[i].data},
        };
    }
}

/* The table is always set whole: lines and the first count messages. */
static int routing_set(struct kvm_machine *m, u32 count) {
    struct kvm_irq_routing *r =
        calloc(1, sizeof(*r) + MAX_ROUTES * sizeof(struct kvm_irq_routing_entry));
    if (!r) {
        return -ERR_NOMEM;
    }
    route_lines(r);
    route_messages(r, &m->msi, count);
    int rc = ioctl(m->fd, KVM_SET_GSI_ROUTING, r) ? -ERR_IO : 0;
    free(r);
    return rc;
}

int kvm_routing_setup(struct kvm_machine *m) {
    m->msi.usable = kvm_has(m->fd, KVM_CAP_IRQFD);
    return routing_set(m, 0);
}

/* A new route with its irqfd; on failure no further one is tried. */
static int route_create(struct kvm_machine *m, u64 address, u32 data) {
    struct kvm_msi_table *t = &m->msi;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct kvm_irqfd irqfd = {.fd = (u32)fd, .gsi = FIRST_MSI_GSI + t->count};
    t->route[t->count] = (struct kvm_msi_route){.address = address, .data = data, .fd = fd};
    if (fd < 0 || routing_set(m, t->count + 1) || ioctl(m->fd, KVM_IRQFD, &irqfd)) {
        t->usable = false;
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    t->count++;
    return fd;
}

static int route_find(struct kvm_machine *m, u64 address, u32 data) {
    struct kvm_msi_table *t = &m->msi;
    for (u32 i = 0; i < t->count; i++) {
        if (t->route[i].address == address && t->route[i].data == data) {
            return t->route[i].fd;
        }
    }
    return t->usable && t->count < KVM_MSI_ROUTES ? route_create(m, address, data) : -1;
}

static int signal_msi(struct kvm_machine *m, u64 address, u32 data) {
    struct kvm_msi msi = {
        .address_lo = (u32)address, .address_hi = (u32)(address >> 32), .data = data};
    return ioctl(m->fd, KVM_SIGNAL_MSI, &msi) < 0 ? -ERR_INVAL : 0;
}

int kvm_msi(struct engine_vm *vm, u64 address, u32 data) {
    struct kvm_machine *m = kvm_machine_of(vm);
    const u64 one = 1;
    mutex_lock(m->host, &m->msi.lock);
    int fd = route_find(m, address, data);
    mutex_unlock(m->host, &m->msi.lock);
    if (fd >= 0 && write(fd, &one, sizeof(one)) == sizeof(one)) {
        return 0;
    }
    return signal_msi(m, address, data);
}

void kvm_msi_close(struct kvm_machine *m) {
    for (u32 i = 0; i < m->msi.count; i++) {
        close(m->msi.route[i].fd);
    }
    m->msi.count = 0;
}
