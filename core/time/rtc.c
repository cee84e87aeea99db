/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real-time clock; see rtc.h. Two clocks follow from the host's wall clock: the phase clock
 * (wall + offset_ns), whose whole seconds are the updates and which drives the periodic interrupt,
 * and the guest's time in seconds (phase clock / 1 s + offset_s).
 *
 * Flags in register C are brought up to date when somebody looks; a timer runs only while one of
 * their interrupts is enabled.
 */
#include "core/time/rtc.h"

#include "core/base/err.h"
#include "core/irq/irq.h"

enum {
    SECONDS = 0x00,
    SECONDS_ALARM = 0x01,
    MINUTES = 0x02,
    MINUTES_ALARM = 0x03,
    HOURS = 0x04,
    HOURS_ALARM = 0x05,
    DAY_OF_WEEK = 0x06,
    DAY_OF_MONTH = 0x07,
    MONTH = 0x08,
    YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_C = 0x0c,
    REG_D = 0x0d,
    CENTURY = 0x32,

    A_UIP = 0x80,
    A_DIVIDER = 0x70,
    A_DIVIDER_32K = 0x20,
    A_RATE = 0x0f,
    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_SQWE = 0x08,
    B_BINARY = 0x04,
    B_24H = 0x02,
    C_IRQF = 0x80,
    C_FLAGS = 0x70, /* PF, AF, UF: the same bits as their enables in B */
    D_VRT = 0x80,
    HOUR_PM = 0x80,
    ALARM_ANY = 0xc0,

    CRYSTAL_HZ = 32768,
    UIP_NS = 244000, /* the update-in-progress bit rises this long before an update */
    MIN_WAIT_NS = 1000,
    SECONDS_PER_DAY = 86400,
};

#define OFFSET_LIMIT (1ll << 40) /* seconds; far beyond what the registers can say */

/* --- clocks -------------------------------------------------------------------------------------
 */

static u64 phase_clock(const struct rtc *rtc) {
    return rtc->host->ops->wall(rtc->host) + rtc->offset_ns;
}

static s64 guest_second(const struct rtc *rtc, u64 phase) {
    return (s64)(phase / NSEC_PER_SEC) + rtc->offset_s;
}

