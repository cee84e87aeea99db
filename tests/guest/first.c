/* SPDX-License-Identifier: Apache-2.0 */
/* Leaves at once: what the start of a machine costs is measured with it. */
#include "lib/guest.h"

void guest_main(u64 mb_info) {
    CHECK(mb_info != 0);
}
