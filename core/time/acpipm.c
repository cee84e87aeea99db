/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware; see acpipm.h. */
#include "core/time/acpipm.h"

#include "core/base/err.h"
#include "core/irq/irq.h"

enum {
    PM1_STS = 0,
    PM1_EN = 2,
    PM1_CNT = 4,
    PM_TMR = 8,
    GPE0_STS = 12,
    GPE0_EN = 14,
    CNT_SCI_EN = 0x0001,
    CNT_BM_RLD = 0x0002,
    CNT_SLP_TYP = 0x1c00,
    CNT_SLP_TYP_SHIFT = 10,
    CNT_SLP_EN = 0x2000,
    TIMER_TOP_BIT = 31,
};

#define STATUS_BITS                                                                                \
    (ACPIPM_TMR_STS | ACPIPM_BM_STS | ACPIPM_GBL_STS | ACPIPM_PWRBTN_STS | ACPIPM_SLPBTN_STS |     \
     ACPIPM_RTC_STS | ACPIPM_WAK_STS)
#define ENABLE_BITS                                                                                \
    (ACPIPM_TMR_STS | ACPIPM_GBL_STS | ACPIPM_PWRBTN_STS | ACPIPM_SLPBTN_STS | ACPIPM_RTC_STS)

static u64 timer_ticks(const struct acpipm *pm) {
    s64 ns = (s64)(host_now(pm->host) - pm->epoch_ns);
    return ns > 0 ? muldiv_down((u64)ns, ACPIPM_HZ, NSEC_PER_SEC) : 0;
}

/* TMR_STS: the timer's top bit has changed since somebody last looked. An even number of changes
 * goes unseen only while the interrupt is off. */
static void bring_up_to_date(struct acpipm *pm) {
    bool top = timer_ticks(pm) >> TIMER_TOP_BIT & 1;
    if (top != pm->top_bit) {
        pm->status |= ACPIPM_TMR_STS;
        pm->top_bit = top;
    }
    irq_set(pm->irq, ACPIPM_SCI_GSI,
            (pm->status & pm->enable & ENABLE_BITS) || (pm->gpe_status & pm->gpe_enable));
}

static void arm(struct acpipm *pm) {
    if (!(pm->enable & ACPIPM_TMR_STS)) {
        vtimer_cancel(&pm->timer);
        return;
    }
    u64 next = ((timer_ticks(pm) >> TIMER_TOP_BIT) + 1) << TIMER_TOP_BIT;
    vtimer_arm(&pm->timer, pm->epoch_ns + muldiv_up(next, NSEC_PER_SEC, ACPIPM_HZ));
}

static void timer_fn(void *ctx) {
    struct acpipm *pm = ctx;
    mutex_lock(pm->host, pm->lock);
    if (vtimer_due(&pm->timer, host_now(pm->host))) {
        bring_up_to_date(pm);
        arm(pm);
    }
    mutex_unlock(pm->host, pm->lock);
}

/* --- registers: any size, byte by byte ----------------------------------------------------------
 */

static void put_bytes(u8 *image, u32 at, u32 value, u32 size) {
    for (u32 i = 0; i < size; i++) {
        image[at + i] = (u8)(value >> (i * 8));
    }
}

u32 acpipm_read(struct acpipm *pm, u32 offset, u32 size) {
    u8 image[ACPIPM_SIZE] = {0};
    u32 value = 0;
    bring_up_to_date(pm);
    put_bytes(image, PM1_STS, pm->status, 2);
    put_bytes(image, PM1_EN, pm->enable, 2);
    put_bytes(image, PM1_CNT, pm->control | CNT_SCI_EN, 2);
    put_bytes(image, PM_TMR, (u32)timer_ticks(pm), 4);
    put_bytes(image, GPE0_STS, pm->gpe_status, 2);
    put_bytes(image, GPE0_EN, pm->gpe_enable, 2);
    for (u32 i = 0; i < size && i < 4 && offset + i < ACPIPM_SIZE; i++) {
        value |= (u32)image[offset + i] << (i * 8);
    }
    return value;
}

static u16 merge(u16 old, u32 high, u8 value) {
    return (u16)(high ? (old & 0x00ff) | value << 8 : (old & 0xff00) | value);
}

