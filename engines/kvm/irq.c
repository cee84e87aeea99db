/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's interrupt chips and PIT: creation, lines, and their state to and from core/if/irqchip.h.
 * Routing and messages are in msi.c. Linux,
 * Documentation/virt/kvm/api.rst, 4.24-4.27, 4.52, 4.57, 4.71.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "core/cpu/msr.h"
#include "core/if/irqchip.h"
#include "engines/kvm/priv.h"

enum { GSI_CASCADE = 2 };

#define IOAPIC_BASE 0xfec00000ull

#define APIC_BASE_X2 BIT(10)

enum {
    APIC_ID = 0x02,
    APIC_LVT_TIMER = 0x32,
    APIC_TIMER_INITIAL = 0x38,
    APIC_TIMER_CURRENT = 0x39,
    APIC_TIMER_DIVIDE = 0x3e,
};

#define LVT_TIMER_MODE     (3u << 17)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_DEADLINE (2u << 17)

/* --- creation and wiring
 * ------------------------------------------------------------------------------ */

int kvm_irq_setup(struct kvm_machine *m, struct err *err) {
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    struct kvm_enable_cap x2apic = {.cap = KVM_CAP_X2APIC_API,
                                    .args[0] = KVM_X2APIC_API_USE_32BIT_IDS};
    if (ioctl(m->fd, KVM_CREATE_IRQCHIP, 0)) {
        return ERR_SET(err, ERR_IO, "/dev/kvm: KVM_CREATE_IRQCHIP failed: %s", strerror(errno));
    }
    if (ioctl(m->fd, KVM_CREATE_PIT2, &pit)) {
        return ERR_SET(err, ERR_IO, "/dev/kvm: KVM_CREATE_PIT2 failed: %s", strerror(errno));
    }
    if (kvm_routing_setup(m)) {
        return ERR_SET(err, ERR_IO, "/dev/kvm: KVM_SET_GSI_ROUTING failed: %s", strerror(errno));
    }
    m->x2apic_ids = (kvm_has(m->fd, KVM_CAP_X2APIC_API) & KVM_X2APIC_API_USE_32BIT_IDS) &&
                    kvm_has(m->fd, KVM_CAP_ENABLE_CAP_VM) &&
                    ioctl(m->fd, KVM_ENABLE_CAP, &x2apic) == 0;
    return 0;
}

/* --- lines and messages
 * --------------------------------------------------------------------------------- */

int kvm_irq_line(struct engine_vm *vm, u32 gsi, bool level) {
    struct kvm_irq_level line = {.irq = gsi, .level = level};
    if (gsi >= IOAPIC_PINS || gsi == GSI_CASCADE) {
        return -ERR_RANGE;
    }
    return ioctl(kvm_machine_of(vm)->fd, KVM_IRQ_LINE, &line) ? -ERR_IO : 0;
}

/* --- clocks
 * -----------------------------------------------------------------------------------------------
 */

/* The kernel counts in CLOCK_MONOTONIC; the host's clock may be another one (in tests). */
static u64 kernel_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static u64 ns_from_kernel(struct kvm_machine *m, u64 ns) {
    return ns + (host_now(m->host) - kernel_now());
}

static u64 ns_to_kernel(struct kvm_machine *m, u64 ns) {
    return ns - (host_now(m->host) - kernel_now());
}

/* --- local APIC
 * --------------------------------------------------------------------------------------------- */

/* Timer ticks are nanoseconds times this: KVM's bus clock is 1 GHz. */
static u64 timer_divider(u32 divide) {
    u32 code = (divide & 3) | (divide >> 1 & 4);
    return code == 7 ? 1 : 2ull << code;
}

static u64 timer_start(struct kvm_machine *m, const u32 *regs) {
    u64 initial = regs[APIC_TIMER_INITIAL], current = regs[APIC_TIMER_CURRENT];
    u32 mode = regs[APIC_LVT_TIMER] & LVT_TIMER_MODE;
    if (!initial || mode == LVT_TIMER_DEADLINE || current > initial) {
        return 0;
    }
    if (!current && mode != LVT_TIMER_PERIODIC) {
        return 0; /* run out */
    }
    u64 passed = (initial - current) * timer_divider(regs[APIC_TIMER_DIVIDE]);
    u64 now = host_now(m->host);
    return passed < now ? now - passed : 1;
}

