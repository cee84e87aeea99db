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

struct pc {
    struct host *physical_host;
    struct vm *vm;
    struct pci_host host;
    struct acpipm *pm;
    struct i8042 *kbc;
    struct platform plat;
    u64 rsdp;
};

/* virtio.c: the virtio devices of the configuration on their transports, with doorbells. */
int pc_add_virtio(struct pc *pc, const struct machine_config *cfg, struct err *err);

#endif
