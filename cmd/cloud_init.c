/* SPDX-License-Identifier: Apache-2.0 */
/* --cloud-init: files to a disk in memory; see cloud_init.h. */
#include "cmd/cloud_init.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "core/base/sha256.h"
#include "image/iso9660.h"

enum { USER_DATA, META_DATA, NETWORK_CONFIG, FILES };

static const char *const names[FILES] = {"user-data", "meta-data", "network-config"};
static const char label[] = "CIDATA";

static int map_one(const char *what, const char *path, struct blob *out, struct err *err) {
    int rc = path ? file_map(what, path, out, err) : 0;
    if (!rc && out->size > CLOUD_INIT_MAX) {
        rc = ERR_SET(err, ERR_INVAL, "%s %s: larger than %d MiB", what, path, CLOUD_INIT_MAX >> 20);
    }
    return rc;
}

/* "instance-id: sosia-0123456789abcdef\n" */
static void default_meta(const struct blob *file, char *out, size_t size) {
    struct sha256 h;
    u8 digest[32];
    sha256_init(&h);
    for (u32 i = 0; i < FILES; i++) {
        u64 len = file[i].size;
        sha256_update(&h, &len, sizeof(len));
        sha256_update(&h, file[i].data, len);
    }
    sha256_final(&h, digest);
    int n = snprintf(out, size, "instance-id: sosia-");
    for (u32 i = 0; i < 8; i++) {
        n += snprintf(out + n, size - (size_t)n, "%02x", digest[i]);
    }
    snprintf(out + n, size - (size_t)n, "\n");
}

static int disk_make(struct linux_host *lh, const struct blob *file, struct block_backend **out,
                     struct err *err) {
    struct iso_file iso[FILES];
    char meta[64];
    u32 count = 0;
    default_meta(file, meta, sizeof(meta));
    for (u32 i = 0; i < FILES; i++) {
        if (file[i].data) {
            iso[count++] = (struct iso_file){names[i], file[i].data, (u32)file[i].size};
        } else if (i == META_DATA) {
            iso[count++] = (struct iso_file){names[i], meta, (u32)strlen(meta)};
        }
    }
    u64 size = iso_size(label, iso, count);
    u8 *disk = size ? calloc(1, size) : NULL;
    if (!disk) {
        return ERR_SET(err, ERR_NOMEM, "--cloud-init: out of memory");
    }
    iso_write(label, iso, count, disk);
    int rc = blk_memory_open(lh, "cloud-init", disk, size, out, err);
    free(disk);
    return rc;
}

int cloud_init_open(struct linux_host *lh, const struct cloud_init_option *c,
                    struct block_backend **out, struct err *err) {
    const char *const path[FILES] = {c->user_data, c->meta_data, c->network_config};
    struct blob file[FILES] = {0};
    int rc = 0;
    for (u32 i = 0; i < FILES && !rc; i++) {
        rc = map_one(names[i], path[i], &file[i], err);
    }
    rc = rc ? rc : disk_make(lh, file, out, err);
    for (u32 i = 0; i < FILES; i++) {
        file_unmap(&file[i]);
    }
    return rc;
}
