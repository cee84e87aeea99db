/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio memory balloon: virtio 1.2, section 5.5; see balloon.h.
 *
 *   inflateq   page numbers: the memory behind them goes back to the host (ram_discard)
 *   deflateq   page numbers: nothing to do, the next access brings a fresh page
 *   statsq     one buffer goes to and fro: the guest's with statistics, ours to ask for new ones
 *   free_page  command numbers, and free pages as writable buffers (5.5.6.7)
 *   reporting  free pages as writable buffers (5.5.6.9)
 *
 * Queues that a driver did not negotiate have no number of their own with Linux, and keep it with
 * others (5.5.2); queues_number looks which of both this driver does. Left out:
 * VIRTIO_BALLOON_F_PAGE_POISON (so drivers that need pages to keep a pattern do not report), and
 * MUST_TELL_HOST, which changes nothing for us. Lock rule: board lock held but where said.
 */
#include "core/virtio/balloon.h"

#include "core/base/err.h"

#define BALLOON_F_STATS_VQ       BIT(1)
#define BALLOON_F_DEFLATE_ON_OOM BIT(2)
#define BALLOON_F_FREE_PAGE_HINT BIT(3)
#define BALLOON_F_REPORTING      BIT(5)

enum role { ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_HINT, ROLE_REPORT, ROLES, ROLE_NONE };

enum {
    BALLOON_QUEUE_SIZE = 128,
    PFN_SHIFT = 12,    /* of the protocol: whatever the guest's page size */
    PFN_BATCH = 256,   /* sorted and merged together; Linux sends so many */
    PFN_MAX = 4096,    /* of one chain; the rest stays with the guest */
    RUN_CHAINS = 16,   /* in one go, with the board lock held */
    STAT_SIZE = 10,    /* tag u16, value u64 */
    STATS_PARSED = 64, /* of one buffer */
    CMD_STOP = 0,
    CMD_DONE = 1,
    CMD_FIRST = 2,
};

struct balloon_config { /* 5.5.4 */
    u32 num_pages, actual;
    u32 free_page_hint_cmd_id;
    u32 poison_val;
};
_Static_assert(sizeof(struct balloon_config) == 16, "struct virtio_balloon_config");

struct virtio_balloon {
    struct virtio_device vdev;
    struct balloon_opts opts;
    struct host_timer *timer; /* asks for statistics; runs without the lock */
    u8 role[ROLES];           /* of queue number n: enum role */
    bool stats_held;          /* the statistics buffer is ours */
    u16 stats_head;
    struct balloon_stats stats; /* all but target, actual and interval */
    u32 last_cmd;               /* of hinting, ever given out */
    bool acknowledge;
    struct balloon_hinting hint;
    u32 pfn[PFN_BATCH];
    struct vq_chain chain;
};

static struct virtio_balloon *balloon_of(struct virtio_device *vdev) {
    return CONTAINER_OF(vdev, struct virtio_balloon, vdev);
}

static void lock(struct virtio_device *vdev) {
    mutex_lock(vdev->env->host, vdev->env->lock);
}

static void unlock(struct virtio_device *vdev) {
    mutex_unlock(vdev->env->host, vdev->env->lock);
}

static struct balloon_config config_of(const struct virtio_device *vdev) {
    struct balloon_config config;
    memcpy(&config, vdev->config, sizeof(config));
    return config;
}

static void config_set32(struct virtio_device *vdev, u32 offset, u32 value) {
    virtio_set_config(vdev, offset, &value, sizeof(value));
    virtio_config_changed(vdev);
}

/* --- pages to the host ------------------------------------------------------------------------ */

/* The whole pages of a range that the guest does not use. */
static u64 give_back(struct virtio_balloon *b, u64 gpa, u64 size) {
    struct device_env *env = b->vdev.env;
    u64 first = ALIGN_UP(gpa, PAGE_SIZE), end = ALIGN_DOWN(gpa + size, PAGE_SIZE);
    if (first < gpa || end <= first || ram_discard(env->ram, env->host, first, end - first)) {
        return 0;
    }
    return end - first;
}

