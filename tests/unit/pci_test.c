/* SPDX-License-Identifier: Apache-2.0 */
/* PCI: configuration accesses, BARs that move and collide, INTx, MSI-X, saving. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/lib_virtio.h"

struct toy { /* a function with one BAR of each kind and MSI-X */
    struct pci_device pci;
    u32 moved;
    u64 last;
};

static u64 toy_read(void *device, u32 region, u64 offset, u32 size) {
    (void)size;
    struct toy *t = device;
    return (u64)t->pci.devfn << 24 | region << 16 | offset;
}

static void toy_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    (void)region, (void)offset, (void)size;
    ((struct toy *)device)->last = value;
}

static const struct bus_ops toy_bus = {toy_read, toy_write, 1, 4};

static void toy_moved(struct pci_device *pci, u32 index) {
    (void)index;
    CONTAINER_OF(pci, struct toy, pci)->moved++;
}

static const struct pci_ops toy_pci = {.bar_moved = toy_moved};

static void toy_reset(struct device *dev) {
    pci_device_reset(CONTAINER_OF(dev, struct pci_device, dev));
}

static void toy_save(struct device *dev, struct snap_writer *w) {
    pci_device_save(CONTAINER_OF(dev, struct pci_device, dev), w);
}

static int toy_load(struct device *dev, struct snap_reader *r, u32 version) {
    (void)version;
    return pci_device_load(CONTAINER_OF(dev, struct pci_device, dev), r);
}

static void toy_remove(struct device *dev) {
    pci_device_remove(CONTAINER_OF(dev, struct pci_device, dev));
}

static const struct device_ops toy_ops = {.name = "toy",
                                          .tag = SNAP_TAG('T', 'O', 'Y', ' '),
                                          .version = 1,
                                          .reset = toy_reset,
                                          .save = toy_save,
                                          .load = toy_load,
                                          .remove = toy_remove};

static void toy_make(struct toy *t, struct vt *vt) {
    const struct pci_ids ids = {.vendor = 0x1234, .device = 0x5678, .class_code = 0x118000};
    memset(t, 0, sizeof(*t));
    t->pci.dev.ops = &toy_ops;
    t->pci.dev.env = &vt->env;
    pci_device_init(&t->pci, &ids, &toy_pci);
    pci_intx_define(&t->pci);
    assert_int_equal(pci_bar_define(&t->pci, 0, PCI_BAR_IO, false, 32, &toy_bus, t, "toy-io"), 0);
    assert_int_equal(
        pci_bar_define(&t->pci, 1, PCI_BAR_MEM32, false, 0x2000, &toy_bus, t, "toy-32"), 0);
    assert_int_equal(
        pci_bar_define(&t->pci, 2, PCI_BAR_MEM64, true, 0x10000, &toy_bus, t, "toy-64"), 0);
    assert_int_equal(pci_msix_define(&t->pci, 4, 3), 0);
}

static void toy_plug(struct toy *t, struct vt *vt, int slot) {
    toy_make(t, vt);
    assert_int_equal(pci_device_add(&vt->host, &t->pci, slot, NULL), 0);
}

