/* SPDX-License-Identifier: Apache-2.0 */
/* A disk with any bytes on it: its partitions, file systems and names are read, or refused. */
#include <string.h>

#include "hosts/fake/fake.h"
#include "image/ext4.h"
#include "tests/unit/lib_memfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct walk {
    const struct ext4 *fs;
    u32 names;
    char name[300];
};

static bool name_take(void *ctx, const char *name, u32 inode) {
    struct walk *w = ctx;
    (void)inode;
    if (strlen(name) > EXT4_NAME_MAX) {
        __builtin_trap();
    }
    w->name[0] = '/';
    strcpy(w->name + 1, name);
    return ++w->names < 20;
}

static void try_file(const struct ext4 *fs, const char *path) {
    struct ext4_file f;
    u8 buf[5000];
    if (!ext4_find(fs, path, &f) && f.size) {
        u64 n = f.size < sizeof(buf) ? f.size : sizeof(buf);
        ext4_read(fs, &f, 0, buf, (size_t)n);
        ext4_read(fs, &f, f.size - n, buf, (size_t)n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fake_host *fake = fake_host_create();
    struct memfile *m = memfile_create();
    struct partition p[PARTITIONS_MAX];
    struct image *im = NULL;
    file_write(&m->file, 0, data, size);
    m->file.size = size;
    if (size >= 512 && !raw_image_open(&fake->host, &m->file, true, &im, NULL)) {
        u32 count = partitions_find(im, p);
        for (u32 i = 0; i < count; i++) {
            struct ext4 fs;
            struct ext4_file root;
            struct walk w = {.fs = &fs};
            if (p[i].start + p[i].length > im->size) {
                __builtin_trap();
            }
            if (!ext4_open(im, &p[i], &fs)) {
                try_file(&fs, "/boot/vmlinuz");
                try_file(&fs, "/vmlinuz");
                if (!ext4_find(&fs, "/", &root) && !ext4_list(&fs, &root, name_take, &w)) {
                    try_file(&fs, w.name);
                }
            }
        }
        im->ops->close(im);
    }
    memfile_destroy(m);
    fake_host_destroy(fake);
    return 0;
}
