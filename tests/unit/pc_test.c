/* SPDX-License-Identifier: Apache-2.0 */
/* The whole PC with the mock engine: what is on the buses, saving and loading, bad configurations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/board/pc.h"
#include "core/boot/layout.h"
#include "core/if/callout.h"
#include "hosts/fake/fake.h"
#include "tests/unit/lib_boot.h"
#include "tests/unit/lib_mock.h"

struct fixture {
    struct fake_host *fake;
    struct machine_config cfg;
    struct fake_disk *disk;
    struct fake_char *serial, *console;
    struct fake_net *net;
    struct pc *pc;
    struct err err;
};

static u8 kernel[4096];

static void make_kernel(void) {
    u32 header[8] = {0x1badb002, 0x10003, 0u - 0x1badb002u - 0x10003u, 0x100000, 0x100000, 0x100800,
                     0x104000,   0x100020};
    memset(kernel, 0x90, sizeof(kernel));
    memcpy(kernel, header, sizeof(header));
}

static void begin(struct fixture *f) {
    mock = (struct mock_setup){0};
    *f = (struct fixture){.fake = fake_host_create()};
    f->disk = fake_disk_create(f->fake, MIB);
    f->serial = fake_char_create();
    f->console = fake_char_create();
    f->net = fake_net_create(true, 0);
    make_kernel();
    f->cfg = (struct machine_config){.vcpus = 2,
                                     .memory = 16 * MIB,
                                     .kernel = {kernel, sizeof(kernel), "test.elf"},
                                     .cmdline = "one two",
                                     .serial = {&f->serial->be},
                                     .serial_mask = 3,
                                     .console = &f->console->be,
                                     .disk = {{.backend = &f->disk->be}},
                                     .disk_count = 1,
                                     .net = {{.backend = &f->net->be}},
                                     .net_count = 1,
                                     .rng = true,
                                     .test_devices = true};
}

static void create(struct fixture *f) {
    memset(&f->err, 0, sizeof(f->err));
    if (pc_create(&f->fake->host, &mock_engine_ops, &f->cfg, &f->pc, &f->err)) {
        fail_msg("%s", f->err.text);
    }
}

static void destroy(struct fixture *f) {
    pc_destroy(f->pc);
    f->pc = NULL;
    fake_run_posted(f->fake);
    assert_int_equal(f->fake->allocated, 0);
}

static void end(struct fixture *f) {
    if (f->pc) {
        destroy(f);
    }
    fake_disk_destroy(f->disk);
    fake_char_destroy(f->serial);
    fake_char_destroy(f->console);
    fake_net_destroy(f->net);
    fake_host_destroy(f->fake);
}

static u32 pci_config(struct fixture *f, u32 slot, u32 reg) {
    struct engine_vcpu *ev = &pc_vm(f->pc)->vcpus[0].engine;
    callout_pio_write(ev, 0xcf8, 4, 0x80000000 | slot << 11 | reg);
    return callout_pio_read(ev, 0xcfc, 4);
}

static void test_pci_machine(void **state) {
    struct fixture f;
    (void)state;
    begin(&f);
    create(&f);
    struct vm *vm = pc_vm(f.pc);
    struct engine_vcpu *ev = &vm->vcpus[0].engine;
    assert_int_equal(pci_config(&f, 1, 0), 0x10421af4); /* disk, net, console, rng */
    assert_int_equal(pci_config(&f, 2, 0), 0x10411af4);
    assert_int_equal(pci_config(&f, 3, 0), 0x10431af4);
    assert_int_equal(pci_config(&f, 4, 0), 0x10441af4);
    assert_int_equal(pci_config(&f, 5, 0), 0xffffffff);
    assert_int_equal(callout_mmio_read(ev, 0xe0008000, 4), 0x10421af4); /* the same by ECAM */
    callout_pio_write(ev, 0x3f8, 1, 'A');
    assert_int_equal(f.serial->out_len, 1);
    assert_int_not_equal(callout_pio_read(ev, 0x2fd, 1), 0xff); /* COM2 is there */
    assert_int_equal(callout_pio_read(ev, 0x3ed, 1), 0xff);     /* COM3 is not */
    assert_int_equal(mock_of(ev)->s.rip, 0x100020);
    assert_string_equal(ram_ptr(&vm->ram, LAYOUT_CMDLINE, 20), "test.elf one two");
    assert_memory_equal(ram_ptr(&vm->ram, LAYOUT_ACPI, 8), "RSD PTR ", 8);
    assert_memory_equal(ram_ptr(&vm->ram, LAYOUT_MPTABLE, 4), "_MP_", 4);
    end(&f);
}

