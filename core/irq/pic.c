/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 8259A pair; see pic.h. Priorities rotate: priority_add is the input that is highest now, so
 * "priority p" below means input (priority_add + p) mod 8.
 */
#include "core/irq/pic.h"

#include "core/base/err.h"

enum {
    MASTER = 0,
    SLAVE = 1,
    CASCADE = 2,
    SPURIOUS = 7,
    NO_IRQ = -1,
    LOWEST = 8, /* no input in service: below every priority */
    ICW1_SELECT = 0x10,
    ICW1_ICW4 = 0x01,
    OCW3_SELECT = 0x08,
    ICW4_AUTO_EOI = 0x02,
    ICW4_FULLY_NESTED = 0x10,
    ELCR_MASTER = 0xf8, /* inputs 0..2 are always edges */
    ELCR_SLAVE = 0xde,  /* 8 and 13 */
};

/* The highest priority (0 is highest) among the inputs in mask, or LOWEST. */
static u32 highest_priority(const struct pic_state *s, u8 mask) {
    u32 p = 0;
    while (p < 8 && !(mask & (1u << ((p + s->priority_add) & 7)))) {
        p++;
    }
    return p;
}

/* The input that this chip would signal now, or NO_IRQ. */
static int wanted(const struct pic_state *s, bool master) {
    u32 p = highest_priority(s, s->irr & (u8)~s->imr);
    if (p == LOWEST) {
        return NO_IRQ;
    }
    u8 in_service = s->isr;
    if (s->special_mask) { /* what is masked and in service holds nothing back */
        in_service &= (u8)~s->imr;
    }
    if (s->special_fully_nested && master) { /* the slave may interrupt itself */
        in_service &= (u8) ~(1u << CASCADE);
    }
    u32 irq = (p + s->priority_add) & 7;
    return p < highest_priority(s, in_service) ? (int)irq : NO_IRQ;
}

/* While an ICW sequence runs the chip is silent. */
static int chip_wanted(const struct pic_state *s, bool master) {
    return s->init_state ? NO_IRQ : wanted(s, master);
}

static void set_input(struct pic_state *s, u32 n, bool level) {
    u8 bit = (u8)(1u << n);
    if (s->elcr & bit) {
        s->irr = level ? s->irr | bit : s->irr & (u8)~bit;
    } else if (level && !(s->lines & bit)) {
        s->irr |= bit;
    }
    s->lines = level ? s->lines | bit : s->lines & (u8)~bit;
}

static void update(struct pic *pic) {
    set_input(&pic->s[MASTER], CASCADE, chip_wanted(&pic->s[SLAVE], false) != NO_IRQ);
    bool output = chip_wanted(&pic->s[MASTER], true) != NO_IRQ;
    __atomic_store_n(&pic->output, output, __ATOMIC_RELAXED);
}

void pic_set_line(struct pic *pic, u32 irq, bool level) {
    if (irq < 16 && irq != CASCADE) {
        set_input(&pic->s[irq / 8], irq % 8, level);
        update(pic);
    }
}

/* --- acknowledge and end of interrupt -----------------------------------------------------------
 */

static void acknowledge(struct pic_state *s, u32 irq) {
    u8 bit = (u8)(1u << irq);
    if (s->auto_eoi) {
        if (s->rotate_on_auto_eoi) {
            s->priority_add = (irq + 1) & 7;
        }
    } else {
        s->isr |= bit;
    }
    if (!(s->elcr & bit)) {
        s->irr &= (u8)~bit;
    }
}

/* The slave's answer on the cascade lines; the master's input follows its output. */
static u32 acknowledge_slave(struct pic *pic) {
    struct pic_state *s = &pic->s[SLAVE];
    int irq = chip_wanted(s, false);
    if (irq == NO_IRQ) {
        return SPURIOUS;
    }
    acknowledge(s, (u32)irq);
    /* The slave drops its output for a moment, so that a further request makes a new edge. */
    set_input(&pic->s[MASTER], CASCADE, false);
    return (u32)irq;
}

u8 pic_accept(struct pic *pic) {
    struct pic_state *m = &pic->s[MASTER];
    int irq = chip_wanted(m, true);
    u32 vector = m->vector_base + SPURIOUS;
    if (irq != NO_IRQ) {
        vector = m->vector_base + (u32)irq;
        acknowledge(m, (u32)irq);
        if (irq == CASCADE) {
            vector = pic->s[SLAVE].vector_base + acknowledge_slave(pic);
        }
    }
    update(pic);
    return (u8)vector;
}

/* OCW2, bits 7:5: R (rotate), SL (specific), EOI. */
static void write_ocw2(struct pic_state *s, u8 value) {
    bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
    u32 level = value & 7;
    if (!eoi && !specific) {
        s->rotate_on_auto_eoi = rotate;
        return;
    }
    if (eoi && !specific) {
        u8 mask = s->special_mask ? s->isr & (u8)~s->imr : s->isr;
        u32 p = highest_priority(s, mask);
        if (p == LOWEST) {
            return;
        }
        level = (p + s->priority_add) & 7;
    }
    if (eoi) {
        s->isr &= (u8) ~(1u << level);
    }
    if (rotate) {
        s->priority_add = (level + 1) & 7;
    }
}

