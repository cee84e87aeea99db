/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving and loading struct irqchip_state. Times are saved as their age, so that a state can be
 * loaded at another time and on another host, whose clock may have begun later.
 *
 *   ICHP { count u32, LAPC x count, IOAP, PIC8, PIT4 }
 */
#include "core/irq/irqchip.h"

#define TAG_CHIP   SNAP_TAG('I', 'C', 'H', 'P')
#define TAG_LAPIC  SNAP_TAG('L', 'A', 'P', 'C')
#define TAG_IOAPIC SNAP_TAG('I', 'O', 'A', 'P')
#define TAG_PIC    SNAP_TAG('P', 'I', 'C', '8')
#define TAG_PIT    SNAP_TAG('P', 'I', 'T', '4')

enum { VERSION = 1 };

/* Age of a time of the host's clock; a bool before it says whether there is one (0: none). */
static void put_time(struct snap_writer *w, u64 t, u64 now) {
    snap_put8(w, t != 0);
    snap_put64(w, t ? now - t : 0);
}

static u64 get_time(struct snap_reader *r, u64 now) {
    bool set = snap_get_bool(r);
    u64 t = now - snap_get64(r);
    return set ? (t ? t : 1) : 0;
}

static void put_lapic(struct snap_writer *w, const struct lapic_state *s, u64 now) {
    size_t at = snap_begin(w, TAG_LAPIC, VERSION);
    for (u32 i = 0; i < ARRAY_LEN(s->regs); i++) {
        /* The current count follows from the age, and would make equal states look different. */
        snap_put32(w, i == LAPIC_TIMER_CURRENT ? 0 : s->regs[i]);
    }
    snap_put64(w, s->apic_base);
    snap_put64(w, s->tsc_deadline);
    put_time(w, s->timer_start_ns, now);
    snap_put8(w, s->esr_pending);
    snap_put8(w, s->sipi_vector);
    snap_put8(w, s->extint);
    snap_end(w, at);
}

