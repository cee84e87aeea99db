/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC of the first processor: registers in xAPIC and x2APIC mode, priorities, self-IPI,
 * errors, the timer in its three modes (SDM vol. 3, chapter 10; table 10-6 for x2APIC MSRs).
 */
#include "lib/guest.h"

enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    ICR2 = 0x310,
    LVT_TIMER = 0x320,
    LVT_LINT0 = 0x350,
    LVT_ERROR = 0x370,
    TIMER_INITIAL = 0x380,
    TIMER_CURRENT = 0x390,
    TIMER_DIVIDE = 0x3e0,
    MSR_BASE = 0x1b,
    MSR_DEADLINE = 0x6e0,
    TIMER_VECTOR = 0x40,
    MASKED = 1 << 16,
};

static bool x2apic;
static volatile u32 log_at;
static u8 log_vector[16];
static volatile u32 ticks;
static volatile u64 tick_tsc;

static u32 lapic(u32 reg) {
    return x2apic ? (u32)rdmsr(0x800 + reg / 16) : mmio_read(LAPIC + reg);
}

static void lapic_set(u32 reg, u32 value) {
    if (x2apic) {
        wrmsr(0x800 + reg / 16, value);
    } else {
        mmio_write(LAPIC + reg, value);
    }
}

static bool vector_bit(u32 reg, u32 vector) {
    return lapic(reg + vector / 32 * 16) >> (vector & 31) & 1;
}

static void self_ipi(u32 vector) {
    lapic_set(ICR, 0x40000 | vector);
}

static void on_vector(struct frame *f) {
    log_vector[log_at++ & 15] = (u8)f->vector;
    CHECK(vector_bit(ISR, (u32)f->vector));
    CHECK(!vector_bit(IRR, (u32)f->vector));
    CHECK(lapic(PPR) >= (f->vector & 0xf0));
    lapic_set(EOI, 0);
}

/* Interrupts on while in service: only a higher class may come between. */
static void on_nesting(struct frame *f) {
    log_vector[log_at++ & 15] = (u8)f->vector;
    self_ipi(0x55);
    self_ipi(0x85);
    irq_on();
    delay_us(20);
    irq_off();
    log_vector[log_at++ & 15] = (u8)f->vector;
    lapic_set(EOI, 0);
}

static void on_timer(struct frame *f) {
    (void)f;
    tick_tsc = rdtsc();
    ticks++;
    lapic_set(EOI, 0);
}

static void settle(void) {
    irq_on();
    delay_us(50);
    irq_off();
}

/* --- registers ---------------------------------------------------------------------------------
 */

static void registers(void) {
    u32 r[4];
    cpuid(1, 0, r);
    CHECK_EQ(lapic(ID) >> 24, r[1] >> 24);
    CHECK_EQ(rdmsr(MSR_BASE) & 0xfffffffffffff900ull, LAPIC | 0x900); /* enabled, BSP */
    CHECK_EQ(lapic(VERSION) & 0xf0, 0x10);
    CHECK((lapic(VERSION) >> 16 & 0xff) >= 4);
    lapic_set(SVR, 0x1ff);
    CHECK_EQ(lapic(SVR), 0x1ff);
    lapic_set(LVT_TIMER, 0xfffbffff); /* mode 3 is reserved: not asked for */
    CHECK_EXACT(lapic(LVT_TIMER) == 0x300ff);
    lapic_set(LVT_TIMER, MASKED);
    u32 lint0 = lapic(LVT_LINT0);
    lapic_set(LVT_LINT0, 0xffffffff);
    CHECK_EXACT((lapic(LVT_LINT0) & ~0x5000u) == 0x1a7ff);
    lapic_set(LVT_LINT0, lint0);
    lapic_set(DFR, 0);
    CHECK_EQ(lapic(DFR), 0x0fffffff);
    lapic_set(DFR, 0xffffffff);
    lapic_set(LDR, 0x01ffffff);
    CHECK_EQ(lapic(LDR), 0x01000000);
    lapic_set(ICR2, 0xffffffff);
    CHECK_EXACT(lapic(ICR2) == 0xff000000);
}

