/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware: PM1a event and control blocks, the power-management timer. ACPI
 * specification 6.4, section 4.8.3. core/dev/acpi_dev.h makes a device of it; the reset register,
 * port 0xcf9, is the PCI host bridge's.
 *
 *   0x600  PM1a_STS, PM1a_EN (16 bits each)     0x604  PM1a_CNT (16)     0x608  PM_TMR (32)
 *   0x60c  GPE0_STS, GPE0_EN (16 bits each): general-purpose events, section 4.8.4
 *
 * The machine is always in ACPI mode (SMI_CMD 0 in the FADT, SCI_EN reads 1). The only sleep state
 * is S5. No RTC wake.
 *
 * Lock rule: the board lock is held for every call; the timer's callback takes it.
 */
#ifndef CORE_TIME_ACPIPM_H
#define CORE_TIME_ACPIPM_H

#include "core/base/snap.h"
#include "core/if/mutex.h"
#include "core/time/vtimer.h"

struct irqchip;

/* For the FADT and the DSDT. */
enum {
    ACPIPM_PORT = 0x600,
    ACPIPM_PM1A_EVT = 0x600,
    ACPIPM_PM1A_EVT_LEN = 4,
    ACPIPM_PM1A_CNT = 0x604,
    ACPIPM_PM1A_CNT_LEN = 2,
    ACPIPM_TMR = 0x608, /* 32 bits wide: set TMR_VAL_EXT */
    ACPIPM_TMR_LEN = 4,
    ACPIPM_GPE0 = 0x60c,
    ACPIPM_GPE0_LEN = 4,
    ACPIPM_GPE_VMGENID = 0, /* the machine is another one now: the generation changed */
    ACPIPM_SIZE = 16,
    ACPIPM_SCI_GSI = 9,        /* level, active high */
    ACPIPM_RESET_PORT = 0xcf9, /* for the FADT's RESET_REG */
    ACPIPM_RESET_VALUE = 0x06,
    ACPIPM_S5_SLP_TYP = 5, /* \_S5: Package { 5, 5, 0, 0 } */
};

#define ACPIPM_HZ 3579545u

#define ACPIPM_TMR_STS    BIT(0) /* also TMR_EN */
#define ACPIPM_BM_STS     BIT(4)
#define ACPIPM_GBL_STS    BIT(5)
#define ACPIPM_PWRBTN_STS BIT(8)
#define ACPIPM_SLPBTN_STS BIT(9)
#define ACPIPM_RTC_STS    BIT(10)
#define ACPIPM_WAK_STS    BIT(15)

struct acpipm {
    struct host *host;
    struct mutex *lock;
    struct irqchip *irq;
    struct vtimer timer;         /* next change of the timer's top bit, when enabled */
    void (*poweroff)(void *ctx); /* the guest entered S5 */
    void *ctx;
    u64 epoch_ns; /* host time at which the timer was 0 */
    u16 status, enable, control;
    u16 gpe_status, gpe_enable;
    bool top_bit; /* of the timer when TMR_STS was last brought up to date */
};

int acpipm_init(struct acpipm *pm, struct host *host, struct mutex *lock, struct irqchip *irq);
void acpipm_fini(struct acpipm *pm);
void acpipm_reset(struct acpipm *pm);
/* offset from ACPIPM_PORT; size 1, 2 or 4 */
u32 acpipm_read(struct acpipm *pm, u32 offset, u32 size);
void acpipm_write(struct acpipm *pm, u32 offset, u32 size, u32 value);
/* A press of the power button. */
void acpipm_power_button(struct acpipm *pm);
/* A general-purpose event, 0 to 15. */
void acpipm_event(struct acpipm *pm, u32 event);
void acpipm_save(struct acpipm *pm, struct snap_writer *w);
/* version 1 had no general-purpose events */
int acpipm_load(struct acpipm *pm, struct snap_reader *r, u32 version);

#endif