static u32 timer_current(struct kvm_machine *m, const struct lapic_state *s) {
    u64 initial = s->regs[APIC_TIMER_INITIAL], now = host_now(m->host);
    u32 mode = s->regs[APIC_LVT_TIMER] & LVT_TIMER_MODE;
    if (!s->timer_start_ns || !initial || mode == LVT_TIMER_DEADLINE) {
        return 0;
    }
    u64 passed = now > s->timer_start_ns ? now - s->timer_start_ns : 0;
    u64 ticks = passed / timer_divider(s->regs[APIC_TIMER_DIVIDE]);
    if (ticks < initial) {
        return (u32)(initial - ticks);
    }
    /* An overdue one-shot fires at once. */
    return mode == LVT_TIMER_PERIODIC ? (u32)(initial - ticks % initial) : 1;
}

static int lapic_read(struct kvm_cpu *c, struct lapic_state *s) {
    struct kvm_lapic_state k;
    struct kvm_sregs sregs;
    if (ioctl(c->fd, KVM_GET_LAPIC, &k) || ioctl(c->fd, KVM_GET_SREGS, &sregs)) {
        return -ERR_IO;
    }
    for (u32 i = 0; i < ARRAY_LEN(s->regs); i++) {
        memcpy(&s->regs[i], k.regs + 16 * i, sizeof(u32));
    }
    s->apic_base = sregs.apic_base;
    if ((s->apic_base & APIC_BASE_X2) && !c->m->x2apic_ids) {
        s->regs[APIC_ID] >>= 24;
    }
    s->timer_start_ns = timer_start(c->m, s->regs);
    s->tsc_deadline = 0;
    kvm_msr_read(c, MSR_TSC_DEADLINE, &s->tsc_deadline);
    return 0;
}

static int apic_base_write(struct kvm_cpu *c, u64 apic_base) {
    struct kvm_sregs sregs;
    if (ioctl(c->fd, KVM_GET_SREGS, &sregs)) {
        return -ERR_IO;
    }
    if (sregs.apic_base == apic_base) {
        return 0;
    }
    memset(sregs.interrupt_bitmap, 0, sizeof(sregs.interrupt_bitmap));
    sregs.apic_base = apic_base;
    return ioctl(c->fd, KVM_SET_SREGS, &sregs) ? -ERR_INVAL : 0;
}