static void test_mmio_machine(void **state) {
    struct fixture f;
    (void)state;
    begin(&f);
    f.cfg.transport = TRANSPORT_MMIO;
    f.cfg.mmio_cmdline = true;
    f.cfg.no_acpi = true;
    create(&f);
    struct vm *vm = pc_vm(f.pc);
    struct engine_vcpu *ev = &vm->vcpus[0].engine;
    assert_int_equal(callout_mmio_read(ev, 0xc0001000, 4), 0x74726976);
    assert_int_equal(callout_mmio_read(ev, 0xc0001008, 4), 2);
    assert_int_equal(callout_mmio_read(ev, 0xc0004008, 4), 4);
    assert_non_null(strstr(ram_ptr(&vm->ram, LAYOUT_CMDLINE, 200),
                           "one two virtio_mmio.device=4K@0xc0001000:5 "
                           "virtio_mmio.device=4K@0xc0002000:6"));
    assert_memory_not_equal(ram_ptr(&vm->ram, LAYOUT_ACPI, 8), "RSD PTR ", 8);
    end(&f);
}

static void test_exit_codes(void **state) {
    struct fixture f;
    (void)state;
    begin(&f);
    create(&f);
    struct engine_vcpu *ev = &pc_vm(f.pc)->vcpus[0].engine;
    assert_int_equal(vm_start(pc_vm(f.pc), &f.err), 0);
    callout_pio_write(ev, 0xf4, 4, 0x10);
    assert_true(vm_wait(pc_vm(f.pc), HOST_FOREVER));
    assert_int_equal(vm_stop_get(pc_vm(f.pc)).code, 0x21);
    destroy(&f);
    create(&f);
    ev = &pc_vm(f.pc)->vcpus[0].engine;
    callout_pio_write(ev, 0x604, 2, 5 << 10 | 1 << 13); /* S5 */
    assert_int_equal(vm_stop_get(pc_vm(f.pc)).reason, STOP_POWEROFF);
    destroy(&f);
    static const struct {
        u16 port;
        u8 value;
    } resets[] = {{0xcf9, 6}, {0x64, 0xfe}, {0x92, 1}};
    for (u32 i = 0; i < 3; i++) {
        create(&f);
        callout_pio_write(&pc_vm(f.pc)->vcpus[0].engine, resets[i].port, 1, resets[i].value);
        assert_int_equal(vm_stop_get(pc_vm(f.pc)).reason, STOP_RESET);
        destroy(&f);
    }
    end(&f);
}

static u8 *save(struct fixture *f, size_t *len) {
    struct snap_writer w = {0};
    assert_int_equal(vm_save(pc_vm(f->pc), &w), 0);
    u8 *buf = malloc(w.len);
    assert_non_null(buf);
    *len = w.len;
    w = (struct snap_writer){.buf = buf, .cap = *len};
    assert_int_equal(vm_save(pc_vm(f->pc), &w), 0);
    return buf;
}

