/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small file system to hand files to a guest: ISO 9660 (ECMA-119) with Joliet names, one folder,
 * read-only by nature, understood by every system.
 */
#ifndef IMAGE_ISO9660_H
#define IMAGE_ISO9660_H

#include "core/base/types.h"

enum { ISO_FILES_MAX = 16, ISO_NAME_MAX = 24, ISO_SECTOR = 2048 };

struct iso_file {
    const char *name; /* 1 to ISO_NAME_MAX of a-z 0-9 - _ and at most one dot in between */
    const void *data;
    u32 size; /* bytes, less than 1 GiB */
};

/* Bytes of the image, a multiple of ISO_SECTOR; 0: more files or longer names than there may be,
 * or the label has more than 16 characters. */
u64 iso_size(const char *label, const struct iso_file *files, u32 count);
/* Writes it to out, iso_size() bytes of zeros. */
void iso_write(const char *label, const struct iso_file *files, u32 count, u8 *out);

#endif
