/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines from snapshots; see snapshot.h. Everything is looked at before the board is made:
 * checksum, version, memory file, disks. The memory is a private mapping of its file, so what a
 * restore costs does not depend on its size, and machines of one snapshot share what they do not
 * write. Of an incremental snapshot the pages are laid over those of its base.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/machine.h"
#include "cmd/snap_conf.h"
#include "cmd/snap_mem.h"
#include "cmd/snapshot_int.h"
#include "core/boot/layout.h"

/* Mappings of runs of pages, all incremental files together; the kernel allows 65530. Beyond, pages
 * are copied. */
enum { MAX_RUNS = 16384 };

struct restore {
    char path[SNAPSHOT_PATH_MAX];
    struct snap_file file;
    struct host_ram ram;
    bool track;
    char handler[108]; /* socket of a page fault handler; "": none */
    int uffd[2];       /* with a page fault handler; -1: none */
    struct linux_tsc_mark tsc;
    u32 runs;
};

/* --- memory ------------------------------------------------------------------------------------
 */

/* Pages [first, first + count) of an incremental file over what is mapped. */
static int run_map(struct restore *r, int fd, u64 first, u64 count) {
    u8 *at = r->ram.hva + first * PAGE_SIZE;
    if (r->runs < MAX_RUNS) {
        r->runs++;
        void *p = mmap(at, count * PAGE_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, (off_t)(first * PAGE_SIZE));
        return p == MAP_FAILED ? -ERR_NOMEM : 0;
    }
    return snap_read_at(fd, at, count * PAGE_SIZE, first * PAGE_SIZE);
}

static int pages_map(struct restore *r, const struct snap_file *f, int fd) {
    u64 total = f->info.memory / PAGE_SIZE;
    int rc = 0;
    for (u64 page = 0, n = 0; !rc && page < total; page += n + 1) {
        for (n = 0; page + n < total && snap_page_in(f->pages, page + n); n++) {
        }
        rc = n ? run_map(r, fd, page, n) : 0;
    }
    return rc;
}

static int memory_open(const char *path, const char *memory, const struct snap_file *f, bool check,
                       struct err *err) {
    char own[SNAPSHOT_PATH_MAX];
    int rc = memory ? 0 : snap_memory_path(path, &f->info, own, sizeof(own), err);
    int fd = rc ? rc : snap_mem_open(memory ? memory : own, f, LAYOUT_VMGENID, err);
    if (fd >= 0 && check) {
        rc = snap_mem_check(memory ? memory : own, fd, f, err);
        if (rc) {
            close(fd);
            return rc;
        }
    }
    return fd;
}

/* The base may have been moved together with what stands on it. */
static int base_load(const char *path, const struct snap_info *info, char *found,
                     struct snap_file *base, struct err *err) {
    const char *slash = strrchr(path, '/'), *name = strrchr(info->base, '/');
    struct err none = {0};
    snprintf(found, SNAPSHOT_PATH_MAX, "%s", info->base);
    int rc = snap_file_load(found, base, &none);
    if (rc == -ERR_NOTFOUND && slash && name) {
        snprintf(found, SNAPSHOT_PATH_MAX, "%.*s/%s", (int)(slash - path), path, name + 1);
        rc = snap_file_load(found, base, err);
    } else if (rc) {
        ERR_SET(err, (enum err_code) - rc, "%s", none.text);
    }
    if (!rc && (memcmp(base->info.id, info->base_id, SNAP_ID_SIZE) != 0 ||
                base->info.memory != info->memory)) {
        snap_file_free(base);
        rc = ERR_SET(err, ERR_FORMAT, "%s: not the snapshot that %s stands on: it was written anew",
                     found, path);
    }
    return rc;
}

static int memory_map(struct restore *r, const char *path, const char *memory,
                      const struct snap_file *f, u32 depth, bool check, struct err *err);

static int base_map(struct restore *r, const char *path, const struct snap_file *f, u32 depth,
                    bool check, struct err *err) {
    struct snap_file base;
    char found[SNAPSHOT_PATH_MAX];
    if (depth == SNAPSHOT_MAX_CHAIN) {
        return ERR_SET(err, ERR_FORMAT, "%s: stands on more than %d others", path,
                       SNAPSHOT_MAX_CHAIN);
    }
    int rc = base_load(path, &f->info, found, &base, err);
    if (!rc) {
        rc = memory_map(r, found, NULL, &base, depth + 1, check, err);
        snap_file_free(&base);
    }
    return rc;
}