static void test_save_load(void **state) {
    struct fixture f;
    size_t len, len2;
    (void)state;
    begin(&f);
    create(&f);
    struct engine_vcpu *ev = &pc_vm(f.pc)->vcpus[0].engine;
    callout_pio_write(ev, 0x3fb, 1, 0x80); /* something to remember in several devices */
    callout_pio_write(ev, 0x3f8, 1, 0x0c);
    callout_pio_write(ev, 0x21, 1, 0xa5);
    callout_pio_write(ev, 0x70, 1, 0x55);
    callout_mmio_write(ev, 0xfec00000, 4, 0x10);
    u8 *a = save(&f, &len);
    destroy(&f);
    f.cfg.kernel.data = NULL;
    create(&f);
    struct snap_reader r = {.buf = a, .len = len};
    if (vm_load(pc_vm(f.pc), &r, &f.err)) {
        fail_msg("%s", f.err.text);
    }
    ev = &pc_vm(f.pc)->vcpus[0].engine;
    assert_int_equal(callout_pio_read(ev, 0x3f8, 1), 0x0c);
    assert_int_equal(callout_pio_read(ev, 0x21, 1), 0xa5);
    u8 *b = save(&f, &len2);
    assert_int_equal(len, len2);
    assert_memory_equal(a, b, len);
    free(a);
    free(b);
    end(&f);
}

static void expect_failure(struct fixture *f, const char *part) {
    memset(&f->err, 0, sizeof(f->err));
    assert_true(pc_create(&f->fake->host, &mock_engine_ops, &f->cfg, &f->pc, &f->err) < 0);
    assert_null(f->pc);
    assert_null(strchr(f->err.text, '\n'));
    if (!strstr(f->err.text, part)) {
        fail_msg("\"%s\" lacks \"%s\"", f->err.text, part);
    }
    fake_run_posted(f->fake);
    assert_int_equal(f->fake->allocated, 0);
}

static void test_bad_config(void **state) {
    struct fixture f;
    (void)state;
    begin(&f);
    f.cfg.vcpus = 0;
    expect_failure(&f, "processors");
    f.cfg.vcpus = 65;
    expect_failure(&f, "processors");
    f.cfg.vcpus = 1;
    f.cfg.memory = 0;
    expect_failure(&f, "memory");
    f.cfg.memory = 16 * MIB + 1;
    expect_failure(&f, "memory");
    f.cfg.memory = MIB;
    expect_failure(&f, "test.elf");
    f.cfg.memory = 16 * MIB;
    f.cfg.kernel.size = 0;
    expect_failure(&f, "test.elf: is empty");
    f.cfg.kernel.size = 100;
    expect_failure(&f, "test.elf");
    for (s64 n = 0; n < 80; n++) { /* each allocation fails once */
        f.cfg.kernel.size = sizeof(kernel);
        f.fake->fail_alloc = n;
        memset(&f.err, 0, sizeof(f.err));
        if (pc_create(&f.fake->host, &mock_engine_ops, &f.cfg, &f.pc, &f.err) == 0) {
            destroy(&f);
        } else {
            assert_true(f.err.text[0]);
        }
        assert_int_equal(f.fake->allocated, 0);
    }
    f.fake->fail_alloc = -1;
    end(&f);
}

static void test_many_disks(void **state) {
    struct fixture f;
    (void)state;
    begin(&f);
    f.cfg.disk_count = 16;
    for (u32 i = 0; i < 16; i++) {
        f.cfg.disk[i].backend = &f.disk->be;
        f.cfg.disk[i].transport = TRANSPORT_MMIO;
    }
    expect_failure(&f, "MMIO");
    for (u32 i = 0; i < 16; i++) {
        f.cfg.disk[i].transport = TRANSPORT_PCI;
    }
    create(&f);
    assert_int_equal(pci_config(&f, 16, 0), 0x10421af4);
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pci_machine), cmocka_unit_test(test_mmio_machine),
        cmocka_unit_test(test_exit_codes),  cmocka_unit_test(test_save_load),
        cmocka_unit_test(test_bad_config),  cmocka_unit_test(test_many_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
