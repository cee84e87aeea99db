/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the Linux host share. */
#ifndef HOSTS_LINUX_HOST_H
#define HOSTS_LINUX_HOST_H

#include <pthread.h>

#include "core/if/log.h"
#include "hosts/linux/fence.h"
#include "hosts/linux/linux.h"
#include "image/image.h"

/* mem.c */
void *linux_alloc(struct host *host, size_t size);
void linux_free(struct host *host, void *ptr, size_t size);
void *linux_pages(struct host *host, size_t size);
void linux_pages_free(struct host *host, void *ptr, size_t size);
void linux_pages_discard(struct host *host, void *ptr, size_t size);
void linux_pages_join(struct host *host, void *ptr, size_t size);
int linux_ram_alloc(struct host *host, u64 size, struct host_ram *out);
int linux_ram_alloc_private(struct host *host, u64 size, struct host_ram *out);
int linux_ram_discard(struct host *host, u8 *hva, u64 size);
int linux_code_alloc(struct host *host, size_t size, struct host_code *out);
void linux_code_free(struct host *host, struct host_code *code);

/* clock.c */
u64 linux_now(struct host *host);
u64 linux_wall(struct host *host);
u64 linux_tsc_hz(struct host *host);
void linux_entropy(struct host *host, void *buf, size_t size);

/* thread.c */
struct host_thread *linux_thread_start(struct host *host, const char *name, void (*fn)(void *ctx),
                                       void *ctx);
/* As that, a vCPU's thread, which goes behind the fence when there is one. */
struct host_thread *linux_thread_start_fenced(struct fence *fence, const char *name,
                                              void (*fn)(void *ctx), void *ctx);
void linux_thread_join(struct host *host, struct host_thread *thread);
void linux_thread_kick(struct host *host, struct host_thread *thread);
/* For the host's own threads: this one takes kicks; a blocking system call of that one returns. */
void linux_kick_accept(void);
void linux_kick(pthread_t thread);
void linux_yield(struct host *host);
void linux_wait(struct host *host, u32 *word, u32 expected, u64 deadline_ns);
void linux_wake(struct host *host, u32 *word, u32 count);

/* fault.c */
int linux_fault_hook(struct host *host, const u8 *start, size_t size, host_fault_fn fn);
void linux_fault_unhook(struct host *host, const u8 *start);
void linux_thread_fault_ctx(struct host *host, void *ctx);
void linux_thread_gs(struct host *host, void *base);
/* The alternate signal stack of the calling thread; NULL on failure. Free after the thread's last
 * use. */
void *linux_fault_stack_enter(void);
void linux_fault_stack_leave(void *stack);

/* log.c */
void linux_log(struct host *host, enum log_level level, const char *text, size_t len);

/* loop.c */
struct loop;
int loop_create(struct loop **out);
void loop_destroy(struct loop *loop);
void loop_run(struct loop *loop);
void loop_quit(struct loop *loop);
int loop_watch(struct loop *loop, int fd, void (*fn)(void *ctx), void *ctx);
void loop_unwatch(struct loop *loop, int fd);
int loop_post(struct loop *loop, void (*fn)(void *ctx), void *ctx);
/* Runs what was posted when no thread is in loop_run (start and end of the process); else nothing.
 */
void loop_run_idle(struct loop *loop);
/* Takes back what was posted with this ctx; returns when none of it is running any more (unless
 * called from there). */
void loop_forget(struct loop *loop, const void *ctx);
struct host_timer *loop_timer_create(struct loop *loop, void (*fn)(void *ctx), void *ctx);
void loop_timer_arm(struct loop *loop, struct host_timer *timer, u64 deadline_ns);
void loop_timer_cancel(struct loop *loop, struct host_timer *timer);
void loop_timer_destroy(struct loop *loop, struct host_timer *timer);

/* pool.c: a few threads for calls that block */
struct pool;
struct pool *pool_create(struct linux_host *lh);
/* With all its threads, on each of which begin has run. NULL: none can be started. */
struct pool *pool_create_started(struct linux_host *lh, void (*begin)(void));
void pool_destroy(struct pool *pool); /* waits for what was submitted */
struct pool_job {
    void (*fn)(struct pool_job *job);
    struct pool_job *next;
};
int pool_submit(struct pool *pool, struct pool_job *job); /* 0 or -ERR_NOMEM (no thread at all) */

/* codec.c */
extern const struct image_codec linux_codec;

/* blk_image.c: takes the image over when it succeeds. */
int blk_image_create(struct linux_host *lh, struct image *im, const struct blk_options *o,
                     struct block_backend **out, struct err *err);

struct linux_host {
    struct host host;
    struct fence *fence;
    struct loop *loop;
    struct pool *pool;
    struct host_ops merging; /* linux_ram_mergeable: the operations from then on */
    enum log_level log_level;
    void *main_stack; /* alternate signal stack of the thread that created the host */
};

static inline struct linux_host *linux_of(struct host *host) {
    return CONTAINER_OF(host, struct linux_host, host);
}

#endif
