/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real-time clock with its CMOS memory: Motorola MC146818A at ports 0x70 (index) and 0x71
 * (data), interrupt GSI 8. The time is the host's wall clock plus an offset that the guest makes by
 * setting the clock. core/dev/rtc_dev.h makes a device of it.
 *
 * Left out: daylight saving, square wave output, divider chains other than 32.768 kHz (others stop
 * the clock).
 *
 * Lock rule: the board lock is held for every call; the timer's callback takes it.
 */
#ifndef CORE_TIME_RTC_H
#define CORE_TIME_RTC_H

#include "core/base/snap.h"
#include "core/if/mutex.h"
#include "core/time/vtimer.h"

struct irqchip;

enum { RTC_CMOS_SIZE = 128, RTC_PORT = 0x70, RTC_GSI = 8 };

struct rtc {
    struct host *host;
    struct mutex *lock;
    struct irqchip *irq;
    struct vtimer timer;
    u8 cmos[RTC_CMOS_SIZE]; /* time registers are current only while the clock is stopped */
    u8 index;               /* as written to port 0x70; bit 7: NMI disable */
    s64 offset_s;           /* guest time minus the host's wall clock: seconds, */
    u32 offset_ns;          /* and 0..999999999 ns; also the phase of the divider */
    u64 periodic_ns;        /* phase clock up to which periodic ticks were seen */
    s64 update_s;           /* guest second up to which updates were seen */
};

int rtc_init(struct rtc *rtc, struct host *host, struct mutex *lock, struct irqchip *irq);
void rtc_fini(struct rtc *rtc);
/* A machine reset: clears the interrupt enables, keeps time and memory. */
void rtc_reset(struct rtc *rtc);
/* The bytes where a BIOS keeps memory sizes (low: RAM below 4 GiB, high: above; bytes) and the
 * number of processors. */
void rtc_set_memory(struct rtc *rtc, u64 low, u64 high, u32 vcpus);
u8 rtc_read(struct rtc *rtc, u32 offset); /* 0: index port, 1: data port */
void rtc_write(struct rtc *rtc, u32 offset, u8 value);
void rtc_save(struct rtc *rtc, struct snap_writer *w);
int rtc_load(struct rtc *rtc, struct snap_reader *r);

#endif
