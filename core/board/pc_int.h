/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of core/board share. */
#ifndef CORE_BOARD_PC_INT_H
#define CORE_BOARD_PC_INT_H

#include "core/board/pc.h"
#include "core/boot/boot.h"
#include "core/boot/platform.h"
#include "core/dev/pcihost.h"

struct acpipm;
struct i8042;
struct doorbells;
struct virtio_device;

enum { PC_MAX_VIRTIO = MACHINE_MAX_DISKS + MACHINE_MAX_NETS + MACHINE_MAX_SHARES + 5 };

struct pc {
    struct host *physical_host;
    struct vm *vm;
    struct pci_host host;
    struct acpipm *pm;
    struct i8042 *kbc;
    struct platform plat;
    struct virtio_device *virtio[PC_MAX_VIRTIO];
    u32 virtio_count;
    struct doorbells *doorbells; /* NULL: the engine has none */
    u64 rsdp;
};

/* virtio.c: the virtio devices of the configuration on their transports, with doorbells. */
int pc_add_virtio(struct pc *pc, const struct machine_config *cfg, struct err *err);
/* Before the devices are removed. */
void pc_remove_doorbells(struct pc *pc);

#endif
