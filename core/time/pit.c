/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 8254; see pit.h. Encodings of struct pit_channel_state: rw_mode 1 low byte, 2 high byte,
 * 3 both; read_state, write_state and count_latched as rw_mode, and 4: the high byte of both comes
 * next. count 0: no count since the control word. load_ns 0: not counting (no count, no trigger, or
 * the gate is low).
 *
 * Left out beside what pit.h says: a count written in modes 2 and 3 loads at once, not at the end
 * of the period.
 */
#include "core/time/pit.h"

#include "core/base/err.h"
#include "core/irq/irq.h"

enum {
    RW_LOW = 1,
    RW_HIGH = 2,
    RW_BOTH = 3,
    RW_BOTH_HIGH = 4,
    PIT_GSI = 0,
    PORT61 = 0x61,
    PORT61_GATE = 0x01,
    PORT61_SPEAKER = 0x02,
    PORT61_REFRESH = 0x10,
    PORT61_OUT2 = 0x20,
    REFRESH_SHIFT = 14, /* the refresh bit toggles every 16 us: near enough to 15.1 */
    MODE_NONE = 0xff,   /* KVM's name for "no control word yet" */
    MIN_PERIOD_NS = 20000,
};

static u32 full_count(const struct pit_channel_state *c) {
    return c->bcd ? 10000 : 65536;
}

static u64 ticks(const struct pit_channel_state *c, u64 now) {
    s64 ns = (s64)(now - c->load_ns);
    return ns > 0 ? muldiv_down((u64)ns, PIT_HZ, NSEC_PER_SEC) : 0;
}

static bool counting(const struct pit_channel_state *c) {
    return c->load_ns && c->count;
}

static void start(struct pit_channel_state *c, u64 now) {
    c->load_ns = now ? now : 1;
}

static bool output(const struct pit_channel_state *c, u64 now) {
    if (!counting(c)) {
        return c->mode != 0;
    }
    u64 d = ticks(c, now);
    switch (c->mode) {
    case 0:
    case 1:
        return d >= c->count;
    case 2:
        return d % c->count != c->count - 1;
    case 3:
        return d % c->count < (c->count + 1) / 2;
    default: /* 4 and 5: low for one tick */
        return d != c->count;
    }
}

static u16 to_bcd(u32 v) {
    return (u16)(v % 10 | (v / 10 % 10) << 4 | (v / 100 % 10) << 8 | (v / 1000 % 10) << 12);
}

static u32 from_bcd(u32 v) {
    return (v & 15) + 10 * (v >> 4 & 15) + 100 * (v >> 8 & 15) + 1000 * (v >> 12 & 15);
}

static u16 counter(const struct pit_channel_state *c, u64 now) {
    u64 d = counting(c) ? ticks(c, now) : 0;
    u32 full = full_count(c), value;
    if (!c->count) {
        return 0;
    }
    if (c->mode == 2) {
        value = c->count - (u32)(d % c->count);
    } else if (c->mode == 3) {
        value = c->count - (u32)(2 * d % c->count);
    } else {
        value = (c->count + full - (u32)(d % full)) % full;
    }
    return c->bcd ? to_bcd(value) : (u16)value;
}

/* --- counter 0's interrupt ----------------------------------------------------------------------
 */

/* The tick of the next rising edge of the output after tick d; 0: none. */
static u64 next_edge(const struct pit_channel_state *c, u64 d) {
    switch (c->mode) {
    case 0:
        return d < c->count ? c->count : 0;
    case 2:
    case 3:
        return (d / c->count + 1) * c->count;
    case 4:
        return d < c->count + 1ull ? c->count + 1ull : 0;
    default: /* 1 and 5 wait for a gate that never rises */
        return 0;
    }
}

/* For the first edge after tick `from`. */
static void arm_after(struct pit *pit, u64 from) {
    const struct pit_channel_state *c = &pit->s.channel[0];
    u64 now = host_now(pit->host);
    u64 tick = counting(c) ? next_edge(c, from) : 0;
    if (!tick) {
        vtimer_cancel(&pit->timer);
        return;
    }
    u64 deadline = c->load_ns + muldiv_up(tick, NSEC_PER_SEC, PIT_HZ);
    bool periodic = c->mode == 2 || c->mode == 3;
    vtimer_arm(&pit->timer, periodic ? MAX(deadline, now + MIN_PERIOD_NS) : deadline);
}

