/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O APIC; see ioapic.h for its states and the lock rule. */
#include "core/irq/ioapic.h"

#include "core/base/err.h"
#include "core/irq/irqchip.h"

enum {
    IOREGSEL = 0x00,
    IOWIN = 0x10,
    IOEOI = 0x40,
    REG_ID = 0x00,
    REG_VERSION = 0x01,
    REG_ARBITRATION = 0x02,
    REG_REDIRECT = 0x10,
    VERSION_OLD = 0x11,
    VERSION_EOI = 0x20,
    ID_SHIFT = 24,
    ID_MASK = 0xf,
};

#define REDIRECT_WRITABLE                                                                          \
    (IOAPIC_VECTOR | IOAPIC_DELIVERY | IOAPIC_LOGICAL | IOAPIC_POLARITY | IOAPIC_LEVEL |           \
     IOAPIC_MASKED | 0xffull << IOAPIC_DEST_SHIFT)

static void deliver(struct ioapic *io, u64 entry) {
    struct apic_msg msg = {
        .dest = (u32)(entry >> IOAPIC_DEST_SHIFT),
        .logical = entry & IOAPIC_LOGICAL,
        .level = entry & IOAPIC_LEVEL,
        .delivery = (u8)((entry & IOAPIC_DELIVERY) >> IOAPIC_DELIVERY_SHIFT),
        .vector = (u8)(entry & IOAPIC_VECTOR),
    };
    irqchip_route(io->chip, &msg);
}

/* Only fixed and lowest-priority interrupts are level-triggered; the others are edges whatever the
 * trigger bit says. */
static bool is_level(u64 entry) {
    u64 delivery = (entry & IOAPIC_DELIVERY) >> IOAPIC_DELIVERY_SHIFT;
    return (entry & IOAPIC_LEVEL) && (delivery == DELIVERY_FIXED || delivery == DELIVERY_LOWEST);
}

/* A pin with its IRR bit set: sends what may go out. */
static void service(struct ioapic *io, u32 pin) {
    u64 entry = io->s.redirect[pin];
    if (entry & IOAPIC_MASKED) {
        return;
    }
    if (!is_level(entry)) {
        io->s.irr &= ~(1u << pin);
        deliver(io, entry & ~IOAPIC_LEVEL);
    } else if (!(entry & IOAPIC_REMOTE_IRR)) {
        io->s.redirect[pin] |= IOAPIC_REMOTE_IRR;
        deliver(io, entry);
    }
}

void ioapic_set_line(struct ioapic *io, u32 pin, bool level) {
    if (pin >= IOAPIC_PINS) {
        return;
    }
    u32 bit = 1u << pin;
    bool rise = level && !(io->s.lines & bit);
    io->s.lines = level ? io->s.lines | bit : io->s.lines & ~bit;
    if (is_level(io->s.redirect[pin])) {
        io->s.irr = level ? io->s.irr | bit : io->s.irr & ~bit;
    } else if (rise && !(io->s.redirect[pin] & IOAPIC_MASKED)) {
        io->s.irr |= bit; /* an edge at a masked pin is lost */
    }
    if (rise && (io->s.irr & bit)) {
        service(io, pin);
    }
}

static void write_redirect(struct ioapic *io, u32 pin, bool high, u32 value) {
    u64 old = io->s.redirect[pin];
    u64 entry = high ? (old & 0xffffffffull) | (u64)value << 32 : (old & ~0xffffffffull) | value;
    u64 next = (entry & REDIRECT_WRITABLE) | (old & IOAPIC_REMOTE_IRR);
    u32 bit = 1u << pin;
    if (!is_level(next)) {
        next &= ~IOAPIC_REMOTE_IRR; /* software's way to forget a lost EOI */
    }
    io->s.redirect[pin] = next;
    if (is_level(next)) {
        io->s.irr = io->s.lines & bit ? io->s.irr | bit : io->s.irr & ~bit;
        if (io->s.irr & bit) {
            service(io, pin);
        }
    } else {
        io->s.irr &= ~bit;
    }
}

static u32 read_register(const struct ioapic *io) {
    u32 reg = io->s.select;
    if (reg == REG_ID || reg == REG_ARBITRATION) {
        return io->s.id << ID_SHIFT;
    }
    if (reg == REG_VERSION) {
        return (io->has_eoi ? VERSION_EOI : VERSION_OLD) | (IOAPIC_PINS - 1) << 16;
    }
    if (reg >= REG_REDIRECT && reg < REG_REDIRECT + 2 * IOAPIC_PINS) {
        return (u32)(io->s.redirect[(reg - REG_REDIRECT) / 2] >> (reg & 1 ? 32 : 0));
    }
    return 0;
}

static void write_register(struct ioapic *io, u32 value) {
    u32 reg = io->s.select;
    if (reg == REG_ID) {
        io->s.id = (value >> ID_SHIFT) & ID_MASK;
    } else if (reg >= REG_REDIRECT && reg < REG_REDIRECT + 2 * IOAPIC_PINS) {
        write_redirect(io, (reg - REG_REDIRECT) / 2, reg & 1, value);
    }
}

u32 ioapic_read(struct ioapic *io, u32 offset) {
    switch (offset & 0xff) {
    case IOREGSEL:
        return io->s.select;
    case IOWIN:
        return read_register(io);
    default:
        return 0;
    }
}

void ioapic_write(struct ioapic *io, u32 offset, u32 value) {
    switch (offset & 0xff) {
    case IOREGSEL:
        io->s.select = value & 0xff;
        break;
    case IOWIN:
        write_register(io, value);
        break;
    case IOEOI:
        if (io->has_eoi) {
            ioapic_eoi(io, (u8)value);
        }
        break;
    default:
        break;
    }
}

void ioapic_eoi(struct ioapic *io, u8 vector) {
    for (u32 pin = 0; pin < IOAPIC_PINS; pin++) {
        u64 entry = io->s.redirect[pin];
        if ((entry & IOAPIC_REMOTE_IRR) && (u8)(entry & IOAPIC_VECTOR) == vector) {
            io->s.redirect[pin] &= ~IOAPIC_REMOTE_IRR;
            if (io->s.irr & (1u << pin)) {
                service(io, pin);
            }
        }
    }
}

void ioapic_init(struct ioapic *io, struct irqchip *chip, bool has_eoi) {
    memset(io, 0, sizeof(*io));
    io->chip = chip;
    io->has_eoi = has_eoi;
    ioapic_reset(io);
}

/* The inputs keep their levels: they belong to the devices, which are reset on their own. */
void ioapic_reset(struct ioapic *io) {
    u32 lines = io->s.lines;
    memset(&io->s, 0, sizeof(io->s));
    io->s.lines = lines;
    for (u32 pin = 0; pin < IOAPIC_PINS; pin++) {
        io->s.redirect[pin] = IOAPIC_MASKED;
    }
}

int ioapic_set(struct ioapic *io, const struct ioapic_state *state) {
    u32 pins = (1u << IOAPIC_PINS) - 1;
    if (state->id > ID_MASK || state->select > 0xff || ((state->irr | state->lines) & ~pins)) {
        return -ERR_FORMAT;
    }
    io->s = *state;
    for (u32 pin = 0; pin < IOAPIC_PINS; pin++) {
        u64 *entry = &io->s.redirect[pin];
        *entry &= REDIRECT_WRITABLE | IOAPIC_REMOTE_IRR;
        if (!is_level(*entry)) {
            *entry &= ~IOAPIC_REMOTE_IRR;
        }
        if (io->s.irr & (1u << pin)) {
            service(io, pin);
        }
    }
    return 0;
}