/* Shell's sort: in place, without recursion, and quick enough for a batch in the worst order. */
static void sort(u32 *v, u32 n) {
    static const u8 gaps[] = {132, 57, 23, 10, 4, 1};
    for (u32 g = 0; g < sizeof(gaps); g++) {
        u32 gap = gaps[g];
        for (u32 i = gap; i < n; i++) {
            u32 x = v[i], at = i;
            for (; at >= gap && v[at - gap] > x; at -= gap) {
                v[at] = v[at - gap];
            }
            v[at] = x;
        }
    }
}

/* One call to the host for each run of neighbours. */
static void inflate_batch(struct virtio_balloon *b, u32 n) {
    sort(b->pfn, n);
    for (u32 i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && b->pfn[end] - b->pfn[end - 1] <= 1) {
            end++;
        }
        u64 pages = (u64)b->pfn[end - 1] - b->pfn[i] + 1;
        u64 done = give_back(b, (u64)b->pfn[i] << PFN_SHIFT, pages << PFN_SHIFT);
        b->stats.inflated_pages += done >> PFN_SHIFT;
    }
}

static void inflate(struct virtio_balloon *b) {
    u64 total = MIN(b->chain.out_len / sizeof(u32), (u64)PFN_MAX);
    for (u64 at = 0; at < total; at += PFN_BATCH) {
        u32 n = (u32)MIN(total - at, (u64)PFN_BATCH);
        vq_chain_read(&b->chain, at * sizeof(u32), b->pfn, n * sizeof(u32));
        inflate_batch(b, n);
    }
}

/* Free pages are the writable part of a chain. */
static u64 give_back_chain(struct virtio_balloon *b) {
    u32 first = b->chain.out_count, end = first + b->chain.in_count;
    u64 bytes = 0;
    for (u32 i = first; i < end; i++) {
        bytes += give_back(b, b->chain.gpa[i], b->chain.iov[i].len);
    }
    return bytes;
}

/* --- statistics ------------------------------------------------------------------------------- */

static void stats_parse(struct virtio_balloon *b) {
    u64 count = MIN(b->chain.out_len / STAT_SIZE, (u64)STATS_PARSED);
    b->stats.present = 0;
    for (u64 i = 0; i < count; i++) {
        u8 raw[STAT_SIZE];
        u16 tag;
        vq_chain_read(&b->chain, i * STAT_SIZE, raw, sizeof(raw));
        memcpy(&tag, raw, sizeof(tag));
        if (tag < BALLOON_STATS) {
            memcpy(&b->stats.value[tag], raw + sizeof(tag), sizeof(u64));
            b->stats.present |= (u32)BIT(tag);
        }
    }
    b->stats.updates++;
    b->stats.updated_ns = host_now(b->vdev.env->host);
}

/* The first buffer of a driver is empty or stale; later ones answer a question. A second one at the
 * same time is not foreseen (5.5.6.3.1) and goes back. */
static void stats_take(struct virtio_balloon *b, u32 queue) {
    if (b->stats_held) {
        virtio_push(&b->vdev, queue, b->stats_head, 0);
        virtio_signal(&b->vdev, queue);
    }
    stats_parse(b);
    b->stats_held = true;
    b->stats_head = b->chain.head;
}

static u32 queue_of(const struct virtio_balloon *b, enum role role) {
    u32 queue = 0;
    while (queue < ROLES && b->role[queue] != role) {
        queue++;
    }
    return queue;
}

static void stats_arm(struct virtio_balloon *b) {
    struct host *host = b->vdev.env->host;
    if (b->opts.stats_seconds && queue_of(b, ROLE_STATS) < ROLES) {
        u64 deadline = host_now(host) + b->opts.stats_seconds * NSEC_PER_SEC;
        host->ops->timer_arm(host, b->timer, deadline);
    }
}

/* Giving the buffer back asks for new statistics. */
static void stats_tick(void *ctx) {
    struct virtio_balloon *b = ctx;
    struct virtio_device *vdev = &b->vdev;
    lock(vdev);
    u32 queue = queue_of(b, ROLE_STATS);
    if (b->stats_held && virtio_queue_ready(vdev, queue)) {
        b->stats_held = false;
        virtio_push(vdev, queue, b->stats_head, 0);
        virtio_signal(vdev, queue);
    }
    stats_arm(b);
    unlock(vdev);
}