static int get_lapic(struct snap_reader *r, struct lapic_state *s, u64 now) {
    struct snap_reader sub;
    if (!snap_section(r, TAG_LAPIC, VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    for (u32 i = 0; i < ARRAY_LEN(s->regs); i++) {
        s->regs[i] = snap_get32(&sub);
    }
    s->apic_base = snap_get64(&sub);
    s->tsc_deadline = snap_get64(&sub);
    s->timer_start_ns = get_time(&sub, now);
    s->esr_pending = snap_get8(&sub);
    s->sipi_vector = snap_get8(&sub);
    s->extint = snap_get_bool(&sub);
    return snap_finish(&sub);
}

static void put_ioapic(struct snap_writer *w, const struct ioapic_state *s) {
    size_t at = snap_begin(w, TAG_IOAPIC, VERSION);
    for (u32 i = 0; i < IOAPIC_PINS; i++) {
        snap_put64(w, s->redirect[i]);
    }
    snap_put32(w, s->id);
    snap_put32(w, s->select);
    snap_put32(w, s->irr);
    snap_put32(w, s->lines);
    snap_end(w, at);
}

static int get_ioapic(struct snap_reader *r, struct ioapic_state *s) {
    struct snap_reader sub;
    if (!snap_section(r, TAG_IOAPIC, VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    for (u32 i = 0; i < IOAPIC_PINS; i++) {
        s->redirect[i] = snap_get64(&sub);
    }
    s->id = snap_get32(&sub);
    s->select = snap_get32(&sub);
    s->irr = snap_get32(&sub);
    s->lines = snap_get32(&sub);
    return snap_finish(&sub);
}

static void put_pic(struct snap_writer *w, const struct pic_state pic[2]) {
    size_t at = snap_begin(w, TAG_PIC, VERSION);
    for (u32 i = 0; i < 2; i++) {
        const struct pic_state *s = &pic[i];
        const u8 bytes[] = {s->irr,          s->isr,
                            s->imr,          s->lines,
                            s->vector_base,  s->elcr,
                            s->elcr_mask,    s->priority_add,
                            s->init_state,   s->init4,
                            s->auto_eoi,     s->rotate_on_auto_eoi,
                            s->special_mask, s->special_fully_nested,
                            s->read_isr,     s->poll};
        snap_put(w, bytes, sizeof(bytes));
    }
    snap_end(w, at);
}

static int get_pic(struct snap_reader *r, struct pic_state pic[2]) {
    struct snap_reader sub;
    if (!snap_section(r, TAG_PIC, VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    for (u32 i = 0; i < 2; i++) {
        struct pic_state *s = &pic[i];
        u8 *const bytes[] = {&s->irr,       &s->isr,          &s->imr,
                             &s->lines,     &s->vector_base,  &s->elcr,
                             &s->elcr_mask, &s->priority_add, &s->init_state};
        bool *const flags[] = {&s->init4,
                               &s->auto_eoi,
                               &s->rotate_on_auto_eoi,
                               &s->special_mask,
                               &s->special_fully_nested,
                               &s->read_isr,
                               &s->poll};
        for (u32 k = 0; k < ARRAY_LEN(bytes); k++) {
            *bytes[k] = snap_get8(&sub);
        }
        for (u32 k = 0; k < ARRAY_LEN(flags); k++) {
            *flags[k] = snap_get_bool(&sub);
        }
    }
    return snap_finish(&sub);
}

static void put_pit(struct snap_writer *w, const struct pit_state *pit, u64 now) {
    size_t at = snap_begin(w, TAG_PIT, VERSION);
    for (u32 i = 0; i < 3; i++) {
        const struct pit_channel_state *c = &pit->channel[i];
        const u8 bytes[] = {
            c->count_latched, c->status_latched, c->status, c->read_state, c->write_state,
            c->write_latch,   c->rw_mode,        c->mode,   c->bcd,        c->gate};
        snap_put32(w, c->count);
        snap_put16(w, c->latched_count);
        snap_put(w, bytes, sizeof(bytes));
        put_time(w, c->load_ns, now);
    }
    snap_put8(w, pit->speaker_data);
    snap_end(w, at);
}

static int get_pit(struct snap_reader *r, struct pit_state *pit, u64 now) {
    struct snap_reader sub;
    if (!snap_section(r, TAG_PIT, VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    for (u32 i = 0; i < 3; i++) {
        struct pit_channel_state *c = &pit->channel[i];
        u8 *const bytes[] = {&c->count_latched, &c->status_latched, &c->status,  &c->read_state,
                             &c->write_state,   &c->write_latch,    &c->rw_mode, &c->mode};
        c->count = snap_get32(&sub);
        c->latched_count = snap_get16(&sub);
        for (u32 k = 0; k < ARRAY_LEN(bytes); k++) {
            *bytes[k] = snap_get8(&sub);
        }
        c->bcd = snap_get_bool(&sub);
        c->gate = snap_get_bool(&sub);
        c->load_ns = get_time(&sub, now);
    }
    pit->speaker_data = snap_get_bool(&sub);
    return snap_finish(&sub);
}

int irqchip_save(struct irqchip *chip, struct snap_writer *w) {
    struct irqchip_state *s = host_alloc(chip->host, sizeof(*s));
    if (!s) {
        return -ERR_NOMEM;
    }
    int rc = irqchip_get(chip, s);
    u64 now = host_now(chip->host);
    if (rc == 0) {
        size_t at = snap_begin(w, TAG_CHIP, VERSION);
        snap_put32(w, s->vcpu_count);
        for (u32 i = 0; i < MIN(s->vcpu_count, IRQCHIP_MAX_VCPUS); i++) {
            put_lapic(w, &s->lapic[i], now);
        }
        put_ioapic(w, &s->ioapic);
        put_pic(w, s->pic);
        put_pit(w, &s->pit, now);
        snap_end(w, at);
    }
    host_free(chip->host, s, sizeof(*s));
    return rc;
}

static int get_all(struct snap_reader *r, struct irqchip_state *s, u64 now) {
    struct snap_reader sub;
    if (!snap_section(r, TAG_CHIP, VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    s->vcpu_count = snap_get32(&sub);
    if (s->vcpu_count > IRQCHIP_MAX_VCPUS) {
        return -ERR_FORMAT;
    }
    int rc = 0;
    for (u32 i = 0; rc == 0 && i < s->vcpu_count; i++) {
        rc = get_lapic(&sub, &s->lapic[i], now);
    }
    rc = rc ? rc : get_ioapic(&sub, &s->ioapic);
    rc = rc ? rc : get_pic(&sub, s->pic);
    rc = rc ? rc : get_pit(&sub, &s->pit, now);
    return rc ? rc : snap_finish(&sub);
}

int irqchip_load(struct irqchip *chip, struct snap_reader *r) {
    struct irqchip_state *s = host_alloc(chip->host, sizeof(*s));
    if (!s) {
        return -ERR_NOMEM;
    }
    int rc = get_all(r, s, host_now(chip->host));
    if (rc == 0 && s->vcpu_count != chip->vm->vcpu_count) {
        rc = -ERR_FORMAT;
    }
    rc = rc ? rc : irqchip_set(chip, s);
    host_free(chip->host, s, sizeof(*s));
    return rc;
}
