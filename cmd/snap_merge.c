/* SPDX-License-Identifier: Apache-2.0 */
/* A full snapshot out of one and an incremental one that stands on it: the base's memory with the
 * other's pages over it, the other's state, new checksums. Neither of the two is changed. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cmd/snap_mem.h"
#include "cmd/snapshot.h"
#include "core/boot/layout.h"

static int both_load(const char *base, const char *path, struct snap_file f[2], struct err *err) {
    int rc = snap_file_load(base, &f[0], err);
    rc = rc ? rc : snap_file_load(path, &f[1], err);
    if (rc) {
        return rc;
    }
    if (!f[1].info.incremental || f[0].info.memory != f[1].info.memory ||
        memcmp(f[0].info.id, f[1].info.base_id, SNAP_ID_SIZE) != 0) {
        return ERR_SET(err, ERR_INVAL, "%s does not stand on %s", path, base);
    }
    if (f[0].info.incremental) {
        return ERR_SET(err, ERR_INVAL, "%s is incremental itself: merge it with its base first",
                       base);
    }
    return 0;
}

static int memory_open(const char *path, const struct snap_file *f, struct err *err) {
    char memory[SNAPSHOT_PATH_MAX];
    int rc = snap_memory_path(path, &f->info, memory, sizeof(memory), err);
    int fd = rc ? rc : snap_mem_open(memory, f, LAYOUT_VMGENID, err);
    rc = fd < 0 ? fd : snap_mem_check(memory, fd, f, err);
    if (rc && fd >= 0) {
        close(fd);
    }
    return rc ? rc : fd;
}

/* The base mapped privately, the other's pages copied over it, and that written as a full one. */
static int memory_merge(const struct snap_file f[2], const int fd[2], int out, u8 *sums,
                        struct err *err) {
    u64 size = f[1].info.memory;
    struct host_ram ram = {.size = size, .fd = -1};
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd[0], 0);
    if (p == MAP_FAILED) {
        return ERR_SET(err, ERR_NOMEM, "the memory cannot be mapped");
    }
    ram.hva = p;
    int rc = 0;
    for (u64 page = 0; !rc && page < size / PAGE_SIZE; page++) {
        if (snap_page_in(f[1].pages, page)) {
            rc = snap_read_at(fd[1], ram.hva + page * PAGE_SIZE, PAGE_SIZE, page * PAGE_SIZE);
        }
    }
    struct snap_mem_write w = {
        .ram = &ram, .fd = out, .pagemap = -1, .name = "the new memory", .sums = sums};
    rc = rc ? ERR_SET(err, ERR_IO, "the memory cannot be read") : snap_mem_write(&w, err);
    munmap(p, size);
    return rc;
}

static int state_merge(const struct snap_file *f, const u8 *sums, int out, struct err *err) {
    struct snap_info *info = malloc(sizeof(*info));
    char *conf = strndup(f->conf, f->conf_size);
    u8 *buf = NULL;
    size_t size = 0;
    int rc = ERR_SET(err, ERR_NOMEM, "out of memory");
    if (info && conf) {
        *info = f->info;
        info->incremental = false;
        info->base[0] = info->memory_path[0] = 0;
        memset(info->base_id, 0, sizeof(info->base_id));
        struct snap_parts parts = {.info = info,
                                   .cpuid = &f->cpuid,
                                   .conf = conf,
                                   .sums = sums,
                                   .machine = f->machine.buf + f->machine.pos,
                                   .machine_size = f->machine.len - f->machine.pos};
        rc = snap_file_build(&parts, &buf, &size, err);
    }
    if (!rc) {
        rc = snap_write_at(out, buf, size, 0);
        rc = rc ? snap_write_error("the new snapshot", rc, err) : 0;
    }
    free(buf);
    free(conf);
    free(info);
    return rc;
}

static int merge(const char *base, const char *path, const struct snap_file f[2],
                 const struct snapshot_files *out, struct err *err) {
    int fd[2] = {-1, -1}, rc;
    u8 *sums = calloc(f[1].sum_count, SHA256_SIZE);
    if (!sums) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    fd[0] = memory_open(base, &f[0], err);
    fd[1] = fd[0] < 0 ? fd[0] : memory_open(path, &f[1], err);
    rc = fd[1] < 0 ? fd[1] : memory_merge(f, fd, out->memory_fd, sums, err);
    rc = rc ? rc : state_merge(&f[1], sums, out->state_fd, err);
    for (int i = 0; i < 2; i++) {
        if (fd[i] >= 0) {
            close(fd[i]);
        }
    }
    free(sums);
    return rc;
}

int snapshot_merge(const char *base, const char *path, const char *out, struct err *err) {
    struct snap_file *f = calloc(2, sizeof(*f));
    struct snapshot_files files;
    if (!f) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = both_load(base, path, f, err);
    rc = rc ? rc : snapshot_files_create(&files, out, NULL, err);
    if (!rc) {
        rc = merge(base, path, f, &files, err);
        rc = rc ? (snapshot_files_abort(&files), rc) : snapshot_files_commit(&files, true, err);
    }
    snap_file_free(&f[0]);
    snap_file_free(&f[1]);
    free(f);
    return rc;
}
