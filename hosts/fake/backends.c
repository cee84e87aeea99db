/* SPDX-License-Identifier: Apache-2.0 */
/* Disk, character stream and network of the fake host; see fake.h. */
#include <stdlib.h>
#include <string.h>

#include "core/base/err.h"
#include "hosts/fake/fake.h"

/* --- disk
 * ------------------------------------------------------------------------------------------ */

static struct fake_disk *disk_of(struct block_backend *be) {
    return CONTAINER_OF(be, struct fake_disk, be);
}

static void disk_submit(struct block_backend *be, struct block_req *req) {
    struct fake_disk *d = disk_of(be);
    if (d->queued == ARRAY_LEN(d->queue)) {
        abort(); /* the device promised to bound what is in flight */
    }
    d->queue[d->queued++] = req;
}

static void disk_copy(struct fake_disk *d, const struct block_req *req) {
    u64 at = req->offset;
    for (u32 i = 0; i < req->iov_count; i++) {
        if (req->op == BLOCK_READ) {
            memcpy(req->iov[i].base, d->data + at, req->iov[i].len);
        } else {
            memcpy(d->data + at, req->iov[i].base, req->iov[i].len);
        }
        at += req->iov[i].len;
    }
}

static int disk_execute(struct fake_disk *d, const struct block_req *req) {
    if (req->op == BLOCK_FLUSH) {
        d->flushes++;
        return 0;
    }
    if (req->offset > d->be.capacity || req->length > d->be.capacity - req->offset) {
        return -ERR_RANGE;
    }
    if (req->op == BLOCK_READ || req->op == BLOCK_WRITE) {
        *(req->op == BLOCK_READ ? &d->reads : &d->writes) += 1;
        disk_copy(d, req);
    } else {
        memset(d->data + req->offset, 0, req->length);
    }
    return 0;
}

u32 fake_disk_complete(struct fake_disk *d) {
    u32 count = d->queued;
    for (u32 i = 0; i < count; i++) {
        struct block_req *req = d->queue[0];
        memmove(d->queue, d->queue + 1, (--d->queued) * sizeof(d->queue[0]));
        int status = d->fail_next ? d->fail_next : disk_execute(d, req);
        d->fail_next = 0;
        req->done(req, status);
    }
    return count;
}

static void disk_drain(struct block_backend *be) {
    while (disk_of(be)->queued) {
        fake_disk_complete(disk_of(be));
    }
}

static void disk_close(struct block_backend *be) {
    (void)be; /* the test destroys it */
}

static const struct block_backend_ops disk_ops = {
    .submit = disk_submit, .drain = disk_drain, .close = disk_close};

struct fake_disk *fake_disk_create(struct fake_host *fake, u64 size) {
    struct fake_disk *d = calloc(1, sizeof(*d));
    u8 *data = calloc(1, size);
    if (!d || !data) {
        abort();
    }
    d->be = (struct block_backend){.ops = &disk_ops,
                                   .capacity = size,
                                   .block_size = 512,
                                   .discard = true,
                                   .write_zeroes = true};
    d->fake = fake;
    d->data = data;
    return d;
}

void fake_disk_destroy(struct fake_disk *d) {
    free(d->data);
    free(d);
}

/* --- character stream
 * -------------------------------------------------------------------------------- */

static size_t char_write(struct char_backend *be, const u8 *data, size_t len) {
    struct fake_char *c = CONTAINER_OF(be, struct fake_char, be);
    size_t n = MIN(MIN(len, c->accept), sizeof(c->out) - c->out_len);
    memcpy(c->out + c->out_len, data, n);
    c->out_len += n;
    c->accept -= c->accept == SIZE_MAX ? 0 : n;
    return n;
}

static void char_rx_ready(struct char_backend *be) {
    CONTAINER_OF(be, struct fake_char, be)->rx_ready_calls++;
}

static void char_close(struct char_backend *be) {
    (void)be;
}

static const struct char_backend_ops char_ops = {
    .write = char_write, .rx_ready = char_rx_ready, .close = char_close};

struct fake_char *fake_char_create(void) {
    struct fake_char *c = calloc(1, sizeof(*c));
    if (!c) {
        abort();
    }
    c->be.ops = &char_ops;
    c->accept = SIZE_MAX;
    return c;
}

size_t fake_char_input(struct fake_char *c, const void *data, size_t len) {
    return c->be.receive ? c->be.receive(c->be.device, data, len) : 0;
}

void fake_char_destroy(struct fake_char *c) {
    free(c);
}

/* --- network
 * ----------------------------------------------------------------------------------------- */

static int net_send(struct net_backend *be, const struct iov *iov, u32 count) {
    struct fake_net *n = CONTAINER_OF(be, struct fake_net, be);
    if (n->full || n->frames == ARRAY_LEN(n->frame)) {
        return -ERR_AGAIN;
    }
    size_t len = 0;
    for (u32 i = 0; i < count; i++) {
        size_t take = MIN(iov[i].len, sizeof(n->frame[0]) - len);
        memcpy(n->frame[n->frames] + len, iov[i].base, take);
        len += take;
    }
    n->frame_len[n->frames++] = len;
    return 0;
}

static void net_rx_ready(struct net_backend *be) {
    CONTAINER_OF(be, struct fake_net, be)->rx_ready_calls++;
}

static void net_close(struct net_backend *be) {
    (void)be;
}

static const struct net_backend_ops net_ops = {
    .send = net_send, .rx_ready = net_rx_ready, .close = net_close};

struct fake_net *fake_net_create(bool vnet_hdr, u64 offloads) {
    struct fake_net *n = calloc(1, sizeof(*n));
    if (!n) {
        abort();
    }
    n->be = (struct net_backend){.ops = &net_ops, .vnet_hdr = vnet_hdr, .offloads = offloads};
    return n;
}

int fake_net_input(struct fake_net *n, const void *data, size_t len) {
    struct iov iov = {.base = (void *)(uintptr_t)data, .len = len};
    return n->be.receive ? n->be.receive(n->be.device, &iov, 1) : -ERR_AGAIN;
}

void fake_net_destroy(struct fake_net *n) {
    free(n);
}