/* --- free page hinting ------------------------------------------------------------------------ */

static void hint_command(struct virtio_balloon *b, u32 cmd) {
    b->hint.host_cmd = cmd;
    config_set32(&b->vdev, offsetof(struct balloon_config, free_page_hint_cmd_id), cmd);
}

/* A readable part is the number of the run that begins, or STOP: the guest has no more. Pages of an
 * older run are the guest's again. */
static void hint(struct virtio_balloon *b) {
    u32 cmd;
    if (vq_chain_read(&b->chain, 0, &cmd, sizeof(cmd)) == sizeof(cmd)) {
        b->hint.guest_known = true;
        b->hint.guest_cmd = cmd;
        if (cmd == CMD_STOP && b->acknowledge && b->hint.host_cmd >= CMD_FIRST) {
            hint_command(b, CMD_DONE);
        }
    }
    if (b->hint.host_cmd >= CMD_FIRST && b->hint.guest_cmd == b->hint.host_cmd) {
        b->stats.hinted_bytes += give_back_chain(b);
    }
}

/* --- queues ----------------------------------------------------------------------------------- */

static u32 negotiated(const struct virtio_device *vdev, u8 *roles) {
    static const struct {
        u64 feature;
        u8 role;
    } optional[] = {{BALLOON_F_STATS_VQ, ROLE_STATS},
                    {BALLOON_F_FREE_PAGE_HINT, ROLE_HINT},
                    {BALLOON_F_REPORTING, ROLE_REPORT}};
    u32 n = 0;
    roles[n++] = ROLE_INFLATE;
    roles[n++] = ROLE_DEFLATE;
    for (u32 i = 0; i < ARRAY_LEN(optional); i++) {
        if (vdev->features & optional[i].feature) {
            roles[n++] = optional[i].role;
        }
    }
    return n;
}

/* Linux gives the queues that it uses consecutive numbers; a driver that goes by the specification
 * leaves those of the others out. A queue that stands beyond the consecutive ones tells. */
static void queues_number(struct virtio_balloon *b) {
    u8 roles[ROLES];
    u32 n = negotiated(&b->vdev, roles), beyond = 0;
    memset(b->role, ROLE_NONE, sizeof(b->role));
    for (u32 q = n; q < ROLES; q++) {
        beyond += b->vdev.queue[q].vq.enabled;
    }
    for (u32 i = 0; i < n; i++) {
        b->role[beyond ? roles[i] : i] = roles[i];
    }
}

static void balloon_chain(struct virtio_balloon *b, u32 queue) {
    switch (b->role[queue]) {
    case ROLE_INFLATE:
        inflate(b);
        break;
    case ROLE_STATS:
        stats_take(b, queue);
        return; /* the buffer is kept */
    case ROLE_HINT:
        hint(b);
        break;
    case ROLE_REPORT:
        b->stats.reported_bytes += give_back_chain(b);
        break;
    default:
        break;
    }
    virtio_push(&b->vdev, queue, b->chain.head, 0);
}

static bool balloon_queue_run(struct virtio_device *vdev, u32 queue) {
    struct virtio_balloon *b = balloon_of(vdev);
    struct vq *vq = &vdev->queue[queue].vq;
    u32 done = 0;
    int got = 1;
    vq_notify_off(vq);
    while (done < RUN_CHAINS && (got = virtio_pop(vdev, queue, &b->chain)) > 0) {
        balloon_chain(b, queue);
        done++;
    }
    if (done) {
        virtio_signal(vdev, queue);
    }
    return got > 0 || (got == 0 && vq_notify_on(vq));
}

/* --- what the control side calls, without the lock -------------------------------------------- */

static u32 ram_mib(const struct virtio_device *vdev) {
    return (u32)MIN(ram_page_count(vdev->env->ram) >> (20 - PAGE_SHIFT), (u64)UINT32_MAX >> 8);
}

int balloon_set_target(struct virtio_device *vdev, u32 mib) {
    if (mib > ram_mib(vdev)) {
        return -ERR_RANGE;
    }
    lock(vdev);
    config_set32(vdev, offsetof(struct balloon_config, num_pages), mib << (20 - PFN_SHIFT));
    unlock(vdev);
    return 0;
}

