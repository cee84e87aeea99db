/* SPDX-License-Identifier: Apache-2.0 */
/* Real-time clock and PIT under arbitrary accesses, with a clock that jumps. */
#include "core/dev/rtc_dev.h"
#include "tests/fuzz/ports.h"

static const u16 ports[] = {0x70, 0x71, 0x70, 0x71, 0x40, 0x41, 0x42, 0x43, 0x61};

/* The host's wall clock is set, forwards and backwards. */
static void other(struct chips *c, u8 which, u16 value) {
    u64 jump = (u64)value << (which % 40);
    c->fake->wall_offset += which & 0x80 && c->fake->wall_offset > jump ? 0 - jump : jump;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct chips c;
    struct rtc_config cfg = {.low_memory = GIB, .high_memory = GIB, .vcpus = 1};
    chips_setup(&c, 1, 0);
    if (rtc_add(&c.list, &c.env, &cfg, NULL) < 0) {
        abort();
    }
    fuzz_run(&c, ports, ARRAY_LEN(ports), other, data, size);
    chips_teardown(&c);
    return 0;
}
