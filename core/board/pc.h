/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PC: a machine with its devices, firmware tables and kernel, ready to run.
 *
 *   0x00000000 .. 0x0009fbff  RAM (boot structures, see core/boot/layout.h)
 *   0x0009fc00 .. 0x0009ffff  EBDA: MP table
 *   0x000a0000 .. 0x000fffff  RAM under the ROM window: ACPI tables at 0xe0000
 *   0x00100000 .. 0xbfffffff  RAM (the low 3 GiB at most)
 *   0xc0001000 + n * 0x1000   virtio-mmio windows, n = 0..14
 *   0xc1000000 .. 0xdfffffff  PCI 32-bit memory window
 *   0xe0000000 .. 0xe00fffff  PCI configuration space (ECAM), bus 0
 *   0xfec00000                IOAPIC
 *   0xfed00000                HPET (not present now)
 *   0xfee00000                local APICs
 *   0xff000000                pc-testdev memory (test devices)
 *   0x1_00000000 ..           RAM above 4 GiB
 *   behind it, 64 GiB aligned PCI 64-bit memory window, 64 GiB
 */
#ifndef CORE_BOARD_PC_H
#define CORE_BOARD_PC_H

#include "core/board/config.h"
#include "core/virtio/blk.h"
#include "core/virtio/net.h"
#include "core/virtio/vsock.h"
#include "core/vm/vm.h"

struct pc;

/*
 * Builds the machine that cfg describes on this engine and loads its kernel; nothing runs yet.
 * Returns 0, or a negative code with err filled (a message for a person that names the culprit) and
 * nothing left behind. cfg->kernel.data may be NULL: a machine to load a saved state into.
 */
int pc_create(struct host *host, const struct engine_ops *engine, const struct machine_config *cfg,
              struct pc **out, struct err *err);
/* Stops it when it runs. Back ends stay open (the caller closes them). NULL is fine. */
void pc_destroy(struct pc *pc);

/* The machine: vm_start, vm_wait, vm_pause, vm_save, ... */
struct vm *pc_vm(struct pc *pc);

/* Counters of the network card i of the configuration; false: there is none. */
bool pc_net_stats(struct pc *pc, u32 i, struct virtio_net_stats *out);

/* Another back end for disk i of the configuration, as virtio_blk_change says. */
int pc_disk_change(struct pc *pc, u32 i, struct block_backend *backend, struct err *err);
/* New limits for card i; NULL: that direction keeps its own. */
void pc_net_limit(struct pc *pc, u32 i, const struct rate_limit *rx, const struct rate_limit *tx);

/* Counters of disk i of the configuration; false: there is none. */
bool pc_disk_stats(struct pc *pc, u32 i, struct virtio_blk_stats *out);

/*
 * The memory balloon: as the functions of core/virtio/balloon.h, of this machine's balloon.
 * -ERR_NOTFOUND: it has none. Any thread, no lock held.
 */
int pc_balloon_set_target(struct pc *pc, u32 mib);
int pc_balloon_stats(struct pc *pc, struct balloon_stats *out);
int pc_balloon_set_interval(struct pc *pc, u32 seconds);
int pc_balloon_hinting_start(struct pc *pc, bool acknowledge);
int pc_balloon_hinting_stop(struct pc *pc);
int pc_balloon_hinting_get(struct pc *pc, struct balloon_hinting *out);

/* Counters of the socket device; false: there is none. */
bool pc_vsock_stats(struct pc *pc, struct virtio_vsock_stats *out);

/* The machine is another one now than it was (restored, copied): a new generation identifier, and
 * an event that tells the guest, which then mixes fresh random numbers into its own. The machine
 * does not run. */
void pc_generation_new(struct pc *pc);

/* Presses the power button (ACPI); a guest that listens shuts down. */
void pc_power_button(struct pc *pc);
/* Types Ctrl-Alt-Delete on the keyboard. */
void pc_ctrl_alt_del(struct pc *pc);

#endif