void balloon_stats_get(struct virtio_device *vdev, struct balloon_stats *out) {
    struct virtio_balloon *b = balloon_of(vdev);
    lock(vdev);
    struct balloon_config config = config_of(vdev);
    *out = b->stats;
    out->target_pages = config.num_pages;
    out->actual_pages = config.actual;
    out->target_mib = config.num_pages >> (20 - PFN_SHIFT);
    out->actual_mib = config.actual >> (20 - PFN_SHIFT);
    out->interval = b->opts.stats_seconds;
    unlock(vdev);
}

int balloon_set_interval(struct virtio_device *vdev, u32 seconds) {
    struct virtio_balloon *b = balloon_of(vdev);
    if (seconds > BALLOON_STATS_INTERVAL_MAX) {
        return -ERR_RANGE;
    }
    lock(vdev);
    int rc = !seconds == !b->opts.stats_seconds ? 0 : -ERR_STATE;
    if (!rc) {
        b->opts.stats_seconds = seconds;
        stats_arm(b);
    }
    unlock(vdev);
    return rc;
}

static bool hint_ready(const struct virtio_device *vdev) {
    return (vdev->status & VIRTIO_STATUS_DRIVER_OK) && (vdev->features & BALLOON_F_FREE_PAGE_HINT);
}

int balloon_hinting_start(struct virtio_device *vdev, bool acknowledge) {
    struct virtio_balloon *b = balloon_of(vdev);
    lock(vdev);
    int rc = hint_ready(vdev) ? 0 : -ERR_STATE;
    if (!rc) {
        b->last_cmd =
            b->last_cmd < CMD_FIRST || b->last_cmd == UINT32_MAX ? CMD_FIRST : b->last_cmd + 1;
        b->acknowledge = acknowledge;
        hint_command(b, b->last_cmd);
    }
    unlock(vdev);
    return rc;
}

int balloon_hinting_stop(struct virtio_device *vdev) {
    lock(vdev);
    int rc = hint_ready(vdev) ? 0 : -ERR_STATE;
    if (!rc) {
        hint_command(balloon_of(vdev), CMD_DONE);
    }
    unlock(vdev);
    return rc;
}

int balloon_hinting_get(struct virtio_device *vdev, struct balloon_hinting *out) {
    lock(vdev);
    int rc = hint_ready(vdev) ? 0 : -ERR_STATE;
    *out = balloon_of(vdev)->hint;
    unlock(vdev);
    return rc;
}

/* --- life ------------------------------------------------------------------------------------- */

static void balloon_config_write(struct virtio_device *vdev, u32 offset, u32 size, u32 value) {
    u32 actual = offsetof(struct balloon_config, actual);
    if (offset >= actual && size <= sizeof(u32) && offset - actual <= sizeof(u32) - size) {
        virtio_set_config(vdev, offset, &value, size); /* the guest's own: no notification */
    }
}

static void balloon_start(struct virtio_device *vdev) {
    struct virtio_balloon *b = balloon_of(vdev);
    queues_number(b);
    stats_arm(b);
}

static void balloon_reset(struct virtio_device *vdev) {
    struct virtio_balloon *b = balloon_of(vdev);
    struct host *host = vdev->env->host;
    u32 zero = 0;
    host->ops->timer_cancel(host, b->timer);
    memset(b->role, ROLE_NONE, sizeof(b->role));
    b->stats_held = false;
    b->stats.present = 0;
    b->hint = (struct balloon_hinting){.host_cmd = CMD_STOP};
    b->acknowledge = false;
    /* whoever comes next begins with an empty balloon */
    virtio_set_config(vdev, offsetof(struct balloon_config, actual), &zero, sizeof(zero));
    virtio_set_config(vdev, offsetof(struct balloon_config, free_page_hint_cmd_id), &zero,
                      sizeof(zero));
}