static int lapic_write(struct kvm_cpu *c, const struct lapic_state *s) {
    struct kvm_lapic_state k = {0};
    int rc = apic_base_write(c, s->apic_base);
    if (rc || ioctl(c->fd, KVM_GET_LAPIC, &k)) { /* registers that core does not know stay */
        return rc ? rc : -ERR_IO;
    }
    enum { VERSION = 0x03 };
    for (u32 i = 0; i < ARRAY_LEN(s->regs); i++) {
        u32 v = s->regs[i];
        if (i == APIC_ID && (s->apic_base & APIC_BASE_X2) && !c->m->x2apic_ids) {
            v <<= 24;
        }
        if (i == APIC_TIMER_CURRENT) {
            v = timer_current(c->m, s);
        }
        if (i != VERSION) {
            memcpy(k.regs + 16 * i, &v, sizeof(v));
        }
    }
    if (ioctl(c->fd, KVM_SET_LAPIC, &k)) {
        return -ERR_INVAL;
    }
    bool deadline = (s->regs[APIC_LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE;
    if (deadline && cpuid_policy_has(&c->m->policy, "tsc_deadline_timer")) {
        return kvm_msr_write(c, MSR_TSC_DEADLINE, s->tsc_deadline);
    }
    return 0;
}

/* --- IOAPIC, PIC, PIT
 * ----------------------------------------------------------------------------------------- */

#define REDIR_LEVEL BIT(15)

static int ioapic_read(struct kvm_machine *m, struct ioapic_state *s) {
    struct kvm_irqchip k = {.chip_id = KVM_IRQCHIP_IOAPIC};
    if (ioctl(m->fd, KVM_GET_IRQCHIP, &k)) {
        return -ERR_IO;
    }
    *s = (struct ioapic_state){
        .id = k.chip.ioapic.id, .select = k.chip.ioapic.ioregsel, .irr = k.chip.ioapic.irr};
    for (u32 i = 0; i < IOAPIC_PINS; i++) {
        s->redirect[i] = k.chip.ioapic.redirtbl[i].bits;
        if (s->redirect[i] & REDIR_LEVEL) {
            s->lines |=
                s->irr & (u32)BIT(i); /* the kernel keeps a level pin's bit while it is up */
        }
    }
    return 0;
}

static int ioapic_write(struct kvm_machine *m, const struct ioapic_state *s) {
    struct kvm_irqchip k = {.chip_id = KVM_IRQCHIP_IOAPIC};
    k.chip.ioapic = (struct kvm_ioapic_state){
        .base_address = IOAPIC_BASE, .ioregsel = s->select, .id = s->id, .irr = s->irr};
    for (u32 i = 0; i < IOAPIC_PINS; i++) {
        k.chip.ioapic.redirtbl[i].bits = s->redirect[i];
    }
    return ioctl(m->fd, KVM_SET_IRQCHIP, &k) ? -ERR_INVAL : 0;
}

static int pic_read(struct kvm_machine *m, u32 chip, struct pic_state *s) {
    struct kvm_irqchip k = {.chip_id = chip};
    if (ioctl(m->fd, KVM_GET_IRQCHIP, &k)) {
        return -ERR_IO;
    }
    const struct kvm_pic_state *p = &k.chip.pic;
    *s = (struct pic_state){
        .irr = p->irr,
        .isr = p->isr,
        .imr = p->imr,
        .lines = p->last_irr,
        .vector_base = p->irq_base,
        .elcr = p->elcr,
        .elcr_mask = p->elcr_mask,
        .priority_add = p->priority_add,
        .init_state = p->init_state,
        .init4 = p->init4,
        .auto_eoi = p->auto_eoi,
        .rotate_on_auto_eoi = p->rotate_on_auto_eoi,
        .special_mask = p->special_mask,
        .special_fully_nested = p->special_fully_nested_mode,
        .read_isr = p->read_reg_select,
        .poll = p->poll,
    };
    return 0;
}

static int pic_write(struct kvm_machine *m, u32 chip, const struct pic_state *s) {
    struct kvm_irqchip k = {.chip_id = chip};
    k.chip.pic = (struct kvm_pic_state){
        .irr = s->irr,
        .isr = s->isr,
        .imr = s->imr,
        .last_irr = s->lines,
        .irq_base = s->vector_base,
        .elcr = s->elcr,
        .elcr_mask = s->elcr_mask,
        .priority_add = s->priority_add & 7,
        .init_state = s->init_state & 3,
        .init4 = s->init4,
        .auto_eoi = s->auto_eoi,
        .rotate_on_auto_eoi = s->rotate_on_auto_eoi,
        .special_mask = s->special_mask,
        .special_fully_nested_mode = s->special_fully_nested,
        .read_reg_select = s->read_isr,
        .poll = s->poll,
    };
    return ioctl(m->fd, KVM_SET_IRQCHIP, &k) ? -ERR_INVAL : 0;
}

/* A channel that was never programmed; core marks the same by load_ns 0. */
enum { PIT_MODE_NONE = 0xff };

static bool pit_channel_ok(const struct pit_channel_state *p) {
    return p->count <= 65536 && (p->mode <= 5 || p->mode == PIT_MODE_NONE) && p->rw_mode <= 3 &&
           p->read_state <= 4 && p->write_state <= 4;
}

static int pit_read(struct kvm_machine *m, struct pit_state *s) {
    struct kvm_pit_state2 k;
    if (ioctl(m->fd, KVM_GET_PIT2, &k)) {
        return -ERR_IO;
    }
    for (u32 i = 0; i < ARRAY_LEN(s->channel); i++) {
        const struct kvm_pit_channel_state *p = &k.channels[i];
        s->channel[i] = (struct pit_channel_state){
            .count = p->count ? p->count : 65536,
            .latched_count = p->latched_count,
            .count_latched = p->count_latched,
            .status_latched = p->status_latched,
            .status = p->status,
            .read_state = p->read_state,
            .write_state = p->write_state,
            .write_latch = p->write_latch,
            .rw_mode = p->rw_mode,
            .mode = p->mode,
            .bcd = p->bcd,
            .gate = p->gate,
            .load_ns = p->mode == PIT_MODE_NONE ? 0 : ns_from_kernel(m, (u64)p->count_load_time),
        };
    }
    s->speaker_data = k.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    return 0;
}

static int pit_write(struct kvm_machine *m, const struct pit_state *s) {
    struct kvm_pit_state2 k = {.flags = s->speaker_data ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0};
    for (u32 i = 0; i < ARRAY_LEN(s->channel); i++) {
        const struct pit_channel_state *p = &s->channel[i];
        if (!pit_channel_ok(p)) {
            return -ERR_INVAL;
        }
        k.channels[i] = (struct kvm_pit_channel_state){
            .count = p->count,
            .latched_count = p->latched_count,
            .count_latched = p->count_latched,
            .status_latched = p->status_latched,
            .status = p->status,
            .read_state = p->read_state,
            .write_state = p->write_state,
            .write_latch = p->write_latch,
            .rw_mode = p->rw_mode,
            .mode = p->load_ns && p->count ? p->mode : PIT_MODE_NONE,
            .bcd = p->bcd,
            .gate = p->gate,
            .count_load_time = (s64)ns_to_kernel(m, p->load_ns),
        };
    }
    return ioctl(m->fd, KVM_SET_PIT2, &k) ? -ERR_INVAL : 0;
}

/* --- all
 * ----------------------------------------------------------------------------------------------------------
 */

int kvm_irqchip_get(struct engine_vm *vm, struct irqchip_state *s) {
    struct kvm_machine *m = kvm_machine_of(vm);
    memset(s, 0, sizeof(*s));
    if (vm->vcpu_count > IRQCHIP_MAX_VCPUS) {
        return -ERR_RANGE;
    }
    s->vcpu_count = vm->vcpu_count;
    int rc = 0;
    for (u32 i = 0; i < vm->vcpu_count && !rc; i++) {
        rc = lapic_read(kvm_cpu_of(vm->vcpus[i]), &s->lapic[i]);
    }
    rc = rc ? rc : ioapic_read(m, &s->ioapic);
    rc = rc ? rc : pic_read(m, KVM_IRQCHIP_PIC_MASTER, &s->pic[0]);
    rc = rc ? rc : pic_read(m, KVM_IRQCHIP_PIC_SLAVE, &s->pic[1]);
    return rc ? rc : pit_read(m, &s->pit);
}

int kvm_irqchip_set(struct engine_vm *vm, const struct irqchip_state *s) {
    struct kvm_machine *m = kvm_machine_of(vm);
    if (s->vcpu_count != vm->vcpu_count) {
        return -ERR_INVAL;
    }
    int rc = pit_write(m, &s->pit);
    rc = rc ? rc : pic_write(m, KVM_IRQCHIP_PIC_MASTER, &s->pic[0]);
    rc = rc ? rc : pic_write(m, KVM_IRQCHIP_PIC_SLAVE, &s->pic[1]);
    for (u32 i = 0; i < vm->vcpu_count && !rc; i++) {
        rc = lapic_write(kvm_cpu_of(vm->vcpus[i]), &s->lapic[i]);
    }
    return rc ? rc : ioapic_write(m, &s->ioapic);
}
