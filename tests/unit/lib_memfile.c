/* SPDX-License-Identifier: Apache-2.0 */
/* See lib_memfile.h. */
#include "tests/unit/lib_memfile.h"

#include <stdlib.h>
#include <string.h>

enum { CAP_MAX = 1 << 26 };

static struct memfile *mem_of(struct image_file *f) {
    return CONTAINER_OF(f, struct memfile, file);
}

static int mem_reserve(struct memfile *m, u64 end) {
    if (end <= m->cap) {
        return 0;
    }
    if (end > CAP_MAX) {
        return -ERR_IO;
    }
    u64 cap = MAX(end, m->cap * 2);
    u8 *data = realloc(m->data, cap);
    if (!data) {
        abort();
    }
    memset(data + m->cap, 0, cap - m->cap);
    m->data = data;
    m->cap = cap;
    return 0;
}

static struct memop *log_op(struct memfile *m, enum memop_kind kind, u64 offset, u64 length) {
    if (m->ops == m->log_cap) {
        m->log_cap = m->log_cap ? m->log_cap * 2 : 256;
        m->log = realloc(m->log, m->log_cap * sizeof(*m->log));
        if (!m->log) {
            abort();
        }
    }
    m->log[m->ops] = (struct memop){kind, offset, length, NULL};
    return &m->log[m->ops++];
}

static bool failing(struct memfile *m) {
    if (m->fail_in > 0) {
        m->fail_in--;
    }
    return m->fail_in == 0;
}

static int mem_readv(struct image_file *f, u64 offset, const struct iov *iov, u32 count) {
    struct memfile *m = mem_of(f);
    for (u32 i = 0; i < count; i++) {
        u64 have = offset < m->end ? MIN(iov[i].len, m->end - offset) : 0;
        memcpy(iov[i].base, m->data + (have ? offset : 0), have);
        memset((u8 *)iov[i].base + have, 0, iov[i].len - have);
        offset += iov[i].len;
    }
    return 0;
}

static int mem_writev(struct image_file *f, u64 offset, const struct iov *iov, u32 count) {
    struct memfile *m = mem_of(f);
    u64 len = 0;
    for (u32 i = 0; i < count; i++) {
        len += iov[i].len;
    }
    if (failing(m) || offset > CAP_MAX) {
        return -ERR_IO;
    }
    if (offset + len > m->room) {
        return -ERR_NOSPACE;
    }
    if (mem_reserve(m, offset + len)) {
        return -ERR_IO;
    }
    iov_get(iov, count, 0, m->data + offset, len);
    m->end = MAX(m->end, offset + len);
    if (m->logging) {
        struct memop *op = log_op(m, MEM_WRITE, offset, len);
        op->data = malloc(len);
        memcpy(op->data, m->data + offset, len);
    }
    return 0;
}

static int mem_flush(struct image_file *f) {
    struct memfile *m = mem_of(f);
    if (failing(m)) {
        return -ERR_IO;
    }
    m->flushes++;
    if (m->logging) {
        log_op(m, MEM_FLUSH, 0, 0);
    }
    return 0;
}

static void zero_range(struct memfile *m, u64 offset, u64 length) {
    if (offset < m->end) {
        memset(m->data + offset, 0, MIN(length, m->end - offset));
    }
}

static int mem_discard(struct image_file *f, u64 offset, u64 length) {
    struct memfile *m = mem_of(f);
    zero_range(m, offset, length);
    if (m->logging) {
        log_op(m, MEM_ZERO, offset, length);
    }
    return 0;
}

static int mem_zero(struct image_file *f, u64 offset, u64 length, bool unmap) {
    (void)unmap;
    return mem_discard(f, offset, length);
}

static int mem_truncate(struct image_file *f, u64 size) {
    struct memfile *m = mem_of(f);
    if (mem_reserve(m, size)) {
        return -ERR_IO;
    }
    if (size < m->end) {
        memset(m->data + size, 0, m->end - size);
    }
    m->end = f->size = size;
    if (m->logging) {
        log_op(m, MEM_TRUNCATE, 0, size);
    }
    return 0;
}

static void mem_close(struct image_file *f) {
    mem_of(f)->closed = true;
}

static const struct image_file_ops mem_ops = {
    .readv = mem_readv,
    .writev = mem_writev,
    .flush = mem_flush,
    .zero = mem_zero,
    .discard = mem_discard,
    .truncate = mem_truncate,
    .close = mem_close,
};

struct memfile *memfile_create(void) {
    struct memfile *m = calloc(1, sizeof(*m));
    if (!m) {
        abort();
    }
    m->file.ops = &mem_ops;
    m->room = UINT64_MAX;
    m->fail_in = -1;
    mem_reserve(m, 4096);
    return m;
}

void memfile_destroy(struct memfile *m) {
    for (u32 i = 0; i < m->ops; i++) {
        free(m->log[i].data);
    }
    free(m->log);
    free(m->data);
    free(m);
}

struct memfile *memfile_copy(const struct memfile *from) {
    struct memfile *m = memfile_create();
    mem_reserve(m, from->end);
    memcpy(m->data, from->data, from->end);
    m->end = m->file.size = from->end;
    return m;
}

void memfile_apply(struct memfile *m, const struct memop *op) {
    if (op->kind == MEM_WRITE) {
        mem_reserve(m, op->offset + op->length);
        memcpy(m->data + op->offset, op->data, op->length);
        m->end = MAX(m->end, op->offset + op->length);
    } else if (op->kind == MEM_ZERO) {
        zero_range(m, op->offset, op->length);
    } else if (op->kind == MEM_TRUNCATE) {
        mem_truncate(&m->file, op->length);
    }
    m->file.size = m->end;
}

struct image_file *memfile_again(struct memfile *m) {
    m->closed = false;
    m->file.size = m->end;
    return &m->file;
}
