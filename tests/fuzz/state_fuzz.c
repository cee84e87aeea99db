/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_state_load: any bytes give a state that a processor could be in. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "core/base/snap.h"
#include "core/cpu/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct cpu_state s;
    static u8 buf[8192];
    struct snap_reader r = {.buf = data, .len = size};
    int rc = cpu_state_load(&s, &r);
    if (cpu_state_check(&s, STATE_ALL) || (rc != 0) != r.failed) {
        abort();
    }
    struct snap_writer w = {.buf = buf, .cap = sizeof(buf)};
    cpu_state_save(&s, &w);
    if (w.failed) {
        abort();
    }
    return 0;
}
