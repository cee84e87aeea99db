/* SPDX-License-Identifier: Apache-2.0 */
/* What snapshot.c and restore.c share. */
#ifndef CMD_SNAPSHOT_INT_H
#define CMD_SNAPSHOT_INT_H

#include "cmd/disk.h"
#include "cmd/snapshot.h"

struct snapshot {
    bool has_base; /* an incremental one would stand on this: */
    u8 base_id[SNAP_ID_SIZE];
    char base[SNAPSHOT_PATH_MAX];
    u64 *written; /* pages written since; NULL: not noted */
};

/* Size and time of a disk's file, as they are now. */
void snap_disk_stat(const struct disk_option *o, struct snap_disk *d);

/* engine_switch.c: what vm_save writes, into as much room as it takes (malloc). */
struct vm;
int machine_state_save(struct vm *vm, u8 **state, size_t *size, struct err *err);

#endif
