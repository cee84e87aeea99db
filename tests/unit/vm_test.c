/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's life with the mock engine: memory, stop reasons, pause, save and load. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/irq/irqchip.h"
#include "core/vm/vm.h"
#include "hosts/fake/fake.h"
#include "tests/unit/lib_mock.h"

struct fixture {
    struct fake_host *fake;
    struct vm *vm;
    struct err err;
};

static int create(struct fixture *f, u32 vcpus, u64 memory) {
    struct vm_params p = {
        .host = &f->fake->host, .engine = &mock_engine_ops, .vcpus = vcpus, .memory = memory};
    memset(&f->err, 0, sizeof(f->err));
    return vm_create(&p, &f->vm, &f->err);
}

/* Another engine that lacks a feature, or cannot be asked. */
static int limit_nothing_left(struct host *host, struct cpuid_policy *policy, struct err *err) {
    (void)host;
    (void)err;
    cpuid_policy_limit(policy, NULL, 0, 0);
    return 0;
}

static int limit_fails(struct host *host, struct cpuid_policy *policy, struct err *err) {
    (void)host;
    (void)policy;
    return ERR_SET(err, ERR_UNSUPPORTED, "not here");
}

static void begin(struct fixture *f, mock_script script) {
    mock = (struct mock_setup){.script = script};
    *f = (struct fixture){.fake = fake_host_create()};
}

static void end(struct fixture *f) {
    vm_destroy(f->vm);
    assert_int_equal(f->fake->allocated, 0);
    fake_host_destroy(f->fake);
}

static void test_memory(void **state) {
    struct fixture f;
    (void)state;
    begin(&f, NULL);
    assert_int_equal(create(&f, 1, 64 * MIB), 0);
    assert_int_equal(f.vm->ram.count, 1);
    vm_destroy(f.vm);
    assert_int_equal(create(&f, 2, 68 * GIB), 0);
    assert_int_equal(f.vm->ram.count, 2);
    assert_int_equal(f.vm->ram.slot[0].size, VM_LOW_RAM_MAX);
    assert_int_equal(f.vm->ram.slot[1].gpa, 4 * GIB);
    assert_int_equal(f.vm->ram.slot[1].size, 65 * GIB);
    assert_int_equal(mock.mapped, 68 * GIB);
    end(&f);
}

static void expect_failure(struct fixture *f, u32 vcpus, u64 memory, const char *part) {
    f->vm = NULL;
    assert_true(create(f, vcpus, memory) < 0);
    assert_null(f->vm);
    assert_non_null(strstr(f->err.text, part));
    assert_int_equal(f->fake->allocated, 0);
}

static void test_failures(void **state) {
    struct fixture f;
    (void)state;
    begin(&f, NULL);
    expect_failure(&f, 0, MIB, "0 processors");
    expect_failure(&f, 65, MIB, "65 processors");
    expect_failure(&f, 1, 0, "memory");
    expect_failure(&f, 1, 4097, "memory");
    mock.max_vcpus = 4;
    expect_failure(&f, 5, MIB, "1 to 4");
    mock.fail_probe = 1;
    expect_failure(&f, 1, MIB, "told to fail");
    mock.fail_probe = 0;
    mock.fail_vm_create = -ERR_PERM;
    expect_failure(&f, 1, MIB, "");
    mock.fail_vm_create = 0;
    mock.fail_map = -ERR_NOMEM;
    expect_failure(&f, 1, MIB, "map");
    mock.fail_map = 0;
    mock.fail_vcpu_create = -ERR_NOMEM;
    expect_failure(&f, 2, MIB, "processor 1");
    mock.fail_vcpu_create = 0;
    for (s64 n = 0; n < 40; n++) { /* each allocation fails once */
        f.fake->fail_alloc = n;
        f.vm = NULL;
        if (create(&f, 3, MIB) == 0) {
            vm_destroy(f.vm);
            f.vm = NULL;
        }
        assert_int_equal(f.fake->allocated, 0);
    }
    f.fake->fail_alloc = -1;
    end(&f);
}

static int script_shutdown(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    (void)vcpu;
    (void)m;
    exit->kind = EXIT_SHUTDOWN;
    return 0;
}

static int script_error(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    (void)vcpu;
    (void)m;
    exit->kind = EXIT_ERROR;
    strcpy(exit->error.text, "it broke");
    return 0;
}