static void write_control(struct acpipm *pm, u16 value) {
    u32 type = (value & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT;
    pm->control = value & (CNT_BM_RLD | CNT_SLP_TYP);
    if ((value & CNT_SLP_EN) && type == ACPIPM_S5_SLP_TYP && pm->poweroff) {
        pm->poweroff(pm->ctx);
    }
}

static void write_byte(struct acpipm *pm, u32 offset, u8 value) {
    switch (offset & ~1u) {
    case PM1_STS: /* write one to clear */
        pm->status &= (u16) ~(value << (offset & 1 ? 8 : 0));
        break;
    case PM1_EN:
        pm->enable = merge(pm->enable, offset & 1, value) & ENABLE_BITS;
        break;
    case PM1_CNT:
        write_control(pm, merge(pm->control, offset & 1, value));
        break;
    case GPE0_STS: /* likewise */
        pm->gpe_status &= (u16) ~(value << (offset & 1 ? 8 : 0));
        break;
    case GPE0_EN:
        pm->gpe_enable = merge(pm->gpe_enable, offset & 1, value);
        break;
    default: /* the timer is read-only */
        break;
    }
}

void acpipm_write(struct acpipm *pm, u32 offset, u32 size, u32 value) {
    bring_up_to_date(pm);
    for (u32 i = 0; i < size && i < 4 && offset + i < ACPIPM_SIZE; i++) {
        write_byte(pm, offset + i, (u8)(value >> (i * 8)));
    }
    bring_up_to_date(pm);
    arm(pm);
}

void acpipm_power_button(struct acpipm *pm) {
    pm->status |= ACPIPM_PWRBTN_STS;
    bring_up_to_date(pm);
}

void acpipm_event(struct acpipm *pm, u32 event) {
    pm->gpe_status |= (u16)BIT(event & 15);
    bring_up_to_date(pm);
}

/* --- life and state -----------------------------------------------------------------------------
 */

int acpipm_init(struct acpipm *pm, struct host *host, struct mutex *lock, struct irqchip *irq) {
    memset(pm, 0, sizeof(*pm));
    pm->host = host;
    pm->lock = lock;
    pm->irq = irq;
    pm->epoch_ns = host_now(host);
    return vtimer_init(&pm->timer, host, timer_fn, pm);
}

void acpipm_fini(struct acpipm *pm) {
    vtimer_fini(&pm->timer);
}

/* The timer runs on. */
void acpipm_reset(struct acpipm *pm) {
    pm->status = pm->enable = pm->control = 0;
    pm->gpe_status = pm->gpe_enable = 0;
    pm->top_bit = timer_ticks(pm) >> TIMER_TOP_BIT & 1;
    bring_up_to_date(pm);
    arm(pm);
}

void acpipm_save(struct acpipm *pm, struct snap_writer *w) {
    bring_up_to_date(pm);
    snap_put64(w, host_now(pm->host) - pm->epoch_ns);
    snap_put16(w, pm->status);
    snap_put16(w, pm->enable);
    snap_put16(w, pm->control);
    snap_put16(w, pm->gpe_status);
    snap_put16(w, pm->gpe_enable);
}

int acpipm_load(struct acpipm *pm, struct snap_reader *r, u32 version) {
    u64 age = snap_get64(r);
    u16 status = snap_get16(r), enable = snap_get16(r), control = snap_get16(r);
    u16 gpe_status = version > 1 ? snap_get16(r) : 0, gpe_enable = version > 1 ? snap_get16(r) : 0;
    if (snap_finish(r) < 0 || (status & ~STATUS_BITS) || (enable & ~ENABLE_BITS) ||
        (control & ~(CNT_BM_RLD | CNT_SLP_TYP)) || age > (u64)INT64_MAX) {
        return -ERR_FORMAT;
    }
    pm->epoch_ns = host_now(pm->host) - age;
    pm->status = status;
    pm->enable = enable;
    pm->control = control;
    pm->gpe_status = gpe_status;
    pm->gpe_enable = gpe_enable;
    pm->top_bit = timer_ticks(pm) >> TIMER_TOP_BIT & 1;
    bring_up_to_date(pm);
    arm(pm);
    return 0;
}
