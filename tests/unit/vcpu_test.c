/* SPDX-License-Identifier: Apache-2.0 */
/* The run loop with the mock engine: halting, interrupts, INIT and SIPI, exits, the debugger. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <string.h>

#include "core/if/callout.h"
#include "core/irq/irqchip.h"
#include "core/vm/vm.h"
#include "hosts/fake/fake.h"
#include "tests/unit/lib_mock.h"

struct fixture {
    struct fake_host *fake;
    struct vm *vm;
    struct err err;
};

static void begin(struct fixture *f, u32 vcpus, mock_script script) {
    mock = (struct mock_setup){.script = script};
    *f = (struct fixture){.fake = fake_host_create()};
    struct vm_params p = {.host = &f->fake->host,
                          .engine = &mock_engine_ops,
                          .vcpus = vcpus,
                          .memory = MIB,
                          .trace = (u32)BIT(TRACE_COUNT) - 1};
    assert_int_equal(vm_create(&p, &f->vm, &f->err), 0);
}

static void start(struct fixture *f) {
    assert_int_equal(vm_start(f->vm, &f->err), 0);
}

static void end(struct fixture *f) {
    vm_destroy(f->vm);
    assert_int_equal(f->fake->allocated, 0);
    fake_host_destroy(f->fake);
}

/* Gives the other threads up to a few seconds. */
#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        for (u32 n_ = 0; !(condition) && n_ < 5000000; n_++) {                                     \
            sched_yield();                                                                         \
        }                                                                                          \
        assert_true(condition);                                                                    \
    } while (0)

#define ATOMIC(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)

static void apic_write(struct engine_vcpu *vcpu, u32 reg, u32 value) {
    callout_mmio_write(vcpu, 0xfee00000 + reg * 16, 4, value);
}

/* HLT, then after waking: power off through a device's request. */
static int script_halt(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    if (MOCK_BUMP(m->step) == 0) {
        m->s.rflags |= FLAG_IF;
        exit->kind = EXIT_HLT;
        return 0;
    }
    return mock_idle(vcpu, m, exit);
}

static void test_halt_interrupt(void **state) {
    struct fixture f;
    (void)state;
    begin(&f, 1, script_halt);
    struct engine_vcpu *ev = &f.vm->vcpus[0].engine;
    apic_write(ev, LAPIC_SVR, 0x1ff);
    start(&f);
    WAIT_FOR(ATOMIC(ev->sleeping));
    irq_msi(f.vm->irq, 0xfee00000, 0x41);
    WAIT_FOR(ATOMIC(mock_of(ev)->injected_count) == 1);
    assert_int_equal(ATOMIC(mock_of(ev)->kicks), 0); /* woken, not kicked */
    vm_pause(f.vm);
    assert_int_equal(mock_of(ev)->injected[0], 0x41);
    end(&f);
}

static int script_halt_masked(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    if (MOCK_BUMP(m->step) == 0) {
        exit->kind = EXIT_HLT;
        return 0;
    }
    return mock_idle(vcpu, m, exit);
}

/* HLT with interrupts off wakes for an NMI only. */
static void test_halt_nmi(void **state) {
    struct fixture f;
    (void)state;
    begin(&f, 1, script_halt_masked);
    struct engine_vcpu *ev = &f.vm->vcpus[0].engine;
    apic_write(ev, LAPIC_SVR, 0x1ff);
    start(&f);
    WAIT_FOR(ATOMIC(ev->sleeping));
    irq_msi(f.vm->irq, 0xfee00000, 0x41);
    WAIT_FOR(ATOMIC(ev->sleeping) && !ATOMIC(ev->attention));
    assert_int_equal(ATOMIC(mock_of(ev)->step), 1);
    irq_msi(f.vm->irq, 0xfee00000, 0x400); /* NMI */
    WAIT_FOR(ATOMIC(mock_of(ev)->step) == 2);
    vm_pause(f.vm);
    assert_int_equal(mock_of(ev)->nmis, 1);
    assert_int_equal(mock_of(ev)->injected_count, 0);
    assert_true(mock_of(ev)->window); /* the interrupt still waits */
    end(&f);
}

static int script_window(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    if (m->window) { /* the guest reaches STI */
        m->s.rflags |= FLAG_IF;
        exit->kind = EXIT_INTR_WINDOW;
        return 0;
    }
    return mock_idle(vcpu, m, exit);
}