static struct vm_stop run_to_end(struct fixture *f) {
    assert_int_equal(create(f, 2, MIB), 0);
    assert_int_equal(vm_start(f->vm, &f->err), 0);
    assert_true(vm_wait(f->vm, HOST_FOREVER));
    return vm_stop_get(f->vm);
}

static void test_stop_reasons(void **state) {
    struct fixture f;
    (void)state;
    begin(&f, script_shutdown);
    struct vm_stop stop = run_to_end(&f);
    assert_int_equal(stop.reason, STOP_TRIPLE_FAULT);
    assert_int_equal(stop.code, 3);
    assert_non_null(strstr(f.fake->log, "RIP"));
    assert_non_null(strstr(f.fake->log, "CR3"));
    end(&f);
    begin(&f, script_error);
    stop = run_to_end(&f);
    assert_int_equal(stop.reason, STOP_ERROR);
    assert_int_equal(stop.code, 3);
    assert_non_null(strstr(stop.text, "it broke"));
    end(&f);
}

static void stopped(void *ctx) {
    ++*(u32 *)ctx;
}

static void test_request(void **state) {
    static const struct {
        int request, code;
        enum vm_stop_reason reason;
        int status;
    } cases[] = {{MACHINE_POWEROFF, 0, STOP_POWEROFF, 0},
                 {MACHINE_RESET, 0, STOP_RESET, 0},
                 {MACHINE_EXIT_CODE, 77, STOP_EXIT_CODE, 77},
                 {MACHINE_STOP_ERROR, 0, STOP_ERROR, 3}};
    (void)state;
    for (u32 i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f;
        u32 calls = 0;
        begin(&f, NULL);
        assert_int_equal(create(&f, 4, MIB), 0);
        f.vm->on_stop = stopped;
        f.vm->on_stop_ctx = &calls;
        assert_int_equal(vm_start(f.vm, &f.err), 0);
        assert_false(vm_wait(f.vm, 0));
        assert_int_equal(vm_stop_get(f.vm).reason, STOP_NONE);
        f.vm->env.request(f.vm->env.machine, cases[i].request, cases[i].code);
        assert_true(vm_wait(f.vm, HOST_FOREVER));
        vm_stop(f.vm, STOP_USER, 0, "late");
        assert_int_equal(vm_stop_get(f.vm).reason, cases[i].reason);
        assert_int_equal(vm_stop_get(f.vm).code, cases[i].status);
        assert_int_equal(calls, 1);
        end(&f);
    }
}

static void test_pause(void **state) {
    struct fixture f;
    (void)state;
    begin(&f, NULL);
    assert_int_equal(create(&f, 4, MIB), 0);
    vm_pause(f.vm);
    assert_int_equal(vm_start(f.vm, &f.err), 0);
    vm_pause(f.vm);
    for (u32 i = 0; i < 4; i++) {
        assert_int_equal(f.vm->vcpus[i].state, VCPU_PARKED);
        assert_int_equal(mock_of(&f.vm->vcpus[i].engine)->runs, 0);
    }
    vm_resume(f.vm);
    vm_resume(f.vm);
    for (u32 n = 0; n < 200; n++) {
        vm_pause(f.vm);
        u32 runs = mock_of(&f.vm->vcpus[0].engine)->runs;
        sched_yield();
        assert_int_equal(mock_of(&f.vm->vcpus[0].engine)->runs, runs);
        assert_int_equal(f.vm->vcpus[0].state, VCPU_PARKED);
        vm_resume(f.vm);
    }
    struct cpu_state s;
    assert_int_equal(vcpu_state_get(&f.vm->vcpus[0], STATE_ALL, &s), 0);
    s.gpr[GPR_RAX] = 42;
    assert_int_equal(vcpu_state_set(&f.vm->vcpus[0], STATE_ALL, &s), 0);
    assert_int_equal(mock_of(&f.vm->vcpus[0].engine)->s.gpr[GPR_RAX], 42);
    assert_int_equal(vcpu_state_get(&f.vm->vcpus[1], STATE_ALL, &s), 0);
    assert_int_equal(s.mp_state, MP_WAIT_SIPI);
    vm_pause(f.vm); /* a stop while paused ends it too */
    vm_stop(f.vm, STOP_USER, 0, "enough");
    assert_true(vm_wait(f.vm, HOST_FOREVER));
    assert_int_equal(vcpu_state_get(&f.vm->vcpus[0], STATE_ALL, &s), 0);
    end(&f);
}