/* Section 10.4.7.2: a disabled APIC has every LVT masked. */
static void software_disable(void) {
    lapic_set(LVT_ERROR, 0x41);
    lapic_set(SVR, 0xff);
    CHECK_EQ(lapic(LVT_ERROR), 0x41 | MASKED);
    lapic_set(LVT_ERROR, 0x41);
    CHECK_EQ(lapic(LVT_ERROR), 0x41 | MASKED);
    lapic_set(SVR, 0x1ff);
    CHECK_EQ(lapic(LVT_ERROR), 0x41 | MASKED);
}

static void task_priority(void) {
    lapic_set(TPR, 0x53);
    CHECK_EQ(lapic(TPR), 0x53);
    CHECK_EQ(lapic(PPR), 0x53);
    CHECK_EQ(READ_CR(8), 5);
    WRITE_CR(8, 7);
    CHECK_EQ(lapic(TPR), 0x70);
    lapic_set(TPR, 0);
    CHECK_EQ(READ_CR(8), 0);
}

/* --- interrupts --------------------------------------------------------------------------------
 */

static void delivery(void) {
    log_at = 0;
    self_ipi(0x51);
    CHECK(vector_bit(IRR, 0x51));
    self_ipi(0x71);
    self_ipi(0x61);
    self_ipi(0x61); /* one bit: the second is lost */
    CHECK_EQ(log_at, 0);
    settle();
    CHECK_EQ(log_at, 3);
    CHECK_EQ(log_vector[0], 0x71);
    CHECK_EQ(log_vector[1], 0x61);
    CHECK_EQ(log_vector[2], 0x51);
    log_at = 0;
    lapic_set(TPR, 0x60);
    self_ipi(0x61); /* class 6 is held back by priority 0x60, class 7 is not */
    self_ipi(0x71);
    settle();
    CHECK_EQ(log_at, 1);
    CHECK_EQ(log_vector[0], 0x71);
    irq_on();
    lapic_set(TPR, 0x50);
    delay_us(50);
    irq_off();
    CHECK_EQ(log_at, 2);
    lapic_set(TPR, 0);
}

static void nesting(void) {
    log_at = 0;
    self_ipi(0x75);
    settle();
    CHECK_EQ(log_at, 4);
    CHECK_EQ(log_vector[0], 0x75);
    CHECK_EQ(log_vector[1], 0x85);
    CHECK_EQ(log_vector[2], 0x75);
    CHECK_EQ(log_vector[3], 0x55);
}

static u32 esr_read(void) {
    lapic_set(ESR, 0);
    return lapic(ESR);
}

/* Section 10.5.3. */
static void errors(void) {
    esr_read();
    CHECK_EQ(esr_read(), 0);
    self_ipi(5);
    CHECK_EXACT(esr_read() & 0x20); /* send illegal vector */
    CHECK_EQ(esr_read(), 0);
    if (!x2apic) {
        (void)mmio_read(LAPIC + 0x3d0);
        CHECK_EXACT(esr_read() == 0x80); /* illegal register address */
    }
}

/* "sti; hlt" must wake, and the shadow must keep the interrupt from coming before HLT. */
static void wake(void) {
    log_at = 0;
    self_ipi(0x51);
    __asm__ volatile("sti; hlt; cli" ::: "memory");
    CHECK_EQ(log_at, 1);
}

/* --- timer -------------------------------------------------------------------------------------
 */

static u32 timer_hz(void) {
    lapic_set(TIMER_DIVIDE, 0xb); /* by 1 */
    lapic_set(LVT_TIMER, MASKED | TIMER_VECTOR);
    lapic_set(TIMER_INITIAL, 0xffffffff);
    u64 start = rdtsc();
    delay_us(5000);
    u32 counted = 0xffffffff - lapic(TIMER_CURRENT);
    u64 us = tsc_us(rdtsc() - start);
    lapic_set(TIMER_INITIAL, 0);
    return (u32)((u64)counted * 1000000 / us);
}

