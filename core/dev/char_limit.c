/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Output of a serial port at a bounded rate, so that a guest cannot fill the host's disk as fast as
 * it likes: with the meaning of Firecracker's rate_limiter of /serial, bytes beyond the bucket are
 * dropped, not delayed. Input passes as it is. Lock rule: write comes with the board lock held.
 */
#include "core/dev/char_limit.h"

struct char_limit {
    struct char_backend be;
    struct char_backend *lower;
    struct host *host;
    struct token_bucket bucket;
    u64 dropped;
};

static struct char_limit *limit_of(struct char_backend *be) {
    return CONTAINER_OF(be, struct char_limit, be);
}

static size_t limit_write(struct char_backend *be, const u8 *data, size_t len) {
    struct char_limit *l = limit_of(be);
    if (token_bucket_wait(&l->bucket, len, host_now(l->host))) {
        __atomic_fetch_add(&l->dropped, len, __ATOMIC_RELAXED);
        return len;
    }
    size_t n = l->lower->ops->write(l->lower, data, len);
    token_bucket_spend(&l->bucket, n);
    return n;
}

static void limit_rx_ready(struct char_backend *be) {
    struct char_limit *l = limit_of(be);
    l->lower->ops->rx_ready(l->lower);
}

static void limit_close(struct char_backend *be) {
    struct char_limit *l = limit_of(be);
    l->lower->receive = NULL;
    l->lower->writable = NULL;
    host_free(l->host, l, sizeof(*l));
}

static const struct char_backend_ops limit_ops = {
    .write = limit_write,
    .rx_ready = limit_rx_ready,
    .close = limit_close,
};

static size_t lower_receive(void *device, const u8 *data, size_t len) {
    struct char_limit *l = device;
    return l->be.receive ? l->be.receive(l->be.device, data, len) : len;
}

static void lower_writable(void *device) {
    struct char_limit *l = device;
    if (l->be.writable) {
        l->be.writable(l->be.device);
    }
}

int char_limit_create(struct host *host, struct char_backend *lower,
                      const struct token_bucket_config *limit, struct char_backend **out,
                      struct err *err) {
    struct char_limit *l = host_alloc(host, sizeof(*l));
    if (!l) {
        return ERR_SET(err, ERR_NOMEM, "rate limit of a serial port: out of memory");
    }
    l->be.ops = &limit_ops;
    l->lower = lower;
    l->host = host;
    token_bucket_init(&l->bucket, limit, host_now(host));
    lower->device = l;
    lower->receive = lower_receive;
    lower->writable = lower_writable;
    *out = &l->be;
    return 0;
}

u64 char_limit_dropped(struct char_backend *be) {
    return __atomic_load_n(&limit_of(be)->dropped, __ATOMIC_RELAXED);
}
