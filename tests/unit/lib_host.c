/* SPDX-License-Identifier: Apache-2.0 */
/* See lib_host.h. */
#include "tests/unit/lib_host.h"

#include <setjmp.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANG_SECONDS = 60, WAIT_MS = 5000 };

static void *loop_thread(void *arg) {
    struct real_host *h = arg;
    linux_host_run(h->lh);
    return NULL;
}

void real_host_setup(struct real_host *h, bool run) {
    struct err err = {0};
    alarm(HANG_SECONDS);
    *h = (struct real_host){0};
    assert_int_equal(linux_host_create(&h->lh, &err), 0);
    h->host = linux_host_host(h->lh);
    if (run) {
        assert_int_equal(pthread_create(&h->thread, NULL, loop_thread, h), 0);
        h->running = true;
    }
}

void real_host_stop(struct real_host *h) {
    if (h->running) {
        linux_host_quit(h->lh);
        pthread_join(h->thread, NULL);
        h->running = false;
    }
}

void real_host_teardown(struct real_host *h) {
    real_host_stop(h);
    linux_host_destroy(h->lh);
    alarm(0);
}

void sleep_ms(u32 ms) {
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&ts, NULL);
}

u64 now_ms(void) {
    return linux_now(NULL) / 1000000;
}

bool wait_until(const u32 *word, u32 value) {
    for (u64 end = now_ms() + WAIT_MS; now_ms() < end; sleep_ms(1)) {
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) >= value) {
            return true;
        }
    }
    return false;
}