static void test_window(void **state) {
    struct fixture f;
    (void)state;
    begin(&f, 1, script_window);
    struct engine_vcpu *ev = &f.vm->vcpus[0].engine;
    apic_write(ev, LAPIC_SVR, 0x1ff);
    start(&f);
    irq_msi(f.vm->irq, 0xfee00000, 0x51);
    WAIT_FOR(ATOMIC(mock_of(ev)->injected_count) == 1);
    vm_pause(f.vm);
    assert_int_equal(mock_of(ev)->injected[0], 0x51);
    assert_true(mock_of(ev)->windows >= 1);
    end(&f);
}

/* vCPU 0 sends INIT and SIPI to vCPU 1, which then starts in real mode at the page. */
static int script_smp(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    if (vcpu->id == 0 && MOCK_BUMP(m->step) == 0) {
        apic_write(vcpu, LAPIC_SVR, 0x1ff);
        apic_write(vcpu, LAPIC_ICR_HIGH, 1u << 24);
        apic_write(vcpu, LAPIC_ICR, 0x4500);
        apic_write(vcpu, LAPIC_ICR_HIGH, 1u << 24);
        apic_write(vcpu, LAPIC_ICR, 0x4612);
    }
    return mock_idle(vcpu, m, exit);
}

static void test_init_sipi(void **state) {
    struct fixture f;
    (void)state;
    begin(&f, 3, script_smp);
    struct mock_vcpu *ap = mock_of(&f.vm->vcpus[1].engine);
    start(&f);
    WAIT_FOR(ATOMIC(ap->runs) > 0);
    vm_pause(f.vm);
    assert_int_equal(ap->s.seg[SEG_CS].sel, 0x1200);
    assert_int_equal(ap->s.seg[SEG_CS].base, 0x12000);
    assert_int_equal(ap->s.rip, 0);
    assert_int_equal(ap->s.cr0 & CR0_PE, 0);
    assert_int_equal(ATOMIC(mock_of(&f.vm->vcpus[2].engine)->runs), 0);
    end(&f);
}

static u64 reg_value[2];

static u64 reg_read(void *device, u32 region, u64 offset, u32 size) {
    (void)device;
    (void)size;
    return reg_value[region] + offset;
}

static void reg_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    (void)device;
    (void)size;
    reg_value[region] = value + offset;
}

static const struct bus_ops reg_ops = {reg_read, reg_write, 1, 8};
static u8 io_data[8];
static u8 mmio_data[8];

