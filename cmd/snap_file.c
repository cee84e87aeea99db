/* SPDX-License-Identifier: Apache-2.0 */
/* State files of snapshots: see snap_file.h for the layout. A file is hostile until its checksum is
 * right, and after that too: the checksum is no signature. Pure functions. */
#include "cmd/snap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/snap_mem.h"

#define TAG_INFO SNAP_TAG('I', 'N', 'F', 'O')
#define TAG_CONF SNAP_TAG('C', 'O', 'N', 'F')
#define TAG_DISK SNAP_TAG('D', 'I', 'S', 'K')
#define TAG_CSUM SNAP_TAG('C', 'S', 'U', 'M')
#define TAG_PAGE SNAP_TAG('P', 'A', 'G', 'E')

enum { SECTION_VERSION = 1, OFFSET_ID = 24, OFFSET_ZERO = 40 };

static const char magic[8] = {'S', 'O', 'S', 'I', 'A', 'S', 'N', 'P'};

/* --- reading -----------------------------------------------------------------------------------
 */

/* Length u16 and as many bytes without NUL; "" and a failed reader when it is anything else. */
static void get_text(struct snap_reader *r, char *out, size_t size) {
    size_t len = snap_get16(r);
    out[0] = 0;
    if (r->failed || len >= size) {
        r->failed = true;
        return;
    }
    snap_get(r, out, len);
    out[len] = 0;
    if (strlen(out) != len) {
        r->failed = true;
    }
}