static void config_mechanism(void **state) {
    (void)state;
    struct vt vt;
    struct toy t;
    vt_init(&vt);
    toy_plug(&t, &vt, 3);
    assert_int_equal(vt_config_read(&vt, 0, 0, 4), 0x00081b36);
    assert_int_equal(vt_config_read(&vt, 0, 0x0a, 2), 0x0600);
    assert_int_equal(vt_config_read(&vt, 24, 0, 4), 0x56781234);
    assert_int_equal(vt_config_read(&vt, 24, 2, 2), 0x5678);
    assert_int_equal(vt_config_read(&vt, 24, 3, 1), 0x56);
    assert_int_equal(vt_config_read(&vt, 25, 0, 4), 0xffffffff);
    assert_int_equal(vt_config_read(&vt, 32, 0, 4), 0xffffffff);
    /* what Linux does to find mechanism 1 */
    bus_write(&vt.pio, 0xcfb, 1, 1);
    bus_write(&vt.pio, 0xcf8, 4, 0x80000000);
    assert_int_equal(bus_read(&vt.pio, 0xcf8, 4), 0x80000000);
    /* disabled, or another bus */
    bus_write(&vt.pio, 0xcf8, 4, 24 << 8);
    assert_int_equal(bus_read(&vt.pio, 0xcfc, 4), 0xffffffff);
    bus_write(&vt.pio, 0xcf8, 4, 0x80010000 | 24 << 8);
    assert_int_equal(bus_read(&vt.pio, 0xcfc, 4), 0xffffffff);
    /* read-only fields stay, writable ones change */
    vt_config_write(&vt, 24, 0, 4, 0);
    vt_config_write(&vt, 24, 0x3c, 1, 0x77);
    assert_int_equal(vt_config_read(&vt, 24, 0, 4), 0x56781234);
    assert_int_equal(vt_config_read(&vt, 24, 0x3c, 2), 0x0177);
    vt_fini(&vt);
}

static void ecam(void **state) {
    (void)state;
    struct vt vt;
    struct toy t;
    vt_init(&vt);
    toy_plug(&t, &vt, 3);
    u64 at = VT_ECAM + (24ull << 12);
    assert_int_equal(vt_read(&vt, at, 4), 0x56781234);
    assert_int_equal(vt_read(&vt, at + 1, 2), 0x7812);
    assert_int_equal(vt_read(&vt, at, 8), 0x56781234 | (u64)vt_config_read(&vt, 24, 4, 4) << 32);
    assert_int_equal(vt_read(&vt, at + 0x100, 4), 0);      /* no extended capabilities */
    assert_int_equal(vt_read(&vt, at + 0xfff, 2), 0xff00); /* the next function is not there */
    assert_int_equal(vt_read(&vt, VT_ECAM + MIB, 4), 0xffffffff);
    vt_write(&vt, at + 0x3c, 1, 9);
    assert_int_equal(vt_config_read(&vt, 24, 0x3c, 1), 9);
    vt_write(&vt, at + 0x200, 4, 1);
    vt_fini(&vt);
}

static void bar_sizing(void **state) {
    (void)state;
    struct vt vt;
    struct toy t;
    vt_init(&vt);
    toy_plug(&t, &vt, 1);
    const u32 expect[6] = {0xffffffe1, 0xffffe000, 0xffff000c, 0xffffffff, 0xfffff000, 0};
    for (u32 i = 0; i < 6; i++) {
        vt_config_write(&vt, 8, 0x10 + i * 4, 4, 0xffffffff);
        assert_int_equal(vt_config_read(&vt, 8, 0x10 + i * 4, 4), expect[i]);
    }
    assert_null(vt.mmio.last_hit);
    vt_config_write(&vt, 8, 4, 2, 3); /* decoding all ones must not upset anybody */
    assert_false(t.pci.bar[1].region.mapped);
    vt_fini(&vt);
}