static void wait_ticks(u32 n, u32 limit_us) {
    u64 end = rdtsc() + tsc_hz() / 1000000 * limit_us;
    irq_on();
    while (ticks < n && rdtsc() < end) {
        __asm__ volatile("pause");
    }
    irq_off();
}

static void timer_one_shot(u32 hz) {
    ticks = 0;
    lapic_set(LVT_TIMER, TIMER_VECTOR);
    u64 start = rdtsc();
    lapic_set(TIMER_INITIAL, hz / 50);
    CHECK_EQ(lapic(TIMER_INITIAL), hz / 50);
    u32 a = lapic(TIMER_CURRENT);
    delay_us(500);
    u32 b = lapic(TIMER_CURRENT);
    CHECK(b < a && a <= hz / 50);
    wait_ticks(1, 500000);
    CHECK_EQ(ticks, 1);
    CHECK(tsc_us(tick_tsc - start) >= 19900);
    CHECK_EQ(lapic(TIMER_CURRENT), 0);
    irq_on();
    delay_us(8000);
    irq_off();
    CHECK_EQ(ticks, 1);
    lapic_set(TIMER_DIVIDE, 3); /* by 16 */
    start = rdtsc();
    lapic_set(TIMER_INITIAL, hz / 16 / 50);
    wait_ticks(2, 500000);
    CHECK_EQ(ticks, 2);
    CHECK(tsc_us(tick_tsc - start) >= 19900);
    lapic_set(TIMER_DIVIDE, 0xb);
}

static void timer_periodic(u32 hz) {
    ticks = 0;
    lapic_set(LVT_TIMER, TIMER_VECTOR | 1 << 17);
    u64 start = rdtsc();
    lapic_set(TIMER_INITIAL, hz / 500);
    wait_ticks(10, 1000000);
    CHECK(ticks >= 10);
    CHECK(tsc_us(rdtsc() - start) >= 15000);
    lapic_set(TIMER_INITIAL, 0);
    settle(); /* one may have been pending */
    ticks = 0;
    irq_on();
    delay_us(6000);
    irq_off();
    CHECK_EQ(ticks, 0);
    lapic_set(LVT_TIMER, MASKED);
}

static void timer_deadline(void) {
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 24 & 1)) {
        print("no TSC deadline here\n");
        return;
    }
    ticks = 0;
    lapic_set(LVT_TIMER, TIMER_VECTOR | 2 << 17);
    __asm__ volatile("mfence");
    CHECK_EQ(rdmsr(MSR_DEADLINE), 0);
    u64 deadline = rdtsc() + tsc_hz() / 50;
    wrmsr(MSR_DEADLINE, deadline);
    CHECK_EQ(rdmsr(MSR_DEADLINE), deadline);
    wait_ticks(1, 500000);
    CHECK_EQ(ticks, 1);
    CHECK(tick_tsc >= deadline);
    CHECK_EQ(rdmsr(MSR_DEADLINE), 0);
    wrmsr(MSR_DEADLINE, 1); /* long past */
    wait_ticks(2, 100000);
    CHECK_EQ(ticks, 2);
    wrmsr(MSR_DEADLINE, rdtsc() + tsc_hz() / 50);
    wrmsr(MSR_DEADLINE, 0);
    irq_on();
    delay_us(25000);
    irq_off();
    CHECK_EQ(ticks, 2);
    lapic_set(TIMER_INITIAL, 1000); /* ignored in this mode */
    CHECK_EQ(lapic(TIMER_INITIAL), 0);
    lapic_set(LVT_TIMER, MASKED);
    wrmsr(MSR_DEADLINE, deadline); /* and the MSR in the other modes */
    CHECK_EQ(rdmsr(MSR_DEADLINE), 0);
}

