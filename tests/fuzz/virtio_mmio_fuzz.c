/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the registers of both transports with an entropy source behind each: nothing but raw
 * accesses, from a device that no driver has touched. */
#include "tests/fuzz/virtio_fuzz.h"

static void access_one(struct vt *vt, u64 base, u32 span, struct fuzz_input *in) {
    u32 op = fuzz8(in), at = fuzz16(in) % span, size = 1u << ((op >> 4) & 3);
    if (op & 1) {
        vt_write(vt, base + at, size, fuzz32(in));
    } else {
        vt_read(vt, base + at, size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct vt vt;
    struct fuzz_input in = {data, size};
    vt_init(&vt);
    struct device *mmio = virtio_mmio_attach(&vt.env, virtio_rng_create(&vt.env, NULL, NULL),
                                             VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    struct device *pci =
        virtio_pci_attach(&vt.host, virtio_rng_create(&vt.env, NULL, NULL), PCI_SLOT_AUTO, NULL);
    pci_host_firmware(&vt.host, NULL);
    vt_config_write(&vt, 8, 4, 2, 6);
    u64 bar = pci_bar_address(CONTAINER_OF(pci, struct pci_device, dev), 4);
    u64 msix = pci_bar_address(CONTAINER_OF(pci, struct pci_device, dev), 1);
    for (u32 steps = 0; in.size && steps < 1000; steps++) {
        switch (fuzz8(&in) & 7) {
        case 0:
        case 1:
        case 2:
            access_one(&vt, VT_MMIO_BASE, 0x110, &in);
            break;
        case 3:
        case 4:
            access_one(&vt, bar, 0x40, &in);
            break;
        case 5:
            access_one(&vt, bar, 0x4000, &in);
            break;
        case 6:
            access_one(&vt, msix, 4096, &in);
            break;
        default:
            vt.mem[fuzz16(&in)] = fuzz8(&in);
            fake_advance(vt.fake, 1);
            break;
        }
    }
    mmio->ops->remove(mmio);
    vt_fini(&vt);
    return 0;
}
