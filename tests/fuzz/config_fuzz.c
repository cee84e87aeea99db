/* SPDX-License-Identifier: Apache-2.0 */
/* Any text as a machine configuration file: options or a clean error. */
#include <stddef.h>
#include <stdint.h>

#include "cmd/cmd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct run_options o = {.cpus = 1, .memory = MIB};
    struct err err = {0};
    int rc = config_text_load(&o, "fuzz", (const char *)data, size, &err);
    if (rc && !err.code) {
        __builtin_trap(); /* an error without a message */
    }
    run_options_free(&o);
    return 0;
}