static void *save(struct vm *vm, size_t *len) {
    struct snap_writer w = {0};
    assert_int_equal(vm_save(vm, &w), 0);
    u8 *buf = malloc(w.len);
    *len = w.len;
    w = (struct snap_writer){.buf = buf, .cap = w.len};
    assert_int_equal(vm_save(vm, &w), 0);
    assert_int_equal(w.len, *len);
    return buf;
}

static void test_save_load(void **state) {
    struct fixture f;
    struct cpu_state s;
    size_t len, len2;
    (void)state;
    begin(&f, NULL);
    assert_int_equal(create(&f, 3, MIB), 0);
    assert_int_equal(vcpu_state_get(&f.vm->vcpus[2], STATE_ALL, &s), 0);
    s.gpr[GPR_R9] = 0x1234567890;
    s.mp_state = MP_HALTED;
    assert_int_equal(vcpu_state_set(&f.vm->vcpus[2], STATE_ALL, &s), 0);
    u8 *a = save(f.vm, &len);
    vm_destroy(f.vm);

    assert_int_equal(create(&f, 3, MIB), 0);
    struct snap_reader r = {.buf = a, .len = len};
    assert_int_equal(vm_load(f.vm, &r, &f.err), 0);
    assert_int_equal(f.vm->vcpus[2].mp_state, MP_HALTED);
    assert_int_equal(mock_of(&f.vm->vcpus[2].engine)->s.gpr[GPR_R9], 0x1234567890);
    u8 *b = save(f.vm, &len2);
    assert_int_equal(len, len2);
    assert_memory_equal(a, b, len);
    vm_destroy(f.vm);

    assert_int_equal(create(&f, 2, MIB), 0); /* another shape: refused, back to reset */
    r = (struct snap_reader){.buf = a, .len = len};
    assert_int_equal(vm_load(f.vm, &r, &f.err), -ERR_FORMAT);
    assert_non_null(strstr(f.err.text, "3 processors"));
    memset(&f.err, 0, sizeof(f.err));
    for (size_t cut = 0; cut < len; cut += 97) {
        r = (struct snap_reader){.buf = a, .len = cut};
        assert_true(vm_load(f.vm, &r, &f.err) < 0);
    }
    assert_int_equal(f.vm->vcpus[1].mp_state, MP_WAIT_SIPI);
    free(a);
    free(b);
    end(&f);
}

static void test_save_running(void **state) {
    struct fixture f;
    size_t len;
    (void)state;
    begin(&f, NULL);
    assert_int_equal(create(&f, 2, MIB), 0);
    assert_int_equal(vm_start(f.vm, &f.err), 0);
    free(save(f.vm, &len));
    assert_int_equal(vm_stop_get(f.vm).reason, STOP_NONE);
    end(&f);
}

static void test_portable(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, NULL);
    struct engine_ops other = {.cpuid_limit = limit_nothing_left};
    struct vm_params p = {.host = &f.fake->host,
                          .engine = &mock_engine_ops,
                          .vcpus = 1,
                          .memory = 16 * MIB,
                          .portable = &other};
    assert_int_equal(vm_create(&p, &f.vm, &f.err), 0);
    assert_false(cpuid_policy_has(&f.vm->cpuid, "sse4_2"));
    vm_destroy(f.vm);
    f.vm = NULL;
    other.cpuid_limit = limit_fails;
    assert_int_equal(vm_create(&p, &f.vm, &f.err), -ERR_UNSUPPORTED);
    assert_non_null(strstr(f.err.text, "not here"));
    other.cpuid_limit = NULL; /* an engine without limits */
    assert_int_equal(vm_create(&p, &f.vm, &f.err), 0);
    assert_true(cpuid_policy_has(&f.vm->cpuid, "sse4_2"));
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_failures),
        cmocka_unit_test(test_stop_reasons), cmocka_unit_test(test_request),
        cmocka_unit_test(test_pause),        cmocka_unit_test(test_save_load),
        cmocka_unit_test(test_save_running), cmocka_unit_test(test_portable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
