/* SPDX-License-Identifier: Apache-2.0 */
/* --boot disk: the kernel and initial RAM disk that a disk image itself holds. */
#ifndef CMD_BOOT_DISK_H
#define CMD_BOOT_DISK_H

#include "core/boot/blob.h"
#include "hosts/linux/linux.h"

struct boot_disk {
    struct blob kernel, initrd; /* for file_unmap; their names point into this structure */
    char kernel_name[300], initrd_name[300];
    char cmdline[128]; /* "console=ttyS0 root=UUID=..." */
};

/* Looks through the partitions of the image for /vmlinuz, /boot/vmlinuz, or the newest
 * /boot/vmlinuz-VERSION, and what belongs to it. */
int boot_disk_load(struct host *host, const struct blk_options *disk, struct boot_disk *out,
                   struct err *err);

#endif
