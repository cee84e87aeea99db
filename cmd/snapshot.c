/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking snapshots; see snapshot.h. While the machine is frozen its memory, then its state are
 * written to files that somebody else has opened, so that a fenced process can do it. The state
 * file is complete last: without it the memory is worth nothing. The checksums are made of the
 * files when the machine runs again (snapshot_files_seal). All on the event thread.
 */
#include "cmd/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/control.h"
#include "cmd/machine.h"
#include "cmd/manage.h"
#include "cmd/snap_conf.h"
#include "cmd/snap_mem.h"
#include "cmd/snapshot_int.h"
#include "core/boot/layout.h"

/* --- files -------------------------------------------------------------------------------------
 */

static int file_new(const char *path, char *tmp, struct err *err) {
    int n = snprintf(tmp, SNAPSHOT_PATH_MAX, "%s.XXXXXX", path);
    if (n < 0 || n >= SNAPSHOT_PATH_MAX) {
        return ERR_SET(err, ERR_INVAL, "%s: name too long", path);
    }
    int fd = mkostemp(tmp, O_CLOEXEC); /* 0600: it is all that the guest knows */
    return fd >= 0 ? fd : ERR_SET(err, ERR_IO, "%s: %s", path, strerror(errno));
}

int snapshot_files_create(struct snapshot_files *f, const char *state, const char *memory,
                          struct err *err) {
    *f = (struct snapshot_files){.state_fd = -1, .memory_fd = -1};
    int n = snprintf(f->state, sizeof(f->state), "%s", state);
    int k = memory ? snprintf(f->memory, sizeof(f->memory), "%s", memory)
                   : snprintf(f->memory, sizeof(f->memory), "%s.mem", state);
    if (n <= 0 || (size_t)n >= sizeof(f->state) || k <= 0 || (size_t)k >= sizeof(f->memory)) {
        return ERR_SET(err, ERR_INVAL, "%s: not a name for a snapshot", state);
    }
    f->state_fd = file_new(f->state, f->state_tmp, err);
    if (f->state_fd < 0) {
        return f->state_fd;
    }
    f->memory_fd = file_new(f->memory, f->memory_tmp, err);
    if (f->memory_fd < 0) {
        int rc = f->memory_fd;
        snapshot_files_abort(f);
        return rc;
    }
    return 0;
}

