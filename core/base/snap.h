/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saved state: a flat little-endian byte stream of tagged, versioned sections.
 *
 *   section:  tag u32 | version u32 | length u32 | payload (length bytes)
 *
 * Writers never overrun (they set `failed`), readers never read past their section (reads beyond
 * the end give zeros and set `failed`): a saved state is hostile input. A loader checks `failed`
 * once at its end and must leave the device in a safe state either way.
 */
#ifndef CORE_BASE_SNAP_H
#define CORE_BASE_SNAP_H

#include "core/base/types.h"

#define SNAP_TAG(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

struct snap_writer {
    u8 *buf;    /* owned by the caller; NULL to measure only */
    size_t cap; /* bytes in buf */
    size_t len; /* bytes written, or needed when measuring */
    bool failed;
};

struct snap_reader {
    const u8 *buf;
    size_t len;
    size_t pos;
    bool failed;
};

void snap_put(struct snap_writer *w, const void *data, size_t n);
void snap_put8(struct snap_writer *w, u8 v);
void snap_put16(struct snap_writer *w, u16 v);
void snap_put32(struct snap_writer *w, u32 v);
void snap_put64(struct snap_writer *w, u64 v);

/* Opens a section and returns the position to hand to snap_end. Sections may nest. */
size_t snap_begin(struct snap_writer *w, u32 tag, u32 version);
void snap_end(struct snap_writer *w, size_t begin);

void snap_get(struct snap_reader *r, void *data, size_t n);
u8 snap_get8(struct snap_reader *r);
u16 snap_get16(struct snap_reader *r);
u32 snap_get32(struct snap_reader *r);
u64 snap_get64(struct snap_reader *r);
/* A bool stored as a byte; anything but 0 and 1 fails. */
bool snap_get_bool(struct snap_reader *r);

/*
 * Takes the next section, which must carry this tag; sub then reads its payload and r stands
 * behind it. Returns its version (1..max_version), or 0 and sets r->failed.
 */
u32 snap_section(struct snap_reader *r, u32 tag, u32 max_version, struct snap_reader *sub);

/* 0 when everything was read and nothing failed, else -ERR_FORMAT. */
int snap_finish(const struct snap_reader *r);

#endif
