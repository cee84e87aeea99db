/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split virtqueue, device side: virtio 1.2, section 2.7. Drawing, rules and what is left out
 * in vq.h. Lock rule: board lock held; the driver changes the rings at any time all the same.
 */
#include "core/virtio/vq.h"

#include "core/base/err.h"

#define DESC_NEXT     1u
#define DESC_WRITE    2u
#define DESC_INDIRECT 4u

#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY     1u

struct vq_desc {
    u64 addr;
    u32 len;
    u16 flags;
    u16 next;
};

enum { DESC_SIZE = 16, DESC_ALIGN = 16, AVAIL_ALIGN = 2, USED_ALIGN = 4, USED_ELEM = 8 };
enum { RING_FLAGS = 0, RING_IDX = 2, RING_FIRST = 4 }; /* offsets in avail and used */

_Static_assert(sizeof(struct vq_desc) == DESC_SIZE, "virtq_desc (2.7.5)");

/* --- ring memory ------------------------------------------------------------------------------ */

static u16 load16(const u8 *p) {
    return __atomic_load_n((const u16 *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void store16(struct vq *vq, u8 *p, u64 gpa, u16 value) {
    __atomic_store_n((u16 *)(void *)p, value, __ATOMIC_RELEASE);
    ram_written(vq->ram, gpa, sizeof(value));
}

static u32 slot_of(const struct vq *vq, u16 index) {
    return index & (vq->size - 1u);
}

static int broken(struct vq *vq, const char *why) {
    vq->broken = true;
    vq->why = why;
    return -ERR_FORMAT;
}

static void bit_set(u64 *map, u32 n) {
    map[n / 64] |= BIT(n % 64);
}

static void bit_clear(u64 *map, u32 n) {
    map[n / 64] &= ~BIT(n % 64);
}

static bool bit_get(const u64 *map, u32 n) {
    return map[n / 64] & BIT(n % 64);
}

/* Lowest set bit, or VQ_SIZE_MAX. */
static u32 bit_first(const u64 *map) {
    for (u32 i = 0; i < VQ_SIZE_MAX / 64; i++) {
        if (map[i]) {
            return i * 64 + (u32)__builtin_ctzll(map[i]);
        }
    }
    return VQ_SIZE_MAX;
}

void vq_init(struct vq *vq, struct ram *ram, u16 size_max) {
    *vq = (struct vq){.ram = ram, .size_max = size_max, .size = size_max};
}

void vq_reset(struct vq *vq) {
    vq_init(vq, vq->ram, vq->size_max);
}

/* A ring the device writes must not lie in memory that the guest itself cannot write. */
static u8 *ring_ptr(const struct vq *vq, u64 gpa, u64 size, u64 align, bool write) {
    const struct ram_slot *slot = ram_find(vq->ram, gpa);
    if (!slot || (gpa & (align - 1)) || (write && (slot->flags & RAM_READONLY))) {
        return NULL;
    }
    return ram_ptr(vq->ram, gpa, size);
}

void vq_enable(struct vq *vq) {
    vq->enabled = true;
    if (!vq->size || vq->size > vq->size_max || (vq->size & (vq->size - 1))) {
        broken(vq, "queue size is not a power of two in range");
        return;
    }
    vq->desc_p = ring_ptr(vq, vq->desc, vq->size * (u64)DESC_SIZE, DESC_ALIGN, false);
    vq->avail_p = ring_ptr(vq, vq->avail, RING_FIRST + vq->size * 2u + 2u, AVAIL_ALIGN, false);
    vq->used_p =
        ring_ptr(vq, vq->used, RING_FIRST + vq->size * (u64)USED_ELEM + 2u, USED_ALIGN, true);
    if (!vq->desc_p || !vq->avail_p || !vq->used_p) {
        broken(vq, "a ring is misaligned or outside memory");
    }
}

/* --- chains ----------------------------------------------------------------------------------- */

/* Copies a descriptor. The barrier keeps the compiler from reading it a second time later, when the
 * driver may have changed it. */
static struct vq_desc desc_fetch(const u8 *table, u32 index) {
    struct vq_desc desc;
    memcpy(&desc, table + index * (size_t)DESC_SIZE, sizeof(desc));
    __asm__ volatile("" : "+m"(desc) : : "memory");
    return desc;
}

static int chain_add(struct vq *vq, struct vq_chain *chain, const struct vq_desc *desc) {
    bool write = desc->flags & DESC_WRITE;
    u32 n = chain->out_count + (u32)chain->in_count;
    if (!desc->len) {
        return 0;
    }
    if (!write && chain->in_count) {
        return broken(vq, "a readable descriptor follows a writable one");
    }
    const struct ram_slot *slot = ram_find(vq->ram, desc->addr);
    u8 *p = ram_ptr(vq->ram, desc->addr, desc->len);
    if (!p || (write && (slot->flags & RAM_READONLY))) {
        return broken(vq, "a descriptor points outside memory");
    }
    *(write ? &chain->in_len : &chain->out_len) += desc->len;
    bool same_part = write ? chain->in_count > 0 : chain->out_count > 0;
    if (same_part && chain->gpa[n - 1] + chain->iov[n - 1].len == desc->addr &&
        (u8 *)chain->iov[n - 1].base + chain->iov[n - 1].len == p) {
        chain->iov[n - 1].len += desc->len;
        return 0;
    }
    if (n == VQ_SEGS_MAX) {
        return broken(vq, "a chain has too many descriptors");
    }
    chain->iov[n] = (struct iov){p, desc->len};
    chain->gpa[n] = desc->addr;
    *(write ? &chain->in_count : &chain->out_count) += 1;
    return 0;
}

/* The rules of 2.7.5.3: negotiated, not nested, no NEXT, a whole number of descriptors. */
static const u8 *indirect_table(struct vq *vq, const struct vq_desc *desc, bool nested) {
    if (!vq->indirect || nested || (desc->flags & DESC_NEXT) || !desc->len ||
        desc->len % DESC_SIZE) {
        return NULL;
    }
    return ram_ptr(vq->ram, desc->addr, desc->len);
}

static int chain_walk(struct vq *vq, struct vq_chain *chain) {
    const u8 *table = vq->desc_p;
    u32 count = vq->size, index = chain->head, limit = vq->size;
    bool nested = false;
    for (u32 steps = 0; steps < limit; steps++) {
        struct vq_desc desc = desc_fetch(table, index);
        if (desc.flags & DESC_INDIRECT) {
            table = indirect_table(vq, &desc, nested);
            if (!table) {
                return broken(vq, "a bad indirect descriptor");
            }
            nested = true;
            count = desc.len / DESC_SIZE;
            index = 0;
            limit = steps + 1 + VQ_SEGS_MAX; /* drivers may go beyond the queue size here */
            continue;
        }
        int error = chain_add(vq, chain, &desc);
        if (error || !(desc.flags & DESC_NEXT)) {
            return error;
        }
        index = desc.next;
        if (index >= count) {
            return broken(vq, "a descriptor links outside its table");
        }
    }
    return broken(vq, "a descriptor chain loops or is too long");
}

/* Takes the next head from avail. 1, 0 or negative. */
static int next_head(struct vq *vq, u16 *head) {
    u16 pending = (u16)(load16(vq->avail_p + RING_IDX) - vq->last_avail);
    if (!pending) {
        return 0;
    }
    if (pending > vq->size) {
        return broken(vq, "the available index ran away");
    }
    *head = load16(vq->avail_p + RING_FIRST + slot_of(vq, vq->last_avail) * 2u);
    if (*head >= vq->size) {
        return broken(vq, "an available entry is outside the descriptor table");
    }
    if (bit_get(vq->inflight, *head)) {
        return broken(vq, "a chain was made available twice");
    }
    vq->last_avail++;
    return 1;
}

int vq_pop(struct vq *vq, struct vq_chain *chain) {
    if (!vq->enabled) {
        return 0;
    }
    if (vq->broken) {
        return -ERR_FORMAT;
    }
    u32 redo = bit_first(vq->redo);
    chain->redone = redo < VQ_SIZE_MAX;
    if (chain->redone) {
        chain->head = (u16)redo;
        bit_clear(vq->redo, redo);
    } else {
        int got = next_head(vq, &chain->head);
        if (got <= 0) {
            return got;
        }
    }
    chain->out_count = chain->in_count = 0;
    chain->out_len = chain->in_len = 0;
    int error = chain_walk(vq, chain);
    if (error) {
        return error;
    }
    bit_set(vq->inflight, chain->head);
    vq->inflight_count++;
    return 1;
}

void vq_unpop(struct vq *vq, u16 head, bool redone) {
    bit_clear(vq->inflight, head);
    vq->inflight_count--;
    if (redone) {
        bit_set(vq->redo, head);
    } else {
        vq->last_avail--;
    }
}

bool vq_has_work(struct vq *vq) {
    if (!vq->enabled || vq->broken) {
        return false;
    }
    return bit_first(vq->redo) < VQ_SIZE_MAX || load16(vq->avail_p + RING_IDX) != vq->last_avail;
}

/* --- used ring -------------------------------------------------------------------------------- */

void vq_push_at(struct vq *vq, u16 index, u16 head, u32 written) {
    if (!vq->enabled || vq->broken || head >= vq->size || !bit_get(vq->inflight, head)) {
        return;
    }
    u32 at = RING_FIRST + slot_of(vq, (u16)(vq->used_idx + index)) * (u32)USED_ELEM;
    u32 elem[2] = {head, written};
    bit_clear(vq->inflight, head);
    vq->inflight_count--;
    memcpy(vq->used_p + at, elem, sizeof(elem));
    ram_written(vq->ram, vq->used + at, sizeof(elem));
}

void vq_publish(struct vq *vq, u16 count) {
    if (vq->enabled && !vq->broken) {
        vq->used_idx = (u16)(vq->used_idx + count);
        store16(vq, vq->used_p + RING_IDX, vq->used + RING_IDX, vq->used_idx);
    }
}

void vq_push(struct vq *vq, u16 head, u32 written) {
    if (head < VQ_SIZE_MAX && bit_get(vq->inflight, head)) {
        vq_push_at(vq, 0, head, written);
        vq_publish(vq, 1);
    }
}

bool vq_should_interrupt(struct vq *vq) {
    if (!vq->enabled || vq->broken) {
        return false;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* used idx before reading what the driver wants */
    if (!vq->event_idx) {
        return !(load16(vq->avail_p + RING_FLAGS) & AVAIL_NO_INTERRUPT);
    }
    u16 event = load16(vq->avail_p + RING_FIRST + vq->size * 2u);
    u16 old = vq->signalled, new = vq->used_idx;
    bool first = !vq->signalled_valid;
    vq->signalled = new;
    vq->signalled_valid = true;
    return first || (u16)(new - event - 1) < (u16)(new - old);
}

void vq_notify_off(struct vq *vq) {
    if (vq->enabled && !vq->broken && !vq->event_idx) {
        store16(vq, vq->used_p + RING_FLAGS, vq->used + RING_FLAGS, USED_NO_NOTIFY);
    }
}

bool vq_notify_on(struct vq *vq) {
    if (!vq->enabled || vq->broken) {
        return false;
    }
    if (vq->event_idx) {
        u32 at = RING_FIRST + vq->size * (u32)USED_ELEM;
        store16(vq, vq->used_p + at, vq->used + at, vq->last_avail);
    } else {
        store16(vq, vq->used_p + RING_FLAGS, vq->used + RING_FLAGS, 0);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* our wish before looking for late buffers */
    return vq_has_work(vq);
}

/* --- the bytes of a chain --------------------------------------------------------------------- */

/* Calls for each piece of [offset, offset+length) of segments first..first+count-1. */
struct slice {
    u32 segment; /* index into iov and gpa */
    size_t from, len;
};

static bool slice_next(const struct vq_chain *chain, u32 end, u64 *offset, u64 *left,
                       struct slice *s) {
    for (; s->segment < end && *left; s->segment++) {
        size_t len = chain->iov[s->segment].len;
        if (*offset < len) {
            s->from = (size_t)*offset;
            s->len = (size_t)MIN(*left, len - *offset);
            *offset = 0;
            *left -= s->len;
            return true;
        }
        *offset -= len;
    }
    return false;
}

size_t vq_chain_read(const struct vq_chain *chain, u64 offset, void *buf, size_t size) {
    struct slice s = {0};
    u64 left = size;
    size_t done = 0;
    while (slice_next(chain, chain->out_count, &offset, &left, &s)) {
        memcpy((u8 *)buf + done, (u8 *)chain->iov[s.segment].base + s.from, s.len);
        done += s.len;
        s.segment++;
    }
    __asm__ volatile("" : : "r"(buf) : "memory"); /* buf is a copy, also for the compiler */
    return done;
}

size_t vq_chain_write(struct ram *ram, const struct vq_chain *chain, u64 offset, const void *buf,
                      size_t size) {
    struct slice s = {.segment = chain->out_count};
    u32 end = chain->out_count + (u32)chain->in_count;
    u64 left = size;
    size_t done = 0;
    while (slice_next(chain, end, &offset, &left, &s)) {
        memcpy((u8 *)chain->iov[s.segment].base + s.from, (const u8 *)buf + done, s.len);
        ram_written(ram, chain->gpa[s.segment] + s.from, s.len);
        done += s.len;
        s.segment++;
    }
    return done;
}

static u32 chain_slice(const struct vq_chain *chain, u32 first, u32 end, u64 offset, u64 length,
                       struct iov *dst, u64 *gpa) {
    struct slice s = {.segment = first};
    u32 n = 0;
    while (slice_next(chain, end, &offset, &length, &s)) {
        dst[n] = (struct iov){(u8 *)chain->iov[s.segment].base + s.from, s.len};
        if (gpa) {
            gpa[n] = chain->gpa[s.segment] + s.from;
        }
        n++;
        s.segment++;
    }
    return n;
}

u32 vq_chain_out(const struct vq_chain *chain, u64 offset, u64 length, struct iov *dst) {
    return chain_slice(chain, 0, chain->out_count, offset, length, dst, NULL);
}

u32 vq_chain_in(const struct vq_chain *chain, u64 offset, u64 length, struct iov *dst, u64 *gpa) {
    return chain_slice(chain, chain->out_count, chain->out_count + (u32)chain->in_count, offset,
                       length, dst, gpa);
}

void vq_chain_written(struct ram *ram, const struct vq_chain *chain, u64 length) {
    struct slice s = {.segment = chain->out_count};
    u64 offset = 0;
    while (slice_next(chain, chain->out_count + (u32)chain->in_count, &offset, &length, &s)) {
        ram_written(ram, chain->gpa[s.segment] + s.from, s.len);
        s.segment++;
    }
}

/* --- saving ----------------------------------------------------------------------------------- */

void vq_save(const struct vq *vq, struct snap_writer *w) {
    snap_put16(w, vq->size);
    snap_put8(w, vq->enabled);
    snap_put64(w, vq->desc);
    snap_put64(w, vq->avail);
    snap_put64(w, vq->used);
    snap_put8(w, vq->event_idx);
    snap_put8(w, vq->indirect);
    snap_put8(w, vq->broken);
    snap_put16(w, vq->last_avail);
    snap_put16(w, vq->used_idx);
    snap_put16(w, vq->signalled);
    snap_put8(w, vq->signalled_valid);
    for (u32 i = 0; i < VQ_SIZE_MAX / 64; i++) {
        snap_put64(w, vq->inflight[i] | vq->redo[i]);
    }
}

int vq_load(struct vq *vq, struct snap_reader *r) {
    vq_reset(vq);
    vq->size = snap_get16(r);
    bool enabled = snap_get_bool(r);
    vq->desc = snap_get64(r);
    vq->avail = snap_get64(r);
    vq->used = snap_get64(r);
    vq->event_idx = snap_get_bool(r);
    vq->indirect = snap_get_bool(r);
    bool was_broken = snap_get_bool(r);
    vq->last_avail = snap_get16(r);
    vq->used_idx = snap_get16(r);
    vq->signalled = snap_get16(r);
    vq->signalled_valid = snap_get_bool(r);
    for (u32 i = 0; i < VQ_SIZE_MAX / 64; i++) {
        vq->redo[i] = snap_get64(r);
    }
    for (u32 i = vq->size; i < VQ_SIZE_MAX; i++) {
        r->failed = r->failed || bit_get(vq->redo, i);
    }
    if (r->failed || vq->size > vq->size_max) {
        vq_reset(vq);
        return -ERR_FORMAT;
    }
    if (enabled) {
        vq_enable(vq);
    }
    if (was_broken && !vq->broken) {
        broken(vq, "was broken when it was saved");
    }
    return 0;
}
