/* SPDX-License-Identifier: Apache-2.0 */
/* The Linux host for its own tests: one with the event loop on a thread, and bounded waiting. */
#ifndef TESTS_UNIT_LIB_HOST_H
#define TESTS_UNIT_LIB_HOST_H

#include "hosts/linux/host.h"

struct real_host {
    struct linux_host *lh;
    struct host *host;
    pthread_t thread;
    bool running;
};

/* Ends the program when a test hangs; creates the host; the loop runs on a thread when run is set.
 */
void real_host_setup(struct real_host *h, bool run);
/* Stops the loop; NULL-safe to call twice. */
void real_host_stop(struct real_host *h);
void real_host_teardown(struct real_host *h);

/* Waits until *word (atomic) is at least value; false after five seconds. */
bool wait_until(const u32 *word, u32 value);
void sleep_ms(u32 ms);
u64 now_ms(void);

#endif