static void write_ocw3(struct pic_state *s, u8 value) {
    if (value & 0x04) {
        s->poll = true;
    }
    if (value & 0x02) {
        s->read_isr = value & 1;
    }
    if (value & 0x40) {
        s->special_mask = value & 0x20;
    }
}

/* ICW1 starts the initialisation: edge detectors, masks and modes are cleared. */
static void write_icw1(struct pic_state *s, u8 value) {
    u8 elcr = s->elcr, elcr_mask = s->elcr_mask, lines = s->lines, base = s->vector_base;
    memset(s, 0, sizeof(*s));
    s->elcr = elcr;
    s->elcr_mask = elcr_mask;
    s->lines = lines;
    s->vector_base = base;
    s->irr = lines & elcr; /* level inputs show through at once */
    s->init_state = 1;
    s->init4 = value & ICW1_ICW4;
}

static void write_data(struct pic_state *s, u8 value) {
    switch (s->init_state) {
    case 0:
        s->imr = value; /* OCW1 */
        break;
    case 1:
        s->vector_base = value & 0xf8;
        s->init_state = 2;
        break;
    case 2: /* ICW3: the wiring is fixed */
        s->init_state = s->init4 ? 3 : 0;
        break;
    default:
        s->special_fully_nested = value & ICW4_FULLY_NESTED;
        s->auto_eoi = value & ICW4_AUTO_EOI;
        s->init_state = 0;
        break;
    }
}

static void write_chip(struct pic *pic, u32 n, bool data, u8 value) {
    struct pic_state *s = &pic->s[n];
    if (data) {
        write_data(s, value);
    } else if (value & ICW1_SELECT) {
        write_icw1(s, value);
    } else if (value & OCW3_SELECT) {
        write_ocw3(s, value);
    } else {
        write_ocw2(s, value);
    }
}

/* A poll read is an acknowledge cycle by software: bit 7 says whether there was an interrupt. */
static u8 poll_read(struct pic *pic, u32 n) {
    struct pic_state *s = &pic->s[n];
    int irq = chip_wanted(s, n == MASTER);
    s->poll = false;
    if (irq == NO_IRQ) {
        return 0;
    }
    acknowledge(s, (u32)irq);
    if (n == SLAVE) {
        set_input(&pic->s[MASTER], CASCADE, false);
    }
    return (u8)(0x80 | irq);
}

static u8 read_chip(struct pic *pic, u32 n, bool data) {
    struct pic_state *s = &pic->s[n];
    if (s->poll) {
        return poll_read(pic, n);
    }
    return data ? s->imr : s->read_isr ? s->isr : s->irr;
}

static void write_elcr(struct pic_state *s, u8 value) {
    s->elcr = value & s->elcr_mask;
    s->irr = (s->irr & (u8)~s->elcr) | (s->lines & s->elcr);
}

u8 pic_read(struct pic *pic, u16 port) {
    if ((port & 0xfffe) == 0x4d0) {
        return pic->s[port & 1].elcr;
    }
    u8 value = read_chip(pic, port & 0x80 ? SLAVE : MASTER, port & 1);
    update(pic);
    return value;
}

void pic_write(struct pic *pic, u16 port, u8 value) {
    if ((port & 0xfffe) == 0x4d0) {
        write_elcr(&pic->s[port & 1], value);
    } else {
        write_chip(pic, port & 0x80 ? SLAVE : MASTER, port & 1, value);
    }
    update(pic);
}

/* --- life and state -----------------------------------------------------------------------------
 */

void pic_init(struct pic *pic) {
    memset(pic, 0, sizeof(*pic));
    pic_reset(pic);
}

/* The inputs keep their levels, as in the IOAPIC. Nobody has initialised the chips: all masked, so
 * that nothing arrives at vector 0. */
void pic_reset(struct pic *pic) {
    for (u32 n = 0; n < 2; n++) {
        u8 lines = pic->s[n].lines;
        pic->s[n] = (struct pic_state){
            .lines = lines,
            .imr = 0xff,
            .elcr_mask = n == MASTER ? ELCR_MASTER : ELCR_SLAVE,
        };
    }
    update(pic);
}

static bool state_ok(const struct pic_state *s, u8 elcr_mask) {
    return s->priority_add < 8 && s->init_state < 4 && !(s->vector_base & 7) &&
           !(s->elcr & ~elcr_mask);
}

int pic_set(struct pic *pic, const struct pic_state state[2]) {
    if (!state_ok(&state[MASTER], ELCR_MASTER) || !state_ok(&state[SLAVE], ELCR_SLAVE)) {
        return -ERR_FORMAT;
    }
    for (u32 n = 0; n < 2; n++) {
        u8 elcr_mask = pic->s[n].elcr_mask;
        pic->s[n] = state[n];
        pic->s[n].elcr_mask = elcr_mask;
    }
    update(pic);
    return 0;
}