static int script_io(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    switch (MOCK_BUMP(m->step)) {
    case 0: /* rep outsb of three bytes */
        memcpy(io_data, "\x01\x02\x03", 3);
        exit->kind = EXIT_IO;
        exit->io.port = 0x500;
        exit->io.size = 1;
        exit->io.write = true;
        exit->io.count = 3;
        exit->io.data = io_data;
        return 0;
    case 1:
        exit->kind = EXIT_IO;
        exit->io.port = 0x500;
        exit->io.size = 2;
        exit->io.write = false;
        exit->io.count = 1;
        exit->io.data = io_data;
        return 0;
    case 2:
        memcpy(mmio_data, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
        exit->kind = EXIT_MMIO;
        exit->mmio.gpa = 0xd0000000;
        exit->mmio.size = 8;
        exit->mmio.write = true;
        exit->mmio.data = mmio_data;
        return 0;
    case 3:
        exit->kind = EXIT_MMIO;
        exit->mmio.gpa = 0xd0000004;
        exit->mmio.size = 4;
        exit->mmio.write = false;
        exit->mmio.data = mmio_data;
        return 0;
    case 4:
        vm_request(vm_of(vcpu->vm), MACHINE_POWEROFF, 0);
        return mock_idle(vcpu, m, exit);
    default:
        return mock_idle(vcpu, m, exit);
    }
}

static void test_io(void **state) {
    struct bus_region pio = {.base = 0x500, .size = 16, .ops = &reg_ops, .region = 0};
    struct bus_region mmio = {.base = 0xd0000000, .size = 4096, .ops = &reg_ops, .region = 1};
    struct fixture f;
    (void)state;
    begin(&f, 1, script_io);
    assert_int_equal(bus_map(&f.vm->pio, &pio), 0);
    assert_int_equal(bus_map(&f.vm->mmio, &mmio), 0);
    start(&f);
    assert_true(vm_wait(f.vm, HOST_FOREVER));
    assert_int_equal(reg_value[0], 3);
    assert_int_equal(reg_value[1], 0x1122334455667788);
    assert_memory_equal(io_data, "\x03\x00", 2);
    assert_memory_equal(mmio_data, "\x8c\x77\x66\x55", 4);
    assert_int_equal(f.vm->vcpus[0].counters.exits[EXIT_IO], 2);
    end(&f);
}

static void test_callouts(void **state) {
    struct fixture f;
    u64 value;
    (void)state;
    begin(&f, 2, NULL);
    struct engine_vcpu *ev = &f.vm->vcpus[1].engine;
    assert_int_equal(callout_pio_read(ev, 0x1234, 4), 0xffffffff);
    assert_int_equal(callout_mmio_read(ev, 0xc0000000, 8), UINT64_MAX);
    callout_mmio_write(ev, 0xfffffffffffff000, 8, 1);
    assert_int_equal(callout_mmio_read(ev, 0xfee00020, 4) >> 24, 1);
    assert_int_equal(callout_rdmsr(ev, 0x1b, &value), 0);
    assert_int_equal(value, 0xfee00800);
    assert_int_equal(callout_rdmsr(ev, 0x12345, &value), -ERR_INVAL);
    assert_int_equal(callout_wrmsr(ev, 0x12345, 0), -ERR_INVAL);
    callout_cr8_write(ev, 9);
    assert_int_equal(callout_cr8_read(ev), 9);
    struct cpu_state s;
    assert_int_equal(vcpu_state_get(&f.vm->vcpus[1], STATE_ALL, &s), 0);
    assert_int_equal(s.cr8, 9);
    end(&f);
}

static int script_debug(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    if (m->step < 2) {
        exit->kind = EXIT_DEBUG;
        exit->debug.rip = 0x1000 + MOCK_BUMP(m->step);
        exit->debug.int3 = true;
        return 0;
    }
    return mock_idle(vcpu, m, exit);
}

static bool take_first(void *ctx, struct vcpu *v, const struct vm_exit *exit) {
    (void)v;
    __atomic_fetch_add((u32 *)ctx, 1, __ATOMIC_SEQ_CST);
    return exit->debug.rip == 0x1000;
}

static void test_debug(void **state) {
    struct fixture f;
    u32 calls = 0;
    (void)state;
    begin(&f, 2, script_debug);
    f.vm->debug_fn = take_first;
    f.vm->debug_ctx = &calls;
    struct mock_vcpu *m = mock_of(&f.vm->vcpus[0].engine);
    start(&f);
    WAIT_FOR(ATOMIC(f.vm->vcpus[0].state) == VCPU_PARKED);
    WAIT_FOR(ATOMIC(f.vm->vcpus[1].state) == VCPU_PARKED);
    assert_int_equal(calls, 1);
    vm_resume(f.vm);
    WAIT_FOR(ATOMIC(m->exception_count) == 1);
    assert_int_equal(m->exceptions[0], EXC_BP);
    WAIT_FOR(ATOMIC(f.vm->vcpus[0].state) == VCPU_RUNNING);
    end(&f);
}

static int script_poweroff(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    vm_request(vm_of(vcpu->vm), MACHINE_POWEROFF, 0);
    return mock_idle(vcpu, m, exit);
}

static void count_stop(void *ctx) {
    __atomic_fetch_add((u32 *)ctx, 1, __ATOMIC_SEQ_CST);
}

/* The first processor ends the machine while the others start and go to sleep: each must hear of
 * it, whenever it looks, and on_stop comes once. */
static void test_stop_at_once(void **state) {
    (void)state;
    for (u32 i = 0; i < 300; i++) {
        struct fixture f;
        u32 stops = 0;
        begin(&f, 4, script_poweroff);
        f.vm->on_stop = count_stop;
        f.vm->on_stop_ctx = &stops;
        start(&f);
        WAIT_FOR(ATOMIC(f.vm->stopped_word));
        for (u32 v = 0; v < 4; v++) {
            assert_int_equal(ATOMIC(f.vm->vcpus[v].state), VCPU_EXITED);
        }
        end(&f);
        assert_int_equal(stops, 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_halt_interrupt),
        cmocka_unit_test(test_halt_nmi),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_init_sipi),
        cmocka_unit_test(test_io),
        cmocka_unit_test(test_callouts),
        cmocka_unit_test(test_debug),
        cmocka_unit_test(test_stop_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