static int memory_map(struct restore *r, const char *path, const char *memory,
                      const struct snap_file *f, u32 depth, bool check, struct err *err) {
    int fd = memory_open(path, memory, f, check, err);
    if (fd < 0) {
        return fd;
    }
    if (!f->info.incremental) {
        int rc = linux_ram_map(fd, f->info.memory, &r->ram);
        if (rc) {
            close(fd);
            return ERR_SET(err, ERR_NOMEM, "%s: the memory cannot be mapped", path);
        }
        return 0;
    }
    int rc = base_map(r, path, f, depth, check, err);
    if (!rc && pages_map(r, f, fd)) {
        rc = ERR_SET(err, ERR_NOMEM, "%s: the memory cannot be mapped", path);
    }
    close(fd);
    if (!rc && r->ram.file) { /* not the picture of one file any more */
        close(r->ram.fd);
        r->ram.fd = -1;
        r->ram.file = false;
    }
    return rc;
}

/* The memory is another process's affair; that it is this snapshot's is looked at in the first page
 * that it gives. */
static int memory_handled(struct restore *r, struct err *err) {
    const struct snap_info *info = &r->file.info;
    int rc = restore_uffd(r->handler, info->memory, &r->ram, r->uffd, err);
    if (!rc && memcmp(r->ram.hva + LAYOUT_VMGENID, info->id, SNAP_ID_SIZE) != 0) {
        rc = ERR_SET(err, ERR_FORMAT, "%s: the handler gives the memory of another snapshot",
                     r->path);
    }
    return rc;
}

/* Only noted here: what is registered with a userfaultfd does not survive a fork. */
static int handler_note(struct restore *r, const struct snapshot_open *how, struct err *err) {
    if (r->file.info.incremental || how->check) {
        return ERR_SET(err, ERR_INVAL, "%s: not with a page fault handler: %s", r->path,
                       how->check ? "checksums" : "an incremental snapshot");
    }
    int n = snprintf(r->handler, sizeof(r->handler), "%s", how->uffd_path);
    return (size_t)n < sizeof(r->handler) ? 0 : ERR_SET(err, ERR_INVAL, "name too long");
}

/* --- looking before anything is made -----------------------------------------------------------
 */

/* A snapshot says which files to open for writing, and the state of a monitor: whoever can write to
 * it could have us write anywhere. */
static int owner_check(const char *path, struct err *err) {
    struct stat st;
    if (stat(path, &st) || ((st.st_uid == geteuid() || !st.st_uid) && !(st.st_mode & 022))) {
        return 0;
    }
    return ERR_SET(err, ERR_PERM,
                   "%s: others can write to it, and it names the files that the machine opens; "
                   "look at it (sosia snapshot info) and use --force",
                   path);
}

static int disk_check(const struct snap_disk *then, const struct disk_option *o, struct err *err) {
    struct snap_disk now;
    snap_disk_stat(o, -1, &now);
    if (!then->mtime_ns || (now.mtime_ns == then->mtime_ns && now.size == then->size)) {
        return 0;
    }
    return ERR_SET(err, ERR_STATE,
                   "disk %s: %s since the snapshot, so it does not fit the guest's memory; restore "
                   "a copy made then with --disk, or use --force",
                   o->open.path, now.mtime_ns ? "was written to" : "is gone");
}

/* Disks that the caller replaced are his affair. */
static int disks_check(const struct restore *r, const struct run_options *o, struct err *err) {
    const struct snap_info *info = &r->file.info;
    int rc = 0;
    if (info->disk_count != o->disk_count) {
        return ERR_SET(err, ERR_FORMAT, "%s: the lists of disks differ", r->path);
    }
    for (u32 i = 0; i < o->disk_count && !rc; i++) {
        if (!strcmp(info->disk[i].path, o->disk[i].open.path)) {
            rc = disk_check(&info->disk[i], &o->disk[i], err);
        }
    }
    return rc;
}