static void firmware_and_move(void **state) {
    (void)state;
    struct vt vt;
    struct toy t, u;
    vt_init(&vt);
    toy_plug(&t, &vt, PCI_SLOT_AUTO);
    toy_plug(&u, &vt, PCI_SLOT_AUTO);
    assert_int_equal(u.pci.devfn, 16);
    assert_int_equal(pci_host_firmware(&vt.host, NULL), 0);
    assert_int_equal(vt_config_read(&vt, 8, 4, 2), 3);
    u64 at = pci_bar_address(&t.pci, 1);
    assert_in_range(at, 0xc1000000, 0xdfffffff);
    assert_int_equal(vt_read(&vt, at + 0x44, 4), 8 << 24 | 1 << 16 | 0x44);
    assert_int_equal(vt_read(&vt, pci_bar_address(&u.pci, 2) + 8, 4), 16 << 24 | 2 << 16 | 8);
    u64 io = pci_bar_address(&t.pci, 0);
    assert_in_range(io, 0x1000, 0xffff);
    assert_int_equal(bus_read(&vt.pio, io + 4, 4), 8 << 24 | 4);
    /* move the 64-bit one high */
    u32 moved = t.moved;
    vt_config_write(&vt, 8, 0x18, 4, 0x12340000);
    vt_config_write(&vt, 8, 0x1c, 4, 0x11);
    assert_int_equal(vt_read(&vt, 0x1112340010ull, 4), 8 << 24 | 2 << 16 | 0x10);
    assert_true(t.moved > moved);
    /* decoding off and on */
    vt_config_write(&vt, 8, 4, 2, 0);
    assert_int_equal(vt_read(&vt, 0x1112340010ull, 4), 0xffffffff);
    assert_int_equal(bus_read(&vt.pio, io, 4), 0xffffffff);
    vt_config_write(&vt, 8, 4, 2, 2);
    assert_int_equal(vt_read(&vt, 0x1112340010ull, 4), 8 << 24 | 2 << 16 | 0x10);
    /* reset gives back what firmware set up */
    toy_reset(&t.pci.dev);
    assert_int_equal(vt_read(&vt, at + 0x44, 4), 8 << 24 | 1 << 16 | 0x44);
    vt_fini(&vt);
}

static void bar_conflicts(void **state) {
    (void)state;
    struct vt vt;
    struct toy t, u;
    vt_init(&vt);
    toy_plug(&t, &vt, 1);
    toy_plug(&u, &vt, 2);
    pci_host_firmware(&vt.host, NULL);
    u64 free_place = pci_bar_address(&u.pci, 1);
    /* t moves onto u: the lower slot wins, u is silent until t leaves */
    vt_config_write(&vt, 8, 0x14, 4, (u32)free_place);
    assert_int_equal(vt_read(&vt, free_place, 4) >> 24, 8);
    assert_false(u.pci.bar[1].region.mapped);
    vt_config_write(&vt, 8, 0x14, 4, 0xd0000000);
    assert_int_equal(vt_read(&vt, free_place, 4) >> 24, 16);
    /* onto RAM, the ECAM window, outside: nobody decodes, nothing breaks */
    const u32 bad[] = {0, 0x1000, VT_RAM_SIZE, VT_ECAM, 0xfee00000, 0xfffff000, 0xc0fff000};
    for (u32 i = 0; i < ARRAY_LEN(bad); i++) {
        vt_config_write(&vt, 8, 0x14, 4, bad[i]);
        assert_false(t.pci.bar[1].region.mapped);
    }
    assert_int_equal(vt_read(&vt, VT_ECAM, 4), 0x00081b36);
    /* two change places through the same address */
    vt_config_write(&vt, 8, 0x14, 4, (u32)free_place);
    vt_config_write(&vt, 16, 0x14, 4, 0xd0000000);
    assert_int_equal(vt_read(&vt, free_place, 4) >> 24, 8);
    assert_int_equal(vt_read(&vt, 0xd0000000, 4) >> 24, 16);
    /* two BARs of one function on one address */
    vt_config_write(&vt, 8, 0x18, 4, (u32)free_place);
    assert_false(t.pci.bar[2].region.mapped);
    vt_fini(&vt);
}

static void intx(void **state) {
    (void)state;
    struct vt vt;
    struct toy t, u;
    vt_init(&vt);
    toy_plug(&t, &vt, 1);
    toy_plug(&u, &vt, 3);
    assert_int_equal(vt_config_read(&vt, 8, 0x3c, 2), 0x010b);
    pci_intx_set(&t.pci, true);
    assert_true(vt.level[11]);
    assert_int_equal(vt_config_read(&vt, 8, 6, 2) & 8, 8);
    pci_intx_set(&u.pci, true); /* shared line */
    pci_intx_set(&t.pci, false);
    assert_true(vt.level[11]);
    vt_config_write(&vt, 24, 4, 2, 0x400); /* INTx disable */
    assert_false(vt.level[11]);
    assert_int_equal(vt_config_read(&vt, 24, 6, 2) & 8, 8);
    vt_config_write(&vt, 24, 4, 2, 0);
    assert_true(vt.level[11]);
    vt_config_write(&vt, 24, u.pci.msix.cap + 2u, 2, 0x8000); /* MSI-X instead */
    assert_false(vt.level[11]);
    assert_false(vt.level[10]);
    vt_fini(&vt);
}