static int get_info(struct snap_reader *r, struct snap_info *info) {
    struct snap_reader sub;
    if (!snap_section(r, TAG_INFO, SECTION_VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    info->incremental = snap_get_bool(&sub);
    snap_get(&sub, info->base_id, SNAP_ID_SIZE);
    get_text(&sub, info->base, sizeof(info->base));
    get_text(&sub, info->memory_path, sizeof(info->memory_path));
    get_text(&sub, info->engine, sizeof(info->engine));
    get_text(&sub, info->program, sizeof(info->program));
    info->wall_ns = snap_get64(&sub);
    info->tsc_hz = snap_get64(&sub);
    info->memory = snap_get64(&sub);
    info->vcpus = snap_get32(&sub);
    bool ok = !snap_finish(&sub) && info->memory && !(info->memory & PAGE_MASK) &&
              info->memory <= 1024 * GIB;
    return ok ? 0 : -ERR_FORMAT;
}

static int get_disks(struct snap_reader *r, struct snap_info *info) {
    struct snap_reader sub;
    if (!snap_section(r, TAG_DISK, SECTION_VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    u32 count = snap_get32(&sub);
    if (count > SNAP_MAX_DISKS) {
        return -ERR_FORMAT;
    }
    for (u32 i = 0; i < count; i++) {
        struct snap_disk *d = &info->disk[i];
        get_text(&sub, d->path, sizeof(d->path));
        d->size = snap_get64(&sub);
        d->mtime_ns = (s64)snap_get64(&sub);
        d->writable = snap_get_bool(&sub);
    }
    info->disk_count = count;
    return snap_finish(&sub);
}

static int get_bytes(struct snap_reader *r, u32 tag, const u8 **data, size_t *size) {
    struct snap_reader sub;
    if (!snap_section(r, tag, SECTION_VERSION, &sub)) {
        return -ERR_FORMAT;
    }
    *data = sub.buf;
    *size = sub.len;
    return 0;
}

/* A table whose size follows from the memory's. */
static int get_table(struct snap_reader *r, u32 tag, const u8 **data, size_t want) {
    size_t size;
    int rc = get_bytes(r, tag, data, &size);
    return rc ? rc : size == want ? 0 : -ERR_FORMAT;
}

static int get_sections(struct snap_file *f, struct snap_reader *r) {
    const u8 *conf;
    int rc = get_info(r, &f->info);
    rc = rc ? rc : get_bytes(r, TAG_CONF, &conf, &f->conf_size);
    rc = rc ? rc : get_disks(r, &f->info);
    rc = rc ? rc : cpuid_policy_load(&f->cpuid, r);
    if (rc) {
        return rc;
    }
    f->conf = (const char *)conf;
    f->sum_count = snap_chunks(f->info.memory);
    rc = get_table(r, TAG_CSUM, &f->sums, (size_t)f->sum_count * SHA256_SIZE);
    if (!rc && f->info.incremental) {
        rc = get_table(r, TAG_PAGE, &f->pages, snap_page_bytes(f->info.memory));
    }
    f->machine = *r; /* the rest; vm_load looks at it */
    return rc;
}

static int check_header(const char *name, const u8 *buf, size_t size, struct err *err) {
    struct snap_reader r = {.buf = buf, .len = size};
    char found[sizeof(magic)];
    snap_get(&r, found, sizeof(found));
    u32 version = snap_get32(&r), header = snap_get32(&r);
    u64 length = snap_get64(&r);
    if (r.failed || memcmp(found, magic, sizeof(magic)) != 0) {
        return ERR_SET(err, ERR_FORMAT, "%s: not the state file of a snapshot", name);
    }
    if (version > SNAP_VERSION) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "%s: made by a newer Sosia (format %u; this one reads up to %d)", name,
                       version, SNAP_VERSION);
    }
    if (length != size || size < SNAP_HEADER_SIZE + SHA256_SIZE) {
        return ERR_SET(err, ERR_FORMAT, "%s: truncated: %llu bytes of %llu", name,
                       (unsigned long long)size, (unsigned long long)length);
    }
    if (!version || header != SNAP_HEADER_SIZE) {
        return ERR_SET(err, ERR_FORMAT, "%s: the header is damaged", name);
    }
    return 0;
}

static int check_sum(const char *name, const u8 *buf, size_t size, struct err *err) {
    u8 sum[SHA256_SIZE];
    sha256(buf, size - SHA256_SIZE, sum);
    if (memcmp(sum, buf + size - SHA256_SIZE, SHA256_SIZE) != 0) {
        return ERR_SET(err, ERR_FORMAT, "%s: damaged: the checksum is wrong", name);
    }
    return 0;
}

static int parse(const char *name, u8 *buf, size_t size, bool sealed, struct snap_file *out,
                 struct err *err) {
    memset(out, 0, sizeof(*out));
    int rc = check_header(name, buf, size, err);
    rc = rc || !sealed ? rc : check_sum(name, buf, size, err);
    if (rc) {
        return rc;
    }
    struct snap_reader r = {.buf = buf + SNAP_HEADER_SIZE,
                            .len = size - SNAP_HEADER_SIZE - SHA256_SIZE};
    memcpy(out->info.id, buf + OFFSET_ID, SNAP_ID_SIZE);
    if (get_sections(out, &r)) {
        return ERR_SET(err, ERR_FORMAT, "%s: a section is damaged", name);
    }
    out->buf = buf;
    out->size = size;
    return 0;
}

int snap_file_parse(const char *name, u8 *buf, size_t size, struct snap_file *out,
                    struct err *err) {
    return parse(name, buf, size, true, out, err);
}

static int file_read(const char *name, int fd, bool sealed, struct snap_file *out,
                     struct err *err) {
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        return ERR_SET(err, ERR_FORMAT, "%s: not a file", name);
    }
    if ((u64)st.st_size > SNAP_FILE_MAX) {
        return ERR_SET(err, ERR_FORMAT, "%s: too large for the state file of a snapshot", name);
    }
    size_t size = (size_t)st.st_size;
    u8 *buf = malloc(size + 1);
    if (!buf) {
        return ERR_SET(err, ERR_NOMEM, "%s: out of memory", name);
    }
    int rc = snap_read_at(fd, buf, size, 0);
    rc = rc ? ERR_SET(err, ERR_IO, "%s: %s", name, strerror(errno))
            : parse(name, buf, size, sealed, out, err);
    if (rc) {
        free(buf);
    }
    return rc;
}

int snap_file_read(const char *name, int fd, struct snap_file *out, struct err *err) {
    return file_read(name, fd, true, out, err);
}

int snap_file_read_unsealed(const char *name, int fd, struct snap_file *out, struct err *err) {
    return file_read(name, fd, false, out, err);
}

void snap_file_seal(struct snap_file *f, const u8 *sums) {
    memcpy(f->buf + (f->sums - f->buf), sums, (size_t)f->sum_count * SHA256_SIZE);
    sha256(f->buf, f->size - SHA256_SIZE, f->buf + f->size - SHA256_SIZE);
}

int snap_file_load(const char *path, struct snap_file *out, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return ERR_SET(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", path,
                       strerror(errno));
    }
    int rc = snap_file_read(path, fd, out, err);
    close(fd);
    return rc;
}

