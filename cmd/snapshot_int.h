/* SPDX-License-Identifier: Apache-2.0 */
/* What snapshot.c and restore.c share. */
#ifndef CMD_SNAPSHOT_INT_H
#define CMD_SNAPSHOT_INT_H

#include "cmd/disk.h"
#include "cmd/snapshot.h"

struct snapshot {
    /* Opened before the fence: files of the disks, to ask for sizes and times (O_PATH; -1: none),
     * and this process's page tables, of a machine whose memory is a private mapping. */
    int disk_fd[SNAP_MAX_DISKS];
    int pagemap;
    bool opened;
    bool has_base; /* an incremental one would stand on this: */
    u8 base_id[SNAP_ID_SIZE];
    char base[SNAPSHOT_PATH_MAX];
    u64 *written; /* pages written since; NULL: not noted */
};

/* Size and time of a disk's file, as they are now; by fd, or by its name when that is negative. */
void snap_disk_stat(const struct disk_option *o, int fd, struct snap_disk *d);

/* restore_uffd.c: memory whose pages the handler at the socket path fills. keep: two descriptors
 * that live as long as the machine (-1: none), also on failure, as *ram. 0 or negative. */
struct host_ram;
int restore_uffd(const char *path, u64 size, struct host_ram *ram, int keep[2], struct err *err);

/* engine_switch.c: what vm_save writes, into as much room as it takes (malloc). */
struct vm;
int machine_state_save(struct vm *vm, u8 **state, size_t *size, struct err *err);

#endif