static void arm(struct pit *pit) {
    const struct pit_channel_state *c = &pit->s.channel[0];
    arm_after(pit, counting(c) ? ticks(c, host_now(pit->host)) : 0);
}

static void timer_fn(void *ctx) {
    struct pit *pit = ctx;
    mutex_lock(pit->host, &pit->lock);
    if (vtimer_due(&pit->timer, host_now(pit->host))) {
        irq_pulse(pit->chip, PIT_GSI);
        arm(pit);
    }
    mutex_unlock(pit->host, &pit->lock);
}

/* --- registers ----------------------------------------------------------------------------------
 */

static void load(struct pit *pit, u32 n, u32 value) {
    struct pit_channel_state *c = &pit->s.channel[n];
    if (c->bcd) {
        value = from_bcd(value) % 10000;
    }
    c->count = value ? value : full_count(c);
    c->load_ns = 0;
    if (c->mode != 1 && c->mode != 5 && c->gate) {
        start(c, host_now(pit->host));
    }
    if (n == 0) { /* a short count may have run out by now: its edge still comes */
        arm_after(pit, 0);
    }
}

static void write_counter(struct pit *pit, u32 n, u8 value) {
    struct pit_channel_state *c = &pit->s.channel[n];
    switch (c->write_state) {
    case RW_LOW:
        load(pit, n, value);
        break;
    case RW_HIGH:
        load(pit, n, (u32)value << 8);
        break;
    case RW_BOTH:
        c->write_latch = value;
        c->write_state = RW_BOTH_HIGH;
        if (c->mode == 0) { /* the first byte stops it */
            c->load_ns = 0;
            if (n == 0) {
                arm(pit);
            }
        }
        break;
    case RW_BOTH_HIGH:
        c->write_state = RW_BOTH;
        load(pit, n, c->write_latch | (u32)value << 8);
        break;
    default: /* no control word yet */
        break;
    }
}

static void latch_count(struct pit_channel_state *c, u64 now) {
    if (!c->count_latched && c->rw_mode) {
        c->latched_count = counter(c, now);
        c->count_latched = c->rw_mode;
    }
}

static void latch_status(struct pit_channel_state *c, u64 now) {
    if (!c->status_latched) {
        c->status = (u8)((output(c, now) ? 0x80 : 0) | (c->count ? 0 : 0x40) | c->rw_mode << 4 |
                         (c->mode & 7) << 1 | c->bcd);
        c->status_latched = 1;
    }
}

static void read_back(struct pit *pit, u8 value, u64 now) {
    for (u32 n = 0; n < 3; n++) {
        if (value & (2u << n)) {
            if (!(value & 0x20)) {
                latch_count(&pit->s.channel[n], now);
            }
            if (!(value & 0x10)) {
                latch_status(&pit->s.channel[n], now);
            }
        }
    }
}

static void write_control(struct pit *pit, u8 value) {
    u64 now = host_now(pit->host);
    u32 n = value >> 6;
    if (n == 3) {
        read_back(pit, value, now);
        return;
    }
    struct pit_channel_state *c = &pit->s.channel[n];
    u8 rw = (value >> 4) & 3;
    if (!rw) {
        latch_count(c, now);
        return;
    }
    u8 mode = (value >> 1) & 7;
    c->mode = mode > 5 ? mode & 3 : mode;
    c->bcd = value & 1;
    c->rw_mode = c->read_state = c->write_state = rw;
    c->count_latched = 0;
    c->status_latched = 0;
    c->count = 0;
    c->load_ns = 0;
    if (n == 0) {
        arm(pit);
    }
}

/* One byte of a 16-bit value; state steps from the low to the high byte and back. */
static u8 read_byte(u8 *state, u16 value) {
    switch (*state) {
    case RW_HIGH:
        return (u8)(value >> 8);
    case RW_BOTH:
        *state = RW_BOTH_HIGH;
        return (u8)value;
    case RW_BOTH_HIGH:
        *state = RW_BOTH;
        return (u8)(value >> 8);
    default:
        return (u8)value;
    }
}

static u8 read_counter(struct pit_channel_state *c, u64 now) {
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    if (c->count_latched) {
        bool more = c->count_latched == RW_BOTH;
        u8 value = read_byte(&c->count_latched, c->latched_count);
        if (!more) {
            c->count_latched = 0;
        }
        return value;
    }
    return read_byte(&c->read_state, counter(c, now));
}

