/* SPDX-License-Identifier: Apache-2.0 */
/* A PC on the software engine is saved while it runs and goes on in another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/board/pc.h"
#include "hosts/fake/fake.h"

extern const struct engine_ops soft_engine_ops;

enum { COUNTER = 0x180000 };

static u8 kernel[4096];

/* mov $0x12345678, %ebx; 1: incl COUNTER; inc %ecx; jmp 1b */
static void make_kernel(void) {
    static const u8 code[] = {0xbb, 0x78, 0x56, 0x34, 0x12, 0xff, 0x05,
                              0x00, 0x00, 0x18, 0x00, 0x41, 0xeb, 0xf7};
    u32 header[8] = {0x1badb002, 0x10003, 0u - 0x1badb002u - 0x10003u, 0x100000, 0x100000, 0x101000,
                     0x101000,   0x100020};
    memset(kernel, 0x90, sizeof(kernel));
    memcpy(kernel, header, sizeof(header));
    memcpy(kernel + 32, code, sizeof(code));
}

static struct pc *create(struct fake_host *fake, bool with_kernel) {
    struct machine_config cfg = {.vcpus = 2, .memory = 4 * MIB, .rng = true, .cmdline = ""};
    struct err err = {0};
    struct pc *pc = NULL;
    if (with_kernel) {
        cfg.kernel = (struct blob){kernel, sizeof(kernel), "counter"};
    }
    if (pc_create(&fake->host, &soft_engine_ops, &cfg, &pc, &err)) {
        fail_msg("%s", err.text);
    }
    return pc;
}

static u32 counter(struct pc *pc) {
    return __atomic_load_n((u32 *)ram_ptr(&pc_vm(pc)->ram, COUNTER, 4), __ATOMIC_SEQ_CST);
}

static void run_a_while(struct pc *pc, bool start) {
    struct err err = {0};
    u32 before = counter(pc);
    if (start) {
        assert_int_equal(vm_start(pc_vm(pc), &err), 0);
    }
    for (u32 n = 0; counter(pc) - before < 1000 && n < 50000000; n++) {
        sched_yield();
    }
    assert_true(counter(pc) - before >= 1000);
    assert_int_equal(vm_stop_get(pc_vm(pc)).reason, STOP_NONE);
}

static void test_resume_elsewhere(void **state) {
    struct fake_host *fake = fake_host_create();
    struct cpu_state a, b;
    struct err err = {0};
    (void)state;
    make_kernel();
    struct pc *first = create(fake, true);
    run_a_while(first, true);
    vm_pause(pc_vm(first));
    size_t cap = 1 << 20;
    u8 *saved = malloc(cap), *ram = malloc(4 * MIB);
    struct snap_writer w = {.buf = saved, .cap = cap};
    assert_int_equal(vm_save(pc_vm(first), &w), 0);
    memcpy(ram, ram_ptr(&pc_vm(first)->ram, 0, 4 * MIB), 4 * MIB);
    assert_int_equal(vcpu_state_get(&pc_vm(first)->vcpus[0], STATE_ALL, &a), 0);
    u32 count = counter(first);
    pc_destroy(first);

    struct pc *second = create(fake, false);
    assert_int_equal(ram_write(&pc_vm(second)->ram, 0, ram, 4 * MIB), 0);
    struct snap_reader r = {.buf = saved, .len = w.len};
    assert_int_equal(vm_load(pc_vm(second), &r, &err), 0);
    assert_int_equal(vcpu_state_get(&pc_vm(second)->vcpus[0], STATE_ALL, &b), 0);
    assert_int_equal(a.rip, b.rip);
    assert_memory_equal(a.gpr, b.gpr, sizeof(a.gpr));
    for (u32 n = 0; n < SEG_COUNT; n++) { /* the structures have padding */
        assert_int_equal(a.seg[n].base, b.seg[n].base);
        assert_int_equal(a.seg[n].limit, b.seg[n].limit);
        assert_int_equal(a.seg[n].attr, b.seg[n].attr);
        assert_int_equal(a.seg[n].sel, b.seg[n].sel);
    }
    assert_int_equal(counter(second), count);
    assert_int_equal(pc_vm(second)->vcpus[1].mp_state, MP_WAIT_SIPI);
    run_a_while(second, true);
    vm_pause(pc_vm(second));
    assert_int_equal(vcpu_state_get(&pc_vm(second)->vcpus[0], STATE_ALL, &b), 0);
    u32 ahead = counter(second) - (u32)b.gpr[GPR_RCX]; /* one ahead between the two increments */
    assert_true(ahead <= 1);
    assert_int_equal(b.gpr[GPR_RBX], 0x12345678);
    vm_resume(pc_vm(second));
    run_a_while(second, false);
    pc_destroy(second);
    fake_run_posted(fake);
    assert_int_equal(fake->allocated, 0);
    fake_host_destroy(fake);
    free(saved);
    free(ram);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