static void balloon_save(struct virtio_device *vdev, struct snap_writer *w) {
    struct virtio_balloon *b = balloon_of(vdev);
    snap_put32(w, b->opts.stats_seconds);
    snap_put32(w, b->last_cmd);
    snap_put32(w, b->hint.guest_cmd);
    snap_put8(w, b->hint.guest_known);
    snap_put8(w, b->acknowledge);
    snap_put32(w, b->stats.present);
    for (u32 i = 0; i < BALLOON_STATS; i++) {
        snap_put64(w, b->stats.value[i]);
    }
}

/* The statistics buffer comes again, as a chain that was in flight. */
static int balloon_load(struct virtio_device *vdev, struct snap_reader *r, u32 version UNUSED) {
    struct virtio_balloon *b = balloon_of(vdev);
    u32 seconds = snap_get32(r);
    b->last_cmd = snap_get32(r);
    b->hint.guest_cmd = snap_get32(r);
    b->hint.guest_known = snap_get_bool(r);
    b->acknowledge = snap_get_bool(r);
    b->hint.host_cmd = config_of(vdev).free_page_hint_cmd_id;
    b->stats.present = snap_get32(r) & (u32)(BIT(BALLOON_STATS) - 1);
    for (u32 i = 0; i < BALLOON_STATS; i++) {
        b->stats.value[i] = snap_get64(r);
    }
    if (snap_finish(r) || seconds > BALLOON_STATS_INTERVAL_MAX ||
        !seconds != !b->opts.stats_seconds) {
        return -ERR_FORMAT;
    }
    b->opts.stats_seconds = seconds;
    return 0;
}

static void balloon_destroy(struct virtio_device *vdev) {
    struct virtio_balloon *b = balloon_of(vdev);
    struct host *host = vdev->env->host;
    if (b->timer) {
        host->ops->timer_destroy(host, b->timer);
    }
    virtio_fini(vdev);
    host_free(host, b, sizeof(*b));
}

static const struct virtio_ops balloon_ops = {
    .name = "virtio-balloon",
    .device_id = VIRTIO_ID_BALLOON,
    .tag = SNAP_TAG('V', 'B', 'A', 'L'),
    .version = 1,
    .config_write = balloon_config_write,
    .queue_run = balloon_queue_run,
    .start = balloon_start,
    .reset = balloon_reset,
    .save = balloon_save,
    .load = balloon_load,
    .destroy = balloon_destroy,
};

static u64 features_of(const struct balloon_opts *o) {
    return (o->stats_seconds ? BALLOON_F_STATS_VQ : 0) |
           (o->deflate_on_oom ? BALLOON_F_DEFLATE_ON_OOM : 0) |
           (o->hinting ? BALLOON_F_FREE_PAGE_HINT : 0) | (o->reporting ? BALLOON_F_REPORTING : 0);
}

struct virtio_device *virtio_balloon_create(struct device_env *env, const struct balloon_opts *opts,
                                            struct err *err) {
    struct virtio_balloon *b = host_alloc(env->host, sizeof(*b));
    struct host_timer *timer = b ? env->host->ops->timer_create(env->host, stats_tick, b) : NULL;
    if (!timer) {
        host_free(env->host, b, sizeof(*b));
        ERR_SET(err, ERR_NOMEM, "virtio-balloon: out of memory");
        return NULL;
    }
    b->timer = timer;
    b->opts = *opts;
    memset(b->role, ROLE_NONE, sizeof(b->role));
    int rc = virtio_init(&b->vdev, env, &balloon_ops, features_of(opts), ROLES, BALLOON_QUEUE_SIZE,
                         sizeof(struct balloon_config), err);
    if (!rc && opts->stats_seconds > BALLOON_STATS_INTERVAL_MAX) {
        rc = ERR_SET(err, ERR_INVAL, "balloon: statistics every %u seconds: at most %u",
                     opts->stats_seconds, BALLOON_STATS_INTERVAL_MAX);
    }
    if (!rc && balloon_set_target(&b->vdev, opts->target_mib)) {
        rc = ERR_SET(err, ERR_INVAL, "balloon: a target of %u MiB: the machine has %u MiB",
                     opts->target_mib, ram_mib(&b->vdev));
    }
    if (rc) {
        balloon_destroy(&b->vdev);
        return NULL;
    }
    return &b->vdev;
}
