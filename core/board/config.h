/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What machine to build. The caller (the command line, the control API) fills it from options or a
 * file, with the back ends opened already; pc_create checks every value. Strings and blobs must
 * stay valid until pc_create has returned, back ends until pc_destroy has returned.
 */
#ifndef CORE_BOARD_CONFIG_H
#define CORE_BOARD_CONFIG_H

#include "core/boot/blob.h"
#include "core/dev/token_bucket.h"
#include "core/if/backend.h"
#include "core/if/engine.h"
#include "core/if/share.h"
#include "core/virtio/balloon.h"

struct cpu_template;
struct cpuid_policy; /* core/cpu/cpuid.h */

enum {
    MACHINE_MAX_VCPUS = 64,
    MACHINE_MAX_DISKS = 16,
    MACHINE_MAX_NETS = 8,
    MACHINE_MAX_SHARES = 8,
    MACHINE_MAX_MODULES = 32,
    MACHINE_SERIAL_PORTS = 4,
};

#define MACHINE_MIN_MEMORY (1 * MIB)
#define MACHINE_MAX_MEMORY (1024 * GIB)

/* How virtio devices are attached. */
enum device_transport {
    TRANSPORT_DEFAULT, /* as machine_config.transport says */
    TRANSPORT_PCI,
    TRANSPORT_MMIO,
};

struct disk_config {
    struct block_backend *backend;
    bool readonly;
    u32 queues;      /* 0: 1 */
    char serial[21]; /* virtio-blk's device ID, at most 20 characters; empty: "sosia-diskN" */
    enum device_transport transport;
};

struct net_config {
    struct net_backend *backend; /* NULL: a card without a cable */
    u8 mac[6];                   /* all zero: 52:54:00:50:1a:0N */
    u16 mtu;                     /* 0: not offered */
    u16 queues;                  /* pairs; 0: 1 */
    struct rate_limit rx, tx;    /* all zero: none */
    enum device_transport transport;
};

struct vsock_config {
    struct vsock_backend *backend; /* NULL: no such device */
    u64 cid;                       /* of the guest, 3..2^32-2 */
};

/* Memory balloon; see core/virtio/balloon.h for the fields. */
struct balloon_config {
    bool present;
    struct balloon_opts opts;
};

struct share_config {
    struct share_backend *backend;
    const char *tag; /* the name that the guest mounts it by, 1..36 bytes */
    enum device_transport transport;
};

/* A further file for the kernel: Multiboot and PVH modules. */
struct module_config {
    struct blob file;
    const char *cmdline; /* NULL: the file's name */
};

struct machine_config {
    u32 vcpus;  /* 1..MACHINE_MAX_VCPUS */
    u64 memory; /* bytes, a multiple of 4096, MACHINE_MIN_MEMORY..MACHINE_MAX_MEMORY */

    struct blob kernel; /* bzImage, ELF with PVH note, or Multiboot; found by its content */
    struct blob initrd; /* data NULL: none */
    struct module_config module[MACHINE_MAX_MODULES];
    u32 module_count;
    const char *cmdline; /* NULL: empty */

    struct char_backend *serial[MACHINE_SERIAL_PORTS]; /* COM1..COM4; NULL: nothing connected */
    u32 serial_mask; /* which ports exist even without a back end: bit 0 COM1; COM1 always does */
    struct char_backend *console; /* virtio-console; NULL: no such device */
    struct char_backend *debug;   /* debug port 0xe9; NULL: bytes vanish */

    struct disk_config disk[MACHINE_MAX_DISKS];
    u32 disk_count;
    struct block_backend *seed; /* a read-only disk behind all others; NULL: none */
    struct net_config net[MACHINE_MAX_NETS];
    u32 net_count;
    struct share_config share[MACHINE_MAX_SHARES];
    u32 share_count;
    bool rng;                    /* virtio-rng */
    struct rate_limit rng_limit; /* all zero: none */
    struct balloon_config balloon;
    struct vsock_config vsock;
    bool test_devices; /* isa-debug-exit, pc-testdev */

    enum device_transport transport; /* TRANSPORT_DEFAULT means PCI */
    /* Append virtio_mmio.device= to the command line for MMIO devices: for kernels started with
     * acpi=off. With it the ACPI tables do not list these devices, so none appears twice. */
    bool mmio_cmdline;
    bool no_acpi;     /* no ACPI tables at all */
    bool no_mptable;  /* no MP table */
    bool no_doorbell; /* do not use the engine's doorbells (for tests) */

    u8 uuid[16];                    /* SMBIOS system UUID; all zero: none */
    u64 tsc_hz;                     /* 0: the host's */
    const char *thread_name;        /* of vCPUs: "NAME N"; NULL: "vcpu" */
    u32 trace;                      /* BIT(enum trace_category) of core/if/trace.h */
    const struct engine_caps *caps; /* what the engine's probe said; NULL: pc_create asks it */
    struct engine_translator translator;
    /* A machine to load a saved state into: no tables are written and no kernel is loaded, both are
     * in the memory. As in struct vm_params; NULL otherwise. */
    struct host_ram *ram;
    const struct cpuid_policy *cpuid;
    const struct cpu_template *cpu_template; /* core/cpu/cpuid.h; NULL: none */
    const struct engine_ops *portable;       /* see struct vm_params; NULL: none */
};

#endif