static void msix(void **state) {
    (void)state;
    struct vt vt;
    struct toy t;
    vt_init(&vt);
    toy_plug(&t, &vt, 1);
    pci_host_firmware(&vt.host, NULL);
    u64 table = pci_bar_address(&t.pci, 4);
    u32 control = t.pci.msix.cap + 2u;
    assert_int_equal(vt_config_read(&vt, 8, control, 2), 2);
    pci_msix_notify(&t.pci, 0); /* not enabled: nothing, not even pending */
    vt_config_write(&vt, 8, control, 2, 0x8000);
    for (u32 v = 0; v < 3; v++) {
        vt_write(&vt, table + v * 16, 8, 0xfee01000);
        vt_write(&vt, table + v * 16 + 8, 4, 0x30 + v);
        assert_int_equal(vt_read(&vt, table + v * 16 + 12, 4), 1);
    }
    assert_int_equal(vt.msi_count, 0);
    pci_msix_notify(&t.pci, 1); /* masked: pending */
    assert_int_equal(vt_read(&vt, table + 2048, 4), 2);
    vt_write(&vt, table + 28, 4, 0);
    assert_int_equal(vt.msi_count, 1);
    assert_int_equal(vt.msi[0].address, 0xfee01000);
    assert_int_equal(vt.msi[0].data, 0x31);
    assert_int_equal(vt_read(&vt, table + 2048, 4), 0);
    vt_config_write(&vt, 8, control, 2, 0xc000); /* function mask */
    pci_msix_notify(&t.pci, 1);
    assert_int_equal(vt.msi_count, 1);
    vt_config_write(&vt, 8, control, 2, 0x8000);
    assert_int_equal(vt.msi_count, 2);
    pci_msix_notify(&t.pci, 1);
    pci_msix_notify(&t.pci, 3); /* out of range */
    pci_msix_notify(&t.pci, 0xffff);
    assert_int_equal(vt.msi_count, 3);
    vt_write(&vt, table + 48, 4, 7); /* behind the table */
    assert_int_equal(vt_read(&vt, table + 48, 4), 0);
    vt_write(&vt, table + 1, 2, 7); /* odd sizes are dropped */
    assert_int_equal(vt_read(&vt, table, 4), 0xfee01000);
    vt_write(&vt, table + 46, 4, UINT32_MAX); /* across the end of the table */
    assert_int_equal(vt_read(&vt, table + 44, 4), 1);
    assert_int_equal(vt_read(&vt, table + 46, 4), 0);
    assert_int_equal(vt_read(&vt, table + 2048 + 14, 4), 0);
    vt_fini(&vt);
}

static void multi_function(void **state) {
    (void)state;
    struct vt vt;
    struct toy t, u;
    vt_init(&vt);
    toy_make(&u, &vt);
    assert_int_not_equal(pci_function_add(&vt.host, &u.pci, 4, 1, NULL), 0); /* no function 0 */
    toy_plug(&t, &vt, 4);
    assert_int_equal(vt_config_read(&vt, 32, 0x0e, 1), 0);
    assert_int_equal(pci_function_add(&vt.host, &u.pci, 4, 1, NULL), 0);
    assert_int_equal(vt_config_read(&vt, 32, 0x0e, 1), 0x80);
    assert_int_equal(vt_config_read(&vt, 33, 0, 4), 0x56781234);
    assert_int_equal(vt_config_read(&vt, 33, 0x3c, 2), 0x020b); /* pin B on the other line */
    toy_remove(&t.pci.dev);
    assert_int_equal(vt_config_read(&vt, 33, 0, 4), 0xffffffff); /* unreachable alone */
    vt_fini(&vt);
}