static enum engine_choice engine_named(const char *name) {
    return !strcmp(name, "kvm") ? ENGINE_KVM : !strcmp(name, "soft") ? ENGINE_SOFT : ENGINE_AUTO;
}

static int options_fill(struct restore *r, const struct snapshot_open *how, struct run_options *o,
                        struct err *err) {
    const struct snap_file *f = &r->file;
    int rc = snap_conf_read(o, r->path, f->conf, f->conf_size, err);
    if (!rc && (o->memory != f->info.memory || o->cpus != f->info.vcpus)) {
        rc = ERR_SET(err, ERR_FORMAT, "%s: the configuration does not fit the state", r->path);
    }
    o->engine = engine_named(f->info.engine);
    if (!rc && how->adjust) {
        rc = how->adjust(how->adjust_ctx, o, err);
    }
    for (u32 i = 0; !rc && how->overlay && i < o->disk_count; i++) {
        o->disk[i].open.snapshot = !o->disk[i].open.readonly;
    }
    return rc;
}

int snapshot_open(const struct snapshot_open *how, struct run_options *o, struct restore **out,
                  struct err *err) {
    struct restore *r = calloc(1, sizeof(*r));
    *out = NULL;
    if (!r) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    r->uffd[0] = r->uffd[1] = -1;
    linux_tsc_begin(&r->tsc);
    r->track = how->track;
    char *real = realpath(how->state_path, NULL);
    snprintf(r->path, sizeof(r->path), "%s", real ? real : how->state_path);
    free(real);
    int rc = snap_file_load(how->state_path, &r->file, err);
    rc = rc || how->force ? rc : owner_check(how->state_path, err);
    rc = rc ? rc : options_fill(r, how, o, err);
    rc = rc || how->force ? rc : disks_check(r, o, err);
    rc = rc               ? rc
         : how->uffd_path ? handler_note(r, how, err)
                          : memory_map(r, r->path, how->memory_path, &r->file, 0, how->check, err);
    if (rc) {
        restore_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

void restore_free(struct restore *r) {
    if (r) {
        linux_ram_free(NULL, &r->ram);
        for (int i = 0; i < 2; i++) {
            if (r->uffd[i] >= 0) {
                close(r->uffd[i]);
            }
        }
        snap_file_free(&r->file);
        free(r);
    }
}

const struct snap_info *restore_info(const struct restore *r) {
    return &r->file.info;
}

/* --- making it ---------------------------------------------------------------------------------
 */

int restore_prepare(struct machine *m, struct err *err) {
    struct restore *r = m->restore;
    int rc = r->handler[0] ? memory_handled(r, err) : 0;
    if (rc) {
        return rc;
    }
    linux_tsc_confirm(&r->tsc, r->file.info.tsc_hz);
    m->cfg.ram = &r->ram;
    m->cfg.cpuid = &r->file.cpuid;
    return 0;
}

static int base_take(struct machine *m, const struct restore *r, struct err *err) {
    int rc = snapshot_track(m, err);
    if (!rc) {
        m->snapshot->has_base = true;
        memcpy(m->snapshot->base_id, r->file.info.id, SNAP_ID_SIZE);
        snprintf(m->snapshot->base, sizeof(m->snapshot->base), "%s", r->path);
    }
    return rc;
}

int restore_load(struct machine *m, struct err *err) {
    struct restore *r = m->restore;
    struct vm *vm = pc_vm(m->pc);
    struct snap_reader reader = r->file.machine;
    int rc = r->track ? base_take(m, r, err) : 0;
    if (vm->cpuid_weaker && !m->o.quiet) {
        complain("the guest was told that its processor is not affected by some faults that this "
                 "one may have (IA32_ARCH_CAPABILITIES 0x%llx); it protects itself after a restart",
                 (unsigned long long)vm->cpuid_weaker);
    }
    rc = rc ? rc : vm_load(vm, &reader, err);
    if (!rc && snap_finish(&reader)) {
        rc = ERR_SET(err, ERR_FORMAT, "%s: there is something behind the machine's state", r->path);
    }
    if (!rc) {
        pc_generation_new(m->pc);
    }
    return rc;
}
