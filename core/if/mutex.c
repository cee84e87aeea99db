/* SPDX-License-Identifier: Apache-2.0 */
/* The contended path of the mutex; see mutex.h for its states. */
#include "core/if/mutex.h"

enum { SPINS = 64 };

void mutex_lock_slow(struct host *host, struct mutex *m) {
    for (int i = 0; i < SPINS; i++) {
        u32 free_word = 0;
        if (__atomic_compare_exchange_n(&m->word, &free_word, 1, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) {
            return;
        }
        __builtin_ia32_pause();
    }
    while (__atomic_exchange_n(&m->word, 2, __ATOMIC_ACQUIRE) != 0) {
        host->ops->wait(host, &m->word, 2, HOST_FOREVER);
    }
}