static bool divider_runs(const struct rtc *rtc) {
    return (rtc->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_32K;
}

static bool updates_run(const struct rtc *rtc) {
    return divider_runs(rtc) && !(rtc->cmos[REG_B] & B_SET);
}

/* Log2 of the periodic interrupt's period in crystal ticks; 0: none (MC146818A, table 5). */
static u32 periodic_shift(const struct rtc *rtc) {
    u32 rate = rtc->cmos[REG_A] & A_RATE;
    return !rate ? 0 : rate < 3 ? rate + 6 : rate - 1;
}

static u64 periodic_index(const struct rtc *rtc, u64 phase) {
    return muldiv_down(phase, CRYSTAL_HZ, NSEC_PER_SEC) >> periodic_shift(rtc);
}

/* --- calendar -----------------------------------------------------------------------------------
 */

struct calendar {
    u32 second, minute, hour, weekday; /* weekday 0 is Sunday */
    u32 day, month;                    /* from 1 */
    s64 year;
};

static s64 floor_div(s64 a, s64 b) {
    return a / b - (a % b < 0);
}

/* Days since 1970-01-01 of a date of the Gregorian calendar; years begin in March here, so that the
 * leap day is the last of its year. */
static s64 days_of_date(s64 year, u32 month, u32 day) {
    s64 y = year - (month <= 2);
    s64 m = ((s64)month + 9) % 12;
    s64 leap_days = floor_div(y, 4) - floor_div(y, 100) + floor_div(y, 400);
    return y * 365 + leap_days + (153 * m + 2) / 5 + (s64)day - 1 - 719468;
}

static void date_of_days(s64 days, struct calendar *c) {
    s64 z = days + 719468;
    s64 era = floor_div(z, 146097);
    s64 doe = z - era * 146097;
    s64 yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    s64 doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    s64 m = (5 * doy + 2) / 153;
    c->day = (u32)(doy - (153 * m + 2) / 5 + 1);
    c->month = (u32)(m < 10 ? m + 3 : m - 9);
    c->year = yoe + era * 400 + (c->month <= 2);
}

static void calendar_of(s64 second, struct calendar *c) {
    s64 days = floor_div(second, SECONDS_PER_DAY);
    u32 rest = (u32)(second - days * SECONDS_PER_DAY);
    date_of_days(days, c);
    c->hour = rest / 3600;
    c->minute = rest / 60 % 60;
    c->second = rest % 60;
    c->weekday = (u32)(days + 4 - floor_div(days + 4, 7) * 7); /* 1970-01-01 was a Thursday */
}

static u8 encode(const struct rtc *rtc, u32 v) {
    return (u8)(rtc->cmos[REG_B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10);
}

static u32 decode(const struct rtc *rtc, u8 v) {
    return rtc->cmos[REG_B] & B_BINARY ? v : (u32)(v >> 4) * 10 + (v & 15);
}

static u8 encode_hour(const struct rtc *rtc, u32 hour) {
    if (rtc->cmos[REG_B] & B_24H) {
        return encode(rtc, hour);
    }
    u32 h12 = hour % 12 ? hour % 12 : 12;
    return (u8)(encode(rtc, h12) | (hour >= 12 ? HOUR_PM : 0));
}

static u32 decode_hour(const struct rtc *rtc, u8 v) {
    if (rtc->cmos[REG_B] & B_24H) {
        return decode(rtc, v);
    }
    return decode(rtc, v & (u8)~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* The clock's registers show the present. */
static void registers_from_time(struct rtc *rtc, s64 second) {
    struct calendar c;
    calendar_of(second, &c);
    rtc->cmos[SECONDS] = encode(rtc, c.second);
    rtc->cmos[MINUTES] = encode(rtc, c.minute);
    rtc->cmos[HOURS] = encode_hour(rtc, c.hour);
    rtc->cmos[DAY_OF_WEEK] = encode(rtc, c.weekday + 1);
    rtc->cmos[DAY_OF_MONTH] = encode(rtc, c.day);
    rtc->cmos[MONTH] = encode(rtc, c.month);
    rtc->cmos[YEAR] = encode(rtc, (u32)(c.year - floor_div(c.year, 100) * 100));
    rtc->cmos[CENTURY] = encode(rtc, (u32)(floor_div(c.year, 100) & 0x7f));
}

/* The clock goes on from what the registers say; nonsense is carried over (month 14 is February of
 * the next year). */
static void time_from_registers(struct rtc *rtc, u64 phase) {
    u32 month = decode(rtc, rtc->cmos[MONTH]);
    s64 year = (s64)decode(rtc, rtc->cmos[CENTURY]) * 100 + decode(rtc, rtc->cmos[YEAR]);
    month = month ? month - 1 : 0;
    s64 days =
        days_of_date(year + month / 12, month % 12 + 1, decode(rtc, rtc->cmos[DAY_OF_MONTH]));
    s64 second = days * SECONDS_PER_DAY + decode_hour(rtc, rtc->cmos[HOURS]) * 3600ll +
                 decode(rtc, rtc->cmos[MINUTES]) * 60ll + decode(rtc, rtc->cmos[SECONDS]);
    rtc->offset_s = second - (s64)(phase / NSEC_PER_SEC);
    rtc->update_s = second;
}

/* --- flags and interrupts -----------------------------------------------------------------------
 */

static bool alarm_field(const struct rtc *rtc, u32 reg, u32 value) {
    u8 alarm = rtc->cmos[reg];
    return alarm >= ALARM_ANY ||
           (reg == HOURS_ALARM ? decode_hour(rtc, alarm) : decode(rtc, alarm)) == value;
}

/* Did the alarm match at one of the seconds in (from, to]? A day holds them all. */
static bool alarm_between(const struct rtc *rtc, s64 from, s64 to) {
    from = MAX(from, to - SECONDS_PER_DAY);
    for (s64 s = from + 1; s <= to; s++) {
        u32 rest = (u32)(s - floor_div(s, SECONDS_PER_DAY) * SECONDS_PER_DAY);
        if (alarm_field(rtc, SECONDS_ALARM, rest % 60) &&
            alarm_field(rtc, MINUTES_ALARM, rest / 60 % 60) &&
            alarm_field(rtc, HOURS_ALARM, rest / 3600)) {
            return true;
        }
    }
    return false;
}

static void update_line(struct rtc *rtc) {
    bool irq = rtc->cmos[REG_C] & rtc->cmos[REG_B] & C_FLAGS;
    rtc->cmos[REG_C] = (u8)((rtc->cmos[REG_C] & C_FLAGS) | (irq ? C_IRQF : 0));
    irq_set(rtc->irq, RTC_GSI, irq);
}

/* Sets the flags of what has happened since the last look, and shows the time. */
static void bring_up_to_date(struct rtc *rtc) {
    u64 phase = phase_clock(rtc);
    s64 second = guest_second(rtc, phase);
    if (divider_runs(rtc) && periodic_shift(rtc) && phase > rtc->periodic_ns &&
        periodic_index(rtc, phase) != periodic_index(rtc, rtc->periodic_ns)) {
        rtc->cmos[REG_C] |= B_PIE;
    }
    rtc->periodic_ns = phase;
    if (updates_run(rtc)) {
        if (second > rtc->update_s) {
            rtc->cmos[REG_C] |= B_UIE;
            rtc->cmos[REG_C] |= alarm_between(rtc, rtc->update_s, second) ? B_AIE : 0;
        }
        registers_from_time(rtc, second);
        rtc->update_s = second;
    }
    update_line(rtc);
}

static u64 next_periodic(const struct rtc *rtc, u64 phase) {
    u64 tick = (periodic_index(rtc, phase) + 1) << periodic_shift(rtc);
    return muldiv_up(tick, NSEC_PER_SEC, CRYSTAL_HZ);
}

static void arm(struct rtc *rtc) {
    u8 enabled = rtc->cmos[REG_B] & (u8)~rtc->cmos[REG_C]; /* a set flag can wait to be read */
    u64 phase = phase_clock(rtc), next = HOST_FOREVER;
    if ((enabled & B_PIE) && divider_runs(rtc) && periodic_shift(rtc)) {
        next = next_periodic(rtc, phase);
    }
    if ((enabled & (B_AIE | B_UIE)) && updates_run(rtc)) {
        next = MIN(next, (phase / NSEC_PER_SEC + 1) * NSEC_PER_SEC);
    }
    if (next == HOST_FOREVER) {
        vtimer_cancel(&rtc->timer);
    } else {
        u64 wait = next > phase ? next - phase : 0;
        vtimer_arm(&rtc->timer, host_now(rtc->host) + MAX(wait, (u64)MIN_WAIT_NS));
    }
}

static void timer_fn(void *ctx) {
    struct rtc *rtc = ctx;
    mutex_lock(rtc->host, rtc->lock);
    if (vtimer_due(&rtc->timer, host_now(rtc->host))) {
        bring_up_to_date(rtc);
        arm(rtc);
    }
    mutex_unlock(rtc->host, rtc->lock);
}

/* --- registers ----------------------------------------------------------------------------------
 */

static u8 read_a(const struct rtc *rtc) {
    bool soon = phase_clock(rtc) % NSEC_PER_SEC >= NSEC_PER_SEC - UIP_NS;
    return (u8)(rtc->cmos[REG_A] | (soon && updates_run(rtc) ? A_UIP : 0));
}

static u8 read_c(struct rtc *rtc) {
    u8 value = rtc->cmos[REG_C];
    rtc->cmos[REG_C] = 0;
    update_line(rtc);
    arm(rtc);
    return value;
}

u8 rtc_read(struct rtc *rtc, u32 offset) {
    if (!(offset & 1)) {
        return 0xff; /* the index cannot be read */
    }
    bring_up_to_date(rtc);
    u32 reg = rtc->index & (RTC_CMOS_SIZE - 1);
    switch (reg) {
    case REG_A:
        return read_a(rtc);
    case REG_C:
        return read_c(rtc);
    case REG_D:
        return D_VRT;
    default:
        return rtc->cmos[reg];
    }
}

/* After a reset of the divider the first update comes half a second later. */
static void write_a(struct rtc *rtc, u8 value) {
    bool ran = divider_runs(rtc);
    rtc->cmos[REG_A] = value & (A_DIVIDER | A_RATE);
    if (!ran && divider_runs(rtc)) {
        u64 wall = rtc->host->ops->wall(rtc->host);
        rtc->offset_ns =
            (u32)((NSEC_PER_SEC + NSEC_PER_SEC / 2 - wall % NSEC_PER_SEC) % NSEC_PER_SEC);
        rtc->periodic_ns = phase_clock(rtc);
        time_from_registers(rtc, rtc->periodic_ns);
    }
}

static void write_b(struct rtc *rtc, u8 value) {
    bool stopped = rtc->cmos[REG_B] & B_SET;
    if (value & B_SET) {
        value &= (u8)~B_UIE;
    }
    rtc->cmos[REG_B] = value;
    if (stopped && !(value & B_SET)) {
        time_from_registers(rtc, phase_clock(rtc));
    }
    update_line(rtc);
}

static void write_register(struct rtc *rtc, u32 reg, u8 value) {
    switch (reg) {
    case REG_A:
        write_a(rtc, value);
        break;
    case REG_B:
        write_b(rtc, value);
        break;
    case REG_C:
    case REG_D:
        break;
    case SECONDS:
    case MINUTES:
    case HOURS:
    case DAY_OF_WEEK:
    case DAY_OF_MONTH:
    case MONTH:
    case YEAR:
    case CENTURY:
        rtc->cmos[reg] = value;
        if (updates_run(rtc)) {
            time_from_registers(rtc, phase_clock(rtc));
        }
        break;
    default:
        rtc->cmos[reg] = value;
        break;
    }
}

void rtc_write(struct rtc *rtc, u32 offset, u8 value) {
    if (!(offset & 1)) {
        rtc->index = value;
        return;
    }
    bring_up_to_date(rtc);
    write_register(rtc, rtc->index & (RTC_CMOS_SIZE - 1), value);
    arm(rtc);
}

/* --- life and state -----------------------------------------------------------------------------
 */

int rtc_init(struct rtc *rtc, struct host *host, struct mutex *lock, struct irqchip *irq) {
    memset(rtc, 0, sizeof(*rtc));
    rtc->host = host;
    rtc->lock = lock;
    rtc->irq = irq;
    rtc->cmos[REG_A] = A_DIVIDER_32K | 6; /* 1024 Hz */
    rtc->cmos[REG_B] = B_24H;
    rtc->periodic_ns = phase_clock(rtc);
    rtc->update_s = guest_second(rtc, rtc->periodic_ns);
    registers_from_time(rtc, rtc->update_s);
    return vtimer_init(&rtc->timer, host, timer_fn, rtc);
}

void rtc_fini(struct rtc *rtc) {
    vtimer_fini(&rtc->timer);
}

void rtc_reset(struct rtc *rtc) {
    bring_up_to_date(rtc);
    rtc->cmos[REG_B] &= (u8) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    rtc->cmos[REG_C] = 0;
    rtc->index = 0;
    update_line(rtc);
    arm(rtc);
}

static void put16(struct rtc *rtc, u32 reg, u64 value) {
    rtc->cmos[reg] = (u8)value;
    rtc->cmos[reg + 1] = (u8)(value >> 8);
}

/* As the BIOSes of PCs and of QEMU do. */
void rtc_set_memory(struct rtc *rtc, u64 low, u64 high, u32 vcpus) {
    u64 extended = low > MIB ? (low - MIB) / KIB : 0;
    u64 above16 = low > 16 * MIB ? (low - 16 * MIB) / (64 * KIB) : 0;
    u64 above4g = high / (64 * KIB);
    put16(rtc, 0x15, 640); /* base memory, KiB */
    put16(rtc, 0x17, MIN(extended, 0xffffull));
    put16(rtc, 0x30, MIN(extended, 0xffffull));
    put16(rtc, 0x34, MIN(above16, 0xffffull));
    put16(rtc, 0x5b, MIN(above4g, 0xffffffull));
    rtc->cmos[0x5d] = (u8)(MIN(above4g, 0xffffffull) >> 16);
    rtc->cmos[0x5f] = (u8)(vcpus ? vcpus - 1 : 0);
    rtc->cmos[0x14] = 0x02; /* equipment: a coprocessor, no floppy */
}

void rtc_save(struct rtc *rtc, struct snap_writer *w) {
    bring_up_to_date(rtc);
    snap_put(w, rtc->cmos, sizeof(rtc->cmos));
    snap_put8(w, rtc->index);
    snap_put64(w, (u64)rtc->offset_s);
    snap_put32(w, rtc->offset_ns);
    snap_put64(w, rtc->periodic_ns);
    snap_put64(w, (u64)rtc->update_s);
}

int rtc_load(struct rtc *rtc, struct snap_reader *r) {
    u8 cmos[RTC_CMOS_SIZE];
    snap_get(r, cmos, sizeof(cmos));
    u8 index = snap_get8(r);
    s64 offset_s = (s64)snap_get64(r);
    u32 offset_ns = snap_get32(r);
    u64 periodic_ns = snap_get64(r);
    s64 update_s = (s64)snap_get64(r);
    if (snap_finish(r) < 0 || offset_s > OFFSET_LIMIT || offset_s < -OFFSET_LIMIT ||
        update_s > OFFSET_LIMIT || update_s < -OFFSET_LIMIT || offset_ns >= NSEC_PER_SEC) {
        return -ERR_FORMAT;
    }
    memcpy(rtc->cmos, cmos, sizeof(cmos));
    rtc->cmos[REG_A] &= A_DIVIDER | A_RATE;
    rtc->cmos[REG_C] &= C_FLAGS;
    rtc->index = index;
    rtc->offset_s = offset_s;
    rtc->offset_ns = offset_ns;
    rtc->periodic_ns = periodic_ns;
    rtc->update_s = update_s;
    bring_up_to_date(rtc);
    arm(rtc);
    return 0;
}