static void set_gate(struct pit_channel_state *c, bool gate, u64 now) {
    bool rise = gate && !c->gate, fall = !gate && c->gate;
    c->gate = gate;
    if (!c->count) {
        return;
    }
    if (c->mode == 0 || c->mode == 4) { /* a low gate holds the count */
        if (fall && counting(c) && ticks(c, now) < c->count) {
            c->count -= (u32)ticks(c, now);
            c->load_ns = 0;
        } else if (rise && !c->load_ns) {
            start(c, now);
        }
    } else if (rise) { /* a rising gate starts anew */
        start(c, now);
    } else if (fall && (c->mode == 2 || c->mode == 3)) {
        c->load_ns = 0;
    }
}

static u8 read_port61(struct pit *pit, u64 now) {
    const struct pit_channel_state *c = &pit->s.channel[2];
    return (u8)((c->gate ? PORT61_GATE : 0) | (pit->s.speaker_data ? PORT61_SPEAKER : 0) |
                (now >> REFRESH_SHIFT & 1 ? PORT61_REFRESH : 0) |
                (output(c, now) ? PORT61_OUT2 : 0));
}

u8 pit_read(struct pit *pit, u16 port) {
    mutex_lock(pit->host, &pit->lock);
    u64 now = host_now(pit->host);
    u8 value = 0xff; /* the control word cannot be read */
    if (port == PORT61) {
        value = read_port61(pit, now);
    } else if ((port & 3) < 3) {
        value = read_counter(&pit->s.channel[port & 3], now);
    }
    mutex_unlock(pit->host, &pit->lock);
    return value;
}

void pit_write(struct pit *pit, u16 port, u8 value) {
    mutex_lock(pit->host, &pit->lock);
    if (port == PORT61) {
        pit->s.speaker_data = value & PORT61_SPEAKER;
        set_gate(&pit->s.channel[2], value & PORT61_GATE, host_now(pit->host));
    } else if ((port & 3) == 3) {
        write_control(pit, value);
    } else {
        write_counter(pit, port & 3, value);
    }
    mutex_unlock(pit->host, &pit->lock);
}

/* --- life and state -----------------------------------------------------------------------------
 */

static void clear(struct pit *pit) {
    memset(&pit->s, 0, sizeof(pit->s));
    for (u32 n = 0; n < 3; n++) {
        pit->s.channel[n].mode = 3;
        pit->s.channel[n].gate = n != 2;
    }
}

int pit_init(struct pit *pit, struct host *host, struct irqchip *chip) {
    memset(pit, 0, sizeof(*pit));
    pit->host = host;
    pit->chip = chip;
    clear(pit);
    return vtimer_init(&pit->timer, host, timer_fn, pit);
}

void pit_fini(struct pit *pit) {
    vtimer_fini(&pit->timer);
}

void pit_reset(struct pit *pit) {
    mutex_lock(pit->host, &pit->lock);
    clear(pit);
    arm(pit);
    mutex_unlock(pit->host, &pit->lock);
}

void pit_get(struct pit *pit, struct pit_state *state) {
    mutex_lock(pit->host, &pit->lock);
    *state = pit->s;
    mutex_unlock(pit->host, &pit->lock);
}

static bool channel_ok(const struct pit_channel_state *c) {
    return c->count <= full_count(c) && c->count_latched <= RW_BOTH_HIGH &&
           c->status_latched <= 1 && c->read_state <= RW_BOTH_HIGH &&
           c->write_state <= RW_BOTH_HIGH && c->rw_mode <= RW_BOTH &&
           (c->mode <= 5 || c->mode == MODE_NONE);
}

int pit_set(struct pit *pit, const struct pit_state *state) {
    for (u32 n = 0; n < 3; n++) {
        if (!channel_ok(&state->channel[n])) {
            return -ERR_FORMAT;
        }
    }
    mutex_lock(pit->host, &pit->lock);
    u64 now = host_now(pit->host);
    pit->s = *state;
    for (u32 n = 0; n < 3; n++) {
        struct pit_channel_state *c = &pit->s.channel[n];
        c->gate = n != 2 || c->gate;
        if (c->mode == MODE_NONE) {
            c->mode = 3;
            c->load_ns = 0;
        }
        if (c->load_ns && (s64)(now - c->load_ns) < 0) {
            start(c, now);
        }
    }
    arm(pit);
    mutex_unlock(pit->host, &pit->lock);
    return 0;
}
