/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes PCI configuration space (both mechanisms) with three devices on the bus. After each step
 * no mapped BAR may overlap RAM or leave the windows; the bus itself refuses overlapping regions.
 */
#include "tests/fuzz/virtio_fuzz.h"

static void check_bars(const struct vt *vt) {
    for (u32 d = 0; d < ARRAY_LEN(vt->host.function); d++) {
        const struct pci_device *pci = vt->host.function[d];
        for (u32 i = 0; pci && i < PCI_BARS; i++) {
            const struct bus_region *r = &pci->bar[i].region;
            if (r->mapped && (ram_ptr(&vt->ram, r->base, 1) || r->base < 0xc1000000 ||
                              r->base != pci_bar_address(pci, i))) {
                abort();
            }
        }
    }
}

static void save_load(struct vt *vt, struct fuzz_input *in) {
    struct pci_device *pci = vt->host.function[8 * (1 + fuzz8(in) % 3)];
    size_t len;
    u8 *a = vt_save(&pci->dev, &len);
    u32 flips = fuzz8(in) & 7;
    for (u32 i = 0; i < flips; i++) {
        a[fuzz16(in) % len] ^= fuzz8(in);
    }
    vt_load(&pci->dev, a, len);
    free(a);
}

static void step(struct vt *vt, struct fuzz_input *in) {
    u32 op = fuzz8(in), devfn = op & 0x80 ? fuzz8(in) : 8u * ((op >> 4) & 3), reg = fuzz8(in);
    u32 size = 1u << ((op >> 2) & 3);
    switch (op & 3) {
    case 0:
        vt_config_write(vt, devfn, reg, MIN(size, 4u), fuzz32(in));
        break;
    case 1:
        vt_write(vt, VT_ECAM + (devfn << 12) + reg + (op & 0x40 ? 0x100 : 0), size, fuzz32(in));
        break;
    case 2:
        vt_config_read(vt, devfn, reg, MIN(size, 4u));
        vt_read(vt, VT_ECAM + (devfn << 12) + reg, size);
        bus_read(&vt->pio, 0xcf8 + (reg & 7), MIN(size, 4u));
        break;
    default:
        if (size == 8) {
            save_load(vt, in);
        } else {
            u64 at = 0xc1000000 + (fuzz32(in) & 0xffff);
            vt_write(vt, at, size, reg);
            vt_read(vt, at, size);
        }
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct vt vt;
    struct fuzz_input in = {data, size};
    const struct virtio_net_opts opts = {.mac = {2, 0, 0, 0, 0, 1}};
    vt_init(&vt);
    virtio_pci_attach(&vt.host, virtio_rng_create(&vt.env, NULL, NULL), PCI_SLOT_AUTO, NULL);
    virtio_pci_attach(&vt.host, virtio_net_create(&vt.env, NULL, &opts, NULL), PCI_SLOT_AUTO, NULL);
    virtio_pci_attach(&vt.host, virtio_console_create(&vt.env, NULL, NULL, NULL), PCI_SLOT_AUTO,
                      NULL);
    pci_host_firmware(&vt.host, NULL);
    for (u32 steps = 0; in.size && steps < 500; steps++) {
        step(&vt, &in);
        check_bars(&vt);
    }
    vt_fini(&vt);
    return 0;
}
