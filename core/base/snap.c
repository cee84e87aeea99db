/* SPDX-License-Identifier: Apache-2.0 */
/* The byte stream of saved states; format and rules in snap.h. */
#include "core/base/snap.h"

#include "core/base/err.h"

enum { SECTION_HEADER = 12, LENGTH_OFFSET = 8 };

void snap_put(struct snap_writer *w, const void *data, size_t n) {
    if (w->buf) {
        if (n > w->cap - w->len || w->failed) {
            w->failed = true;
            return;
        }
        memcpy(w->buf + w->len, data, n);
    }
    w->len += n;
}

void snap_put8(struct snap_writer *w, u8 v) {
    snap_put(w, &v, sizeof(v));
}

void snap_put16(struct snap_writer *w, u16 v) {
    snap_put(w, &v, sizeof(v));
}

void snap_put32(struct snap_writer *w, u32 v) {
    snap_put(w, &v, sizeof(v));
}

void snap_put64(struct snap_writer *w, u64 v) {
    snap_put(w, &v, sizeof(v));
}

size_t snap_begin(struct snap_writer *w, u32 tag, u32 version) {
    size_t begin = w->len;
    snap_put32(w, tag);
    snap_put32(w, version);
    snap_put32(w, 0);
    return begin;
}

void snap_end(struct snap_writer *w, size_t begin) {
    u32 length = (u32)(w->len - begin - SECTION_HEADER);
    if (w->buf && !w->failed) {
        memcpy(w->buf + begin + LENGTH_OFFSET, &length, sizeof(length));
    }
}

void snap_get(struct snap_reader *r, void *data, size_t n) {
    if (r->failed || n > r->len - r->pos) {
        r->failed = true;
        memset(data, 0, n);
        return;
    }
    memcpy(data, r->buf + r->pos, n);
    r->pos += n;
}

u8 snap_get8(struct snap_reader *r) {
    u8 v;
    snap_get(r, &v, sizeof(v));
    return v;
}

u16 snap_get16(struct snap_reader *r) {
    u16 v;
    snap_get(r, &v, sizeof(v));
    return v;
}

u32 snap_get32(struct snap_reader *r) {
    u32 v;
    snap_get(r, &v, sizeof(v));
    return v;
}

u64 snap_get64(struct snap_reader *r) {
    u64 v;
    snap_get(r, &v, sizeof(v));
    return v;
}

bool snap_get_bool(struct snap_reader *r) {
    u8 v = snap_get8(r);
    if (v > 1) {
        r->failed = true;
    }
    return v == 1;
}

u32 snap_section(struct snap_reader *r, u32 tag, u32 max_version, struct snap_reader *sub) {
    u32 found = snap_get32(r);
    u32 version = snap_get32(r);
    u32 length = snap_get32(r);
    *sub = (struct snap_reader){.failed = true};
    if (r->failed || found != tag || !version || version > max_version ||
        length > r->len - r->pos) {
        r->failed = true;
        return 0;
    }
    *sub = (struct snap_reader){.buf = r->buf + r->pos, .len = length};
    r->pos += length;
    return version;
}

int snap_finish(const struct snap_reader *r) {
    return r->failed || r->pos != r->len ? -ERR_FORMAT : 0;
}