static void bad_arguments(void **state) {
    (void)state;
    struct vt vt;
    struct toy t, u;
    struct err err = {0};
    vt_init(&vt);
    toy_make(&t, &vt);
    assert_int_not_equal(
        pci_bar_define(&t.pci, 3, PCI_BAR_MEM32, false, 4096, &toy_bus, &t, "upper half"), 0);
    assert_int_not_equal(
        pci_bar_define(&t.pci, 5, PCI_BAR_MEM64, false, 4096, &toy_bus, &t, "no half"), 0);
    assert_int_not_equal(
        pci_bar_define(&t.pci, 5, PCI_BAR_MEM32, false, 3000, &toy_bus, &t, "size"), 0);
    assert_true(pci_cap_add(&t.pci, 9, 200) < 0);
    assert_int_not_equal(pci_device_add(&vt.host, &t.pci, 32, &err), 0);
    assert_int_equal(pci_device_add(&vt.host, &t.pci, 31, NULL), 0);
    toy_make(&u, &vt);
    assert_int_not_equal(pci_device_add(&vt.host, &u.pci, 31, NULL), 0);
    vt_fini(&vt);
}

static void save_load(void **state) {
    (void)state;
    struct vt vt;
    struct toy t;
    size_t len, len2;
    vt_init(&vt);
    toy_plug(&t, &vt, 1);
    pci_host_firmware(&vt.host, NULL);
    vt_config_write(&vt, 8, 0x18, 4, 0x12340000);
    vt_config_write(&vt, 8, 0x1c, 4, 0x11);
    vt_config_write(&vt, 8, t.pci.msix.cap + 2u, 2, 0x8000);
    pci_msix_notify(&t.pci, 2);
    u8 *a = vt_save(&t.pci.dev, &len);
    u8 *h = vt_save(&vt.host.bridge.dev, &len2);
    vt_fini(&vt);

    vt_init(&vt);
    toy_plug(&t, &vt, 1);
    pci_host_firmware(&vt.host, NULL);
    assert_int_equal(vt_load(&vt.host.bridge.dev, h, len2), 0);
    assert_int_equal(vt_load(&t.pci.dev, a, len), 0);
    assert_int_equal(vt_read(&vt, 0x1112340010ull, 4), 8 << 24 | 2 << 16 | 0x10);
    size_t len3;
    u8 *b = vt_save(&t.pci.dev, &len3);
    assert_int_equal(len, len3);
    assert_memory_equal(a, b, len);
    vt_write(&vt, pci_bar_address(&t.pci, 4) + 2 * 16 + 12, 4, 0); /* the pending one goes out */
    assert_int_equal(vt.msi_count, 1);
    for (size_t cut = 0; cut < len; cut += 7) {
        assert_int_not_equal(vt_load(&t.pci.dev, a, cut), 0);
    }
    a[0] ^= 1; /* another vendor */
    assert_int_not_equal(vt_load(&t.pci.dev, a, len), 0);
    free(a);
    free(b);
    free(h);
    vt_fini(&vt);
}

static void reset_port(void **state) {
    (void)state;
    struct vt vt;
    vt_init(&vt);
    bus_write(&vt.pio, 0xcf9, 1, 2);
    assert_int_equal(vt.resets, 0);
    bus_write(&vt.pio, 0xcf9, 1, 6);
    assert_int_equal(vt.resets, 1);
    assert_int_equal(bus_read(&vt.pio, 0xcf9, 1), 6);
    vt_fini(&vt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_mechanism),
        cmocka_unit_test(ecam),
        cmocka_unit_test(bar_sizing),
        cmocka_unit_test(firmware_and_move),
        cmocka_unit_test(bar_conflicts),
        cmocka_unit_test(intx),
        cmocka_unit_test(msix),
        cmocka_unit_test(multi_function),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(save_load),
        cmocka_unit_test(reset_port),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