/* The count of 2 ms with a divisor; *least and *most: how long it can have been, in us. */
static u64 count_2ms(u8 code, u32 *least, u32 *most) {
    lapic_set(TIMER_DIVIDE, code);
    CHECK_EQ(lapic(TIMER_DIVIDE), code);
    lapic_set(LVT_TIMER, MASKED | TIMER_VECTOR);
    u64 t0 = rdtsc();
    lapic_set(TIMER_INITIAL, ~0u);
    u64 t1 = rdtsc();
    delay_us(2000);
    u64 t2 = rdtsc();
    u32 left = lapic(TIMER_CURRENT);
    u64 t3 = rdtsc();
    lapic_set(TIMER_INITIAL, 0);
    *least = tsc_us(t2 - t1);
    *most = tsc_us(t3 - t0);
    return ~0u - left;
}

/* Every divisor (10.5.4). The frequency is taken when nothing came between the instructions. */
static void timer_divide(void) {
    static const u8 code[] = {0xb, 0, 1, 2, 3, 8, 9, 0xa};
    u32 least, most = ~0u, tries = 0;
    u64 base = 0;
    do {
        base = count_2ms(0xb, &least, &most);
    } while (most > least + least / 50 && ++tries < 100);
    u64 khz = base * 1000 / least;
    for (u32 n = 0; n < sizeof(code) && tries < 100; n++) {
        u64 us = (count_2ms(code[n], &least, &most) << n) * 1000 / khz;
        CHECK(us * 100 >= least * 95ull);
        CHECK(us * 100 <= most * 105ull + 100);
    }
    lapic_set(TIMER_DIVIDE, 0xb);
}

/* Masked, it counts, and what it would have said is not said later; stopped, it says nothing. */
static void timer_mask(u32 hz) {
    ticks = 0;
    lapic_set(LVT_TIMER, MASKED | TIMER_VECTOR);
    lapic_set(TIMER_INITIAL, hz / 1000);
    irq_on();
    delay_us(3000);
    CHECK_EQ(lapic(TIMER_CURRENT), 0);
    lapic_set(LVT_TIMER, TIMER_VECTOR);
    delay_us(2000);
    CHECK_EQ(ticks, 0);
    u64 start = rdtsc();
    lapic_set(TIMER_INITIAL, hz / 100);
    lapic_set(TIMER_INITIAL, 0);
    bool in_time = tsc_us(rdtsc() - start) < 9000;
    delay_us(12000);
    CHECK(ticks == 0 || !in_time);
    ticks = 0;
    irq_off();
    /* in periodic mode the count goes on by itself */
    lapic_set(LVT_TIMER, MASKED | TIMER_VECTOR | 1 << 17);
    lapic_set(TIMER_INITIAL, hz / 1000);
    u32 wrapped = 0, last = lapic(TIMER_CURRENT);
    for (u64 end = rdtsc() + tsc_hz(); wrapped < 2 && rdtsc() < end;) {
        u32 now = lapic(TIMER_CURRENT);
        wrapped += now > last;
        last = now;
    }
    CHECK_EQ(wrapped, 2);
    lapic_set(TIMER_INITIAL, 0);
    settle();
    CHECK_EQ(ticks, 0);
}

static void timers(void) {
    u32 hz = timer_hz();
    print("timer %u Hz\n", hz);
    CHECK(hz > 1000000);
    timer_divide();
    timer_mask(hz);
    timer_one_shot(hz);
    timer_periodic(hz);
    timer_deadline();
}

/* --- x2APIC ------------------------------------------------------------------------------------
 */

struct write {
    u32 msr;
    u64 value;
};

static void do_wrmsr(void *arg) {
    const struct write *w = arg;
    wrmsr(w->msr, w->value);
}

