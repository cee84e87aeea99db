/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads, sleeping and waking. A kick is a signal with an empty handler: it only makes a blocking
 * system call of the thread return. Whoever kicks sets a flag first that the thread looks at.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hosts/linux/host.h"

enum { KICK_SIGNAL = SIGUSR1, NAME_MAX_BYTES = 16 };

struct host_thread {
    pthread_t pthread;
    char name[NAME_MAX_BYTES]; /* what Linux allows: 15 characters */
    void (*fn)(void *ctx);
    void *ctx;
    struct fence *fence; /* NULL: none */
};

static void on_kick(int signal) {
    (void)signal;
}

static void kick_handler_install(void) {
    struct sigaction sa = {.sa_handler = on_kick, .sa_flags = SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    sigaction(KICK_SIGNAL, &sa, NULL);
}

/* Whoever started the process may have blocked the signal; a thread that inherits that would miss
 * its kicks. */
static void kick_unblock(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void linux_kick_accept(void) {
    kick_handler_install();
    kick_unblock();
}

void linux_kick(pthread_t thread) {
    pthread_kill(thread, KICK_SIGNAL);
}

static void *thread_main(void *arg) {
    struct host_thread *t = arg;
    void *stack = linux_fault_stack_enter();
    kick_unblock();
    pthread_setname_np(pthread_self(), t->name);
    if (t->fence) {
        fence_enter_vcpu(t->fence);
    }
    t->fn(t->ctx);
    linux_fault_stack_leave(stack);
    return NULL;
}

struct host_thread *linux_thread_start_fenced(struct fence *fence, const char *name,
                                              void (*fn)(void *ctx), void *ctx) {
    struct host_thread *t = calloc(1, sizeof(*t));
    if (!t) {
        return NULL;
    }
    kick_handler_install();
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->fn = fn;
    t->ctx = ctx;
    t->fence = fence;
    if (pthread_create(&t->pthread, NULL, thread_main, t)) {
        free(t);
        return NULL;
    }
    return t;
}

struct host_thread *linux_thread_start(struct host *host, const char *name, void (*fn)(void *ctx),
                                       void *ctx) {
    (void)host;
    return linux_thread_start_fenced(NULL, name, fn, ctx);
}

void linux_thread_join(struct host *host, struct host_thread *thread) {
    (void)host;
    pthread_join(thread->pthread, NULL);
    free(thread);
}

void linux_thread_kick(struct host *host, struct host_thread *thread) {
    (void)host;
    pthread_kill(thread->pthread, KICK_SIGNAL);
}

void linux_yield(struct host *host) {
    (void)host;
    sched_yield();
}

void linux_wait(struct host *host, u32 *word, u32 expected, u64 deadline_ns) {
    (void)host;
    struct timespec ts = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
                          .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)};
    /* FUTEX_WAIT_BITSET takes an absolute time on the monotonic clock. */
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected,
            deadline_ns == HOST_FOREVER ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

void linux_wake(struct host *host, u32 *word, u32 count) {
    (void)host;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count > INT32_MAX ? INT32_MAX : count, NULL, NULL,
            0);
}
