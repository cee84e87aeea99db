/* SPDX-License-Identifier: Apache-2.0 */
/* The Linux host as a whole: its table of operations, creation and destruction. */
#include "hosts/linux/host.h"

#include <stdlib.h>

static struct host_timer *op_timer_create(struct host *host, void (*fn)(void *ctx), void *ctx) {
    return loop_timer_create(linux_of(host)->loop, fn, ctx);
}

static void op_timer_arm(struct host *host, struct host_timer *timer, u64 deadline_ns) {
    loop_timer_arm(linux_of(host)->loop, timer, deadline_ns);
}

static void op_timer_cancel(struct host *host, struct host_timer *timer) {
    loop_timer_cancel(linux_of(host)->loop, timer);
}

static void op_timer_destroy(struct host *host, struct host_timer *timer) {
    loop_timer_destroy(linux_of(host)->loop, timer);
}

static int op_post(struct host *host, void (*fn)(void *ctx), void *ctx) {
    return loop_post(linux_of(host)->loop, fn, ctx);
}

static int op_fd_watch(struct host *host, int fd, void (*fn)(void *ctx), void *ctx) {
    return loop_watch(linux_of(host)->loop, fd, fn, ctx);
}

static void op_fd_unwatch(struct host *host, int fd) {
    loop_unwatch(linux_of(host)->loop, fd);
}

/* Core starts threads for vCPUs only. */
static struct host_thread *op_thread_start(struct host *host, const char *name,
                                           void (*fn)(void *ctx), void *ctx) {
    return linux_thread_start_fenced(linux_of(host)->fence, name, fn, ctx);
}

static const struct host_ops linux_ops = {
    .alloc = linux_alloc,
    .free = linux_free,
    .pages = linux_pages,
    .pages_free = linux_pages_free,
    .ram_alloc = linux_ram_alloc,
    .ram_free = linux_ram_free,
    .ram_discard = linux_ram_discard,
    .pages_discard = linux_pages_discard,
    .pages_join = linux_pages_join,
    .code_alloc = linux_code_alloc,
    .code_free = linux_code_free,
    .now = linux_now,
    .wall = linux_wall,
    .tsc_hz = linux_tsc_hz,
    .timer_create = op_timer_create,
    .timer_arm = op_timer_arm,
    .timer_cancel = op_timer_cancel,
    .timer_destroy = op_timer_destroy,
    .post = op_post,
    .thread_start = op_thread_start,
    .thread_join = linux_thread_join,
    .thread_kick = linux_thread_kick,
    .yield = linux_yield,
    .wait = linux_wait,
    .wake = linux_wake,
    .entropy = linux_entropy,
    .log = linux_log,
    .fault_hook = linux_fault_hook,
    .fault_unhook = linux_fault_unhook,
    .thread_fault_ctx = linux_thread_fault_ctx,
    .thread_gs = linux_thread_gs,
    .fd_watch = op_fd_watch,
    .fd_unwatch = op_fd_unwatch,
};

int linux_host_create(struct linux_host **out, struct err *err) {
    struct linux_host *lh = calloc(1, sizeof(*lh));
    if (!lh) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    lh->host.ops = &linux_ops;
    lh->log_level = LOG_WARN;
    if (loop_create(&lh->loop)) {
        free(lh);
        return ERR_SET(err, ERR_IO, "cannot create the event loop: too many open files?");
    }
    lh->fence = fence_create();
    lh->pool = pool_create(lh);
    if (!lh->pool || !lh->fence) {
        linux_host_destroy(lh);
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    lh->main_stack = linux_fault_stack_enter();
    *out = lh;
    return 0;
}

void linux_host_destroy(struct linux_host *lh) {
    if (lh) {
        pool_destroy(lh->pool);
        loop_destroy(lh->loop);
        fence_destroy(lh->fence);
        linux_fault_stack_leave(lh->main_stack);
        free(lh);
    }
}

struct host *linux_host_host(struct linux_host *lh) {
    return &lh->host;
}

void linux_host_run(struct linux_host *lh) {
    loop_run(lh->loop);
}

void linux_host_quit(struct linux_host *lh) {
    loop_quit(lh->loop);
}

int linux_fd_watch(struct linux_host *lh, int fd, void (*fn)(void *ctx), void *ctx) {
    return loop_watch(lh->loop, fd, fn, ctx);
}

void linux_fd_unwatch(struct linux_host *lh, int fd) {
    loop_unwatch(lh->loop, fd);
}

int linux_post(struct linux_host *lh, void (*fn)(void *ctx), void *ctx) {
    return loop_post(lh->loop, fn, ctx);
}

void linux_post_forget(struct linux_host *lh, const void *ctx) {
    loop_forget(lh->loop, ctx);
}