static void do_rdmsr(void *arg) {
    rdmsr((u32)(u64)arg);
}

static void x2apic_faults(void) {
    static struct write bad[] = {
        {0x802, 0},        /* ID is read only */
        {0x803, 0},        /* version */
        {0x80d, 0},        /* LDR */
        {0x80b, 1},        /* EOI: only 0 */
        {0x828, 1},        /* ESR: only 0 */
        {0x83f, 0x100},    /* self-IPI: a vector */
        {0x808, 0x100},    /* TPR: eight bits */
        {0x80e, 0},        /* no DFR */
        {0x831, 0},        /* no second half of ICR */
        {0x839, 0},        /* current count */
        {0x832, 1u << 20}, /* reserved bit of an LVT entry */
        {0x832, 1ull << 32},
        {0x1b, LAPIC | 0x900},        /* x2APIC to xAPIC */
        {0x1b, LAPIC | 0x500},        /* EXTD without EN */
        {0x1b, LAPIC | 0xd00 | 0xff}, /* reserved */
    };
    for (u32 i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int v = catch (do_wrmsr, &bad[i]);
        if (v != 13) {
            print("MSR 0x%x value 0x%lx:\n", bad[i].msr, bad[i].value);
        }
        CHECK_EQ(v, 13);
    }
    static const u32 unreadable[] = {0x80b, 0x80e, 0x831, 0x83f, 0x840, 0x8ff, 0x800};
    for (u32 i = 0; i < sizeof(unreadable) / sizeof(unreadable[0]); i++) {
        int v = catch (do_rdmsr, (void *)(u64)unreadable[i]);
        if (v != 13) {
            print("MSR 0x%x:\n", unreadable[i]);
        }
        CHECK_EQ(v, 13);
    }
}

static void x2apic_mode(void) {
    u32 r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 21 & 1)) {
        print("no x2APIC here\n");
        return;
    }
    CHECK_EQ(catch (do_rdmsr, (void *)0x802), 13); /* not before it is on */
    u32 id = lapic(ID) >> 24, svr = lapic(SVR);
    wrmsr(MSR_BASE, rdmsr(MSR_BASE) | 0x400);
    x2apic = true;
    CHECK_EQ(rdmsr(0x802), id);
    CHECK_EQ(lapic(SVR), svr);
    CHECK_EQ(lapic(LDR), (id >> 4) << 16 | 1u << (id & 15));
    wrmsr(0x830, (u64)id << 32 | 0x51); /* physical destination */
    log_at = 0;
    settle();
    wrmsr(0x83f, 0x61);
    settle();
    CHECK_EQ(log_at, 2);
    CHECK_EQ(log_vector[1], 0x61);
    CHECK_EQ(rdmsr(0x830), (u64)id << 32 | 0x51);
    x2apic_faults();
    task_priority();
    delivery();
    nesting();
    errors();
    timers();
    wrmsr(MSR_BASE, LAPIC | 0x100); /* off, then xAPIC again */
    cpuid(1, 0, r);
    CHECK_EQ(r[3] >> 9 & 1, 0);
    wrmsr(MSR_BASE, LAPIC | 0x900);
    x2apic = false;
    cpuid(1, 0, r);
    CHECK_EQ(r[3] >> 9 & 1, 1);
    CHECK_EXACT(lapic(SVR) == 0xff); /* table 10-1 */
    CHECK_EQ(lapic(ID) >> 24, id);
}

void guest_main(u64 mb_info) {
    (void)mb_info;
    static const u8 plain[] = {0x51, 0x55, 0x61, 0x71, 0x85};
    for (u32 i = 0; i < sizeof(plain); i++) {
        irq_handler(plain[i], on_vector);
    }
    irq_handler(0x75, on_nesting);
    irq_handler(TIMER_VECTOR, on_timer);
    registers();
    software_disable();
    task_priority();
    delivery();
    nesting();
    errors();
    wake();
    timers();
    x2apic_mode();
}
