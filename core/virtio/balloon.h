/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio memory balloon: virtio 1.2, section 5.5. Pages that the guest puts into the balloon,
 * reports as free or hints to be free go back to the host. Amounts are in MiB and fields have the
 * meaning of Firecracker's balloon API.
 *
 * Lock rule: create and the functions on `vdev` are called without the board lock, on any thread.
 */
#ifndef CORE_VIRTIO_BALLOON_H
#define CORE_VIRTIO_BALLOON_H

#include "core/virtio/virtio.h"

enum { BALLOON_STATS_INTERVAL_MAX = 65535 }; /* seconds */

/* Tags of statistics (5.5.6.3, and those that Linux has added): index into value. */
enum balloon_stat {
    BALLOON_SWAP_IN,        /* bytes swapped in */
    BALLOON_SWAP_OUT,       /* bytes */
    BALLOON_MAJOR_FAULTS,   /* count */
    BALLOON_MINOR_FAULTS,   /* count */
    BALLOON_FREE_MEMORY,    /* bytes unused */
    BALLOON_TOTAL_MEMORY,   /* bytes */
    BALLOON_AVAILABLE,      /* bytes that can be had without swapping */
    BALLOON_DISK_CACHES,    /* bytes */
    BALLOON_HUGETLB_ALLOC,  /* count */
    BALLOON_HUGETLB_FAIL,   /* count */
    BALLOON_OOM_KILL,       /* count */
    BALLOON_ALLOC_STALL,    /* count */
    BALLOON_ASYNC_SCAN,     /* pages */
    BALLOON_DIRECT_SCAN,    /* pages */
    BALLOON_ASYNC_RECLAIM,  /* pages */
    BALLOON_DIRECT_RECLAIM, /* pages */
    BALLOON_STATS,
};

struct balloon_opts {
    u32 target_mib;      /* at the start; at most what RAM holds */
    bool deflate_on_oom; /* the guest may take pages back when it runs out of memory */
    u32 stats_seconds;   /* how often statistics are asked for; 0: no statistics */
    bool reporting;      /* free page reporting */
    bool hinting;        /* free page hinting */
};

struct balloon_stats {
    u32 target_pages, actual_pages; /* of 4 KiB */
    u32 target_mib, actual_mib;
    u32 interval; /* seconds; 0: no statistics */
    u32 present;  /* BIT(enum balloon_stat): value[] is what the guest said */
    u64 value[BALLOON_STATS];
    u64 updates;        /* how often the guest has sent statistics */
    u64 updated_ns;     /* when last, host clock; 0: never */
    u64 inflated_pages; /* ever put into the balloon, */
    u64 reported_bytes; /* reported free, */
    u64 hinted_bytes;   /* hinted free */
};

struct balloon_hinting {
    u32 host_cmd;     /* 0 stop, 1 done, else the number of the run asked for */
    bool guest_known; /* the guest has answered a command since it started */
    u32 guest_cmd;    /* the last it answered */
};

struct virtio_device *virtio_balloon_create(struct device_env *env, const struct balloon_opts *opts,
                                            struct err *err);

/* Asks the guest for a balloon of so many MiB; it follows as fast as it can. 0, or -ERR_RANGE: more
 * than the machine has. */
int balloon_set_target(struct virtio_device *vdev, u32 mib);
void balloon_stats_get(struct virtio_device *vdev, struct balloon_stats *out);
/* 0; -ERR_STATE: statistics cannot be switched on or off later, as the driver knows the device with
 * or without them; -ERR_RANGE. */
int balloon_set_interval(struct virtio_device *vdev, u32 seconds);

/*
 * A run of free page hinting: the guest lists pages that it does not use now, and they go back to
 * the host. It keeps them to itself until the run ends, by stop, or by itself when acknowledge.
 * 0, or -ERR_STATE: the device was made without it, or no driver has taken it up.
 */
int balloon_hinting_start(struct virtio_device *vdev, bool acknowledge);
int balloon_hinting_stop(struct virtio_device *vdev);
int balloon_hinting_get(struct virtio_device *vdev, struct balloon_hinting *out);

#endif