void snap_file_free(struct snap_file *f) {
    free(f->buf);
    memset(f, 0, sizeof(*f));
}

/* --- writing -----------------------------------------------------------------------------------
 */

static void put_text(struct snap_writer *w, const char *text) {
    size_t len = strlen(text);
    snap_put16(w, (u16)len);
    snap_put(w, text, len);
}

static void put_info(struct snap_writer *w, const struct snap_info *info) {
    size_t begin = snap_begin(w, TAG_INFO, SECTION_VERSION);
    snap_put8(w, info->incremental);
    snap_put(w, info->base_id, SNAP_ID_SIZE);
    put_text(w, info->base);
    put_text(w, info->memory_path);
    put_text(w, info->engine);
    put_text(w, info->program);
    snap_put64(w, info->wall_ns);
    snap_put64(w, info->tsc_hz);
    snap_put64(w, info->memory);
    snap_put32(w, info->vcpus);
    snap_end(w, begin);
}

static void put_disks(struct snap_writer *w, const struct snap_info *info) {
    size_t begin = snap_begin(w, TAG_DISK, SECTION_VERSION);
    snap_put32(w, info->disk_count);
    for (u32 i = 0; i < info->disk_count; i++) {
        put_text(w, info->disk[i].path);
        snap_put64(w, info->disk[i].size);
        snap_put64(w, (u64)info->disk[i].mtime_ns);
        snap_put8(w, info->disk[i].writable);
    }
    snap_end(w, begin);
}

static void put_bytes(struct snap_writer *w, u32 tag, const void *data, size_t size) {
    size_t begin = snap_begin(w, tag, SECTION_VERSION);
    snap_put(w, data, size);
    snap_end(w, begin);
}

static void put_zeros(struct snap_writer *w, u32 tag, u64 size) {
    size_t begin = snap_begin(w, tag, SECTION_VERSION);
    for (u64 i = 0; i < size / 8; i++) {
        snap_put64(w, 0);
    }
    snap_end(w, begin);
}

static void put_all(struct snap_writer *w, const struct snap_parts *p, u64 size) {
    static const u8 zero[SNAP_HEADER_SIZE - OFFSET_ZERO];
    const struct snap_info *info = p->info;
    snap_put(w, magic, sizeof(magic));
    snap_put32(w, SNAP_VERSION);
    snap_put32(w, SNAP_HEADER_SIZE);
    snap_put64(w, size);
    snap_put(w, info->id, SNAP_ID_SIZE);
    snap_put(w, zero, sizeof(zero));
    put_info(w, info);
    put_bytes(w, TAG_CONF, p->conf, strlen(p->conf));
    put_disks(w, info);
    cpuid_policy_save(p->cpuid, w);
    u64 sums = snap_chunks(info->memory) * SHA256_SIZE;
    if (p->sums) {
        put_bytes(w, TAG_CSUM, p->sums, sums);
    } else {
        put_zeros(w, TAG_CSUM, sums);
    }
    if (info->incremental) {
        put_bytes(w, TAG_PAGE, p->pages, snap_page_bytes(info->memory));
    }
    snap_put(w, p->machine, p->machine_size);
}

int snap_file_build(const struct snap_parts *p, u8 **buf, size_t *size, struct err *err) {
    struct snap_writer w = {0};
    put_all(&w, p, 0);
    size_t total = w.len + SHA256_SIZE;
    if (total > SNAP_FILE_MAX) {
        return ERR_SET(err, ERR_RANGE, "the state of the machine is too large to save");
    }
    w = (struct snap_writer){.buf = malloc(total), .cap = total};
    if (!w.buf) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    put_all(&w, p, total);
    memset(w.buf + w.len, 0, SHA256_SIZE);
    if (p->sums) {
        sha256(w.buf, w.len, w.buf + w.len);
    }
    *buf = w.buf;
    *size = total;
    return 0;
}

int snap_memory_path(const char *path, const struct snap_info *info, char *out, size_t size,
                     struct err *err) {
    int n = info->memory_path[0] ? snprintf(out, size, "%s", info->memory_path)
                                 : snprintf(out, size, "%s.mem", path);
    return n > 0 && (size_t)n < size ? 0 : ERR_SET(err, ERR_RANGE, "%s: name too long", path);
}
