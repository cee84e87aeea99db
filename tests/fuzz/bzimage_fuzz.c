/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary kernel files: whatever they claim, the loaders stay inside file and guest memory. */
#include "tests/fuzz/lib_boot_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_boot(data, size);
    return 0;
}