static void close_one(int *fd) {
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

void snapshot_files_abort(struct snapshot_files *f) {
    if (f->state_fd >= 0) {
        unlink(f->state_tmp);
    }
    if (f->memory_fd >= 0) {
        unlink(f->memory_tmp);
    }
    close_one(&f->state_fd);
    close_one(&f->memory_fd);
}

static int seal(struct snapshot_files *f, struct snap_file *file, struct err *err) {
    u8 *sums = calloc(file->sum_count, SHA256_SIZE);
    int rc = sums ? snap_mem_sum(f->memory, f->memory_fd, file, sums, err)
                  : ERR_SET(err, ERR_NOMEM, "out of memory");
    if (!rc) {
        snap_file_seal(file, sums);
        rc = snap_write_at(f->state_fd, file->buf, file->size, 0);
        rc = rc ? snap_write_error(f->state, rc, err) : 0;
    }
    free(sums);
    return rc;
}

int snapshot_files_seal(struct snapshot_files *f, struct err *err) {
    struct snap_file *file = calloc(1, sizeof(*file)); /* too large for a stack */
    if (!file) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = snap_file_read_unsealed(f->state, f->state_fd, file, err);
    if (!rc) {
        rc = seal(f, file, err);
        snap_file_free(file);
    }
    free(file);
    return rc;
}

/* The old state goes first: it must not be found beside the new memory. */
int snapshot_files_commit(struct snapshot_files *f, bool sync, struct err *err) {
    if (sync && (fdatasync(f->memory_fd) || fdatasync(f->state_fd))) {
        int rc = ERR_SET(err, ERR_IO, "%s: %s", f->state, strerror(errno));
        snapshot_files_abort(f);
        return rc;
    }
    if ((unlink(f->state) && errno != ENOENT) || rename(f->memory_tmp, f->memory) ||
        rename(f->state_tmp, f->state)) {
        int rc = ERR_SET(err, ERR_IO, "%s: %s", f->state, strerror(errno));
        snapshot_files_abort(f);
        return rc;
    }
    close_one(&f->state_fd);
    close_one(&f->memory_fd);
    return 0;
}

/* --- what is written ---------------------------------------------------------------------------
 */

/* One snapshot being taken. */
struct taking {
    struct machine *m;
    struct vm *vm;
    const struct snapshot_save *o;
    struct snap_info info;
    char *conf;
    u8 *state; /* of vm_save */
    size_t state_size;
    u64 *pages; /* of an incremental one; NULL */
};

static void flush_done(struct block_req *req, int status) {
    (void)req;
    (void)status;
}

/* What the guest believes to be on its disks must be in their files when the process is gone. */
static void disks_flush(struct machine *m) {
    for (u32 i = 0; i < m->cfg.disk_count; i++) {
        struct block_backend *be = m->cfg.disk[i].backend;
        struct block_req req = {.op = BLOCK_FLUSH, .done = flush_done};
        be->ops->submit(be, &req);
        be->ops->drain(be);
    }
}

void snap_disk_stat(const struct disk_option *o, int fd, struct snap_disk *d) {
    struct stat st;
    *d = (struct snap_disk){.writable = !o->open.readonly};
    snprintf(d->path, sizeof(d->path), "%s", o->open.path);
    if (!(fd < 0 ? stat(o->open.path, &st) : fstat(fd, &st)) && S_ISREG(st.st_mode)) {
        d->size = (u64)st.st_size;
        d->mtime_ns = (s64)st.st_mtim.tv_sec * (s64)NSEC_PER_SEC + st.st_mtim.tv_nsec;
    }
}

static int disks_note(struct taking *t, struct err *err) {
    const struct run_options *o = &t->m->o;
    disks_flush(t->m);
    for (u32 i = 0; i < o->disk_count; i++) {
        if (o->disk[i].open.snapshot && !o->disk[i].open.readonly) {
            return ERR_SET(err, ERR_STATE,
                           "disk %s keeps what the guest writes in a file without a name, which a "
                           "snapshot cannot refer to: use a qcow2 overlay",
                           o->disk[i].open.path);
        }
        snap_disk_stat(&o->disk[i], t->m->snapshot->disk_fd[i], &t->info.disk[i]);
    }
    t->info.disk_count = o->disk_count;
    return 0;
}

static int info_fill(struct taking *t, struct err *err) {
    struct snap_info *info = &t->info;
    struct host *host = t->vm->host;
    char usual[SNAPSHOT_PATH_MAX];
    host->ops->entropy(host, info->id, sizeof(info->id));
    snprintf(usual, sizeof(usual), "%s.mem", t->o->state_path);
    if (t->o->memory_path && strcmp(usual, t->o->memory_path) != 0) {
        snprintf(info->memory_path, sizeof(info->memory_path), "%s", t->o->memory_path);
    }
    snprintf(info->engine, sizeof(info->engine), "%s", t->vm->engine.ops->name);
    snprintf(info->program, sizeof(info->program), "%s", SOSIA_VERSION);
    info->wall_ns = host->ops->wall(host);
    info->tsc_hz = t->vm->engine.tsc_hz;
    info->memory = t->vm->backing.size;
    info->vcpus = t->vm->vcpu_count;
    return disks_note(t, err);
}

/* The identifier of the snapshot stands in for the generation of the guest, which sees neither: it
 * gets its own back, and whoever is restored from the file a new one. */
static int memory_write(struct taking *t, struct snapshot_result *result, struct err *err) {
    u8 *at = ram_ptr(&t->vm->ram, LAYOUT_VMGENID, SNAP_ID_SIZE), own[SNAP_ID_SIZE];
    struct snap_mem_write w = {.ram = &t->vm->backing,
                               .pages = t->pages,
                               .fd = t->o->memory_fd,
                               .pagemap = t->m->snapshot->pagemap,
                               .name = t->o->memory_path ? t->o->memory_path : t->o->state_path};
    if (!at) {
        return ERR_SET(err, ERR_STATE, "the machine has too little memory for a snapshot");
    }
    memcpy(own, at, sizeof(own));
    memcpy(at, t->info.id, sizeof(own));
    int rc = snap_mem_write(&w, err);
    memcpy(at, own, sizeof(own));
    result->memory_bytes = w.written;
    return rc;
}

static int state_write(struct taking *t, struct snapshot_result *result, struct err *err) {
    struct snap_parts parts = {.info = &t->info,
                               .cpuid = &t->vm->cpuid,
                               .conf = t->conf,
                               .pages = (const u8 *)t->pages,
                               .machine = t->state,
                               .machine_size = t->state_size};
    u8 *buf;
    size_t size;
    int rc = snap_file_build(&parts, &buf, &size, err);
    if (rc) {
        return rc;
    }
    rc = snap_write_at(t->o->state_fd, buf, size, 0);
    free(buf);
    result->state_bytes = size;
    return rc ? snap_write_error(t->o->state_path, rc, err) : 0;
}

/* --- pages that were written -------------------------------------------------------------------
 */

static size_t words(const struct vm *vm) {
    return snap_page_bytes(vm->backing.size) / sizeof(u64);
}

static int snapshot_get(struct machine *m, struct err *err) {
    if (!m->snapshot) {
        m->snapshot = calloc(1, sizeof(*m->snapshot));
    }
    for (u32 i = 0; m->snapshot && !m->snapshot->opened && i < SNAP_MAX_DISKS; i++) {
        m->snapshot->disk_fd[i] = m->snapshot->pagemap = -1;
    }
    return m->snapshot ? 0 : ERR_SET(err, ERR_NOMEM, "out of memory");
}

int snapshot_track(struct machine *m, struct err *err) {
    struct vm *vm = pc_vm(m->pc);
    int rc = snapshot_get(m, err);
    if (!rc && !m->snapshot->written) {
        m->snapshot->written = calloc(words(vm), sizeof(u64));
        rc = m->snapshot->written ? 0 : ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    return rc ? rc : vm_dirty_start(vm, err);
}

/* What was written since the last snapshot into m->snapshot->written, where it stays until the next
 * one is done. */
static int pages_collect(struct taking *t, struct err *err) {
    struct snapshot *s = t->m->snapshot;
    int rc = t->vm->dirty_on ? vm_dirty_collect(t->vm, s->written) : 0;
    if (rc) {
        return ERR_SET(err, ERR_STATE, "written pages are not known: %s", err_name(rc));
    }
    if (!t->o->incremental || !s->has_base) {
        return 0;
    }
    u64 page = LAYOUT_VMGENID / PAGE_SIZE;
    s->written[page / 64] |= BIT(page % 64);
    t->pages = s->written;
    t->info.incremental = true;
    memcpy(t->info.base_id, s->base_id, SNAP_ID_SIZE);
    memcpy(t->info.base, s->base, sizeof(s->base));
    return 0;
}

/* It is the next one's base. */
static void base_set(struct taking *t) {
    struct snapshot *s = t->m->snapshot;
    if (!t->vm->dirty_on) {
        return;
    }
    memset(s->written, 0, words(t->vm) * sizeof(u64));
    memcpy(s->base_id, t->info.id, SNAP_ID_SIZE);
    snprintf(s->base, sizeof(s->base), "%s", t->o->state_path);
    s->has_base = true;
}

/* --- taking one --------------------------------------------------------------------------------
 */

static int take_frozen(struct taking *t, struct snapshot_result *result, struct err *err) {
    int rc = snapshot_get(t->m, err);
    if (!rc && (t->o->track || t->o->incremental)) {
        rc = snapshot_track(t->m, err);
    }
    rc = rc ? rc : pages_collect(t, err);
    rc = rc ? rc : info_fill(t, err);
    rc = rc ? rc : memory_write(t, result, err);
    rc = rc ? rc : machine_state_save(t->vm, &t->state, &t->state_size, err);
    rc = rc ? rc : state_write(t, result, err);
    if (!rc) {
        base_set(t);
        result->incremental = t->info.incremental;
    }
    return rc;
}

int snapshot_save(struct machine *m, const struct snapshot_save *o, struct snapshot_result *result,
                  struct err *err) {
    struct taking *t = calloc(1, sizeof(*t));
    int rc;
    *result = (struct snapshot_result){0};
    if (!t) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    *t = (struct taking){.m = m, .vm = pc_vm(m->pc), .o = o};
    u64 begin = host_now(t->vm->host);
    t->conf = snap_conf_write(m);
    vm_freeze(t->vm);
    rc = t->conf ? take_frozen(t, result, err) : ERR_SET(err, ERR_NOMEM, "out of memory");
    if (!rc && o->paused) {
        vm_pause(t->vm);
    }
    vm_thaw(t->vm);
    result->pause_ns = host_now(t->vm->host) - begin;
    free(t->conf);
    free(t->state);
    free(t);
    return rc;
}

/* --- control socket ----------------------------------------------------------------------------
 */

static bool flag(const struct control_call *call, const char *key) {
    return json_is_true(json_object_get(call->request, key));
}

/* {"request": "snapshot", "path": FILE, "memory": FILE|null, "incremental", "track", "pause": bool}
 * with the two files. */
static int handle_snapshot(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    const char *path = json_string_value(json_object_get(call->request, "path"));
    struct snapshot_result result;
    if (!path || strlen(path) >= SNAPSHOT_PATH_MAX || call->fd_count != 2) {
        return ERR_SET(err, ERR_INVAL, "snapshot: needs a path and two files");
    }
    struct snapshot_save o = {.state_fd = call->fd[0],
                              .memory_fd = call->fd[1],
                              .state_path = path,
                              .incremental = flag(call, "incremental"),
                              .track = flag(call, "track")};
    int rc = snapshot_save(m, &o, &result, err);
    if (rc) {
        return rc;
    }
    if (flag(call, "pause")) {
        manage_pause(m);
    }
    json_object_set_new(call->reply, "milliseconds", json_real((double)result.pause_ns / 1e6));
    json_object_set_new(call->reply, "memory", json_integer((json_int_t)result.memory_bytes));
    json_object_set_new(call->reply, "state", json_integer((json_int_t)result.state_bytes));
    json_object_set_new(call->reply, "incremental", json_boolean(result.incremental));
    return 0;
}

/* {"request": "engine", "engine": "soft"|"kvm"} */
static int handle_engine(void *ctx, struct control_call *call, struct err *err) {
    struct machine *m = ctx;
    const char *name = json_string_value(json_object_get(call->request, "engine"));
    bool kvm = name && !strcmp(name, "kvm");
    if (!kvm && (!name || strcmp(name, "soft"))) {
        return ERR_SET(err, ERR_INVAL, "engine: not one of kvm, soft");
    }
    if (m->o.fence) {
        return ERR_SET(err, ERR_PERM,
                       "the machine's process is fenced and cannot become another engine's");
    }
    u64 begin = host_now(linux_host_host(m->lh));
    int rc = machine_switch_engine(m, kvm ? ENGINE_KVM : ENGINE_SOFT, err);
    u64 took = host_now(linux_host_host(m->lh)) - begin;
    json_object_set_new(call->reply, "milliseconds", json_real((double)took / 1e6));
    return rc;
}

static const struct control_verb verbs[] = {
    {"snapshot", handle_snapshot},
    {"engine", handle_engine},
};

/* What a snapshot needs of the file system, while the process may still name files. */
static int files_open(struct machine *m, struct err *err) {
    struct snapshot *s = m->snapshot;
    s->opened = true;
    for (u32 i = 0; i < m->o.disk_count; i++) {
        struct disk_option *d = &m->o.disk[i];
        char *real = realpath(d->open.path, NULL);
        const char *kept = real ? run_options_keep(&m->o, real) : NULL;
        free(real);
        d->open.path = kept ? kept : d->open.path;
        s->disk_fd[i] = open(d->open.path, O_PATH | O_CLOEXEC);
        if (s->disk_fd[i] < 0) {
            return ERR_SET(err, ERR_IO, "disk %s: %s", d->open.path, strerror(errno));
        }
    }
    if (pc_vm(m->pc)->backing.file) {
        s->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    }
    return 0;
}

int snapshot_start(struct machine *m, struct err *err) {
    int rc = snapshot_get(m, err);
    rc = rc ? rc : files_open(m, err);
    if (rc) {
        return rc;
    }
    if (control_add(m->control, verbs, ARRAY_LEN(verbs), m)) {
        return ERR_SET(err, ERR_NOSPACE, "the control socket has no room for snapshots");
    }
    return 0;
}

void snapshot_disk_changed(struct machine *m, u32 i) {
    if (m->snapshot && m->snapshot->opened && i < SNAP_MAX_DISKS) {
        close_one(&m->snapshot->disk_fd[i]);
        m->snapshot->disk_fd[i] = open(m->o.disk[i].open.path, O_PATH | O_CLOEXEC);
    }
}

void snapshot_end(struct machine *m) {
    if (m->snapshot) {
        for (u32 i = 0; i < SNAP_MAX_DISKS; i++) {
            close_one(&m->snapshot->disk_fd[i]);
        }
        close_one(&m->snapshot->pagemap);
        free(m->snapshot->written);
        free(m->snapshot);
        m->snapshot = NULL;
    }
}
