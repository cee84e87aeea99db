/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware under arbitrary accesses. */
#include "core/dev/acpi_dev.h"
#include "tests/fuzz/ports.h"

static const u16 ports[] = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x608, 0x60a, 0x60f};

/* Minutes pass: the timer's top bit changes every ten. */
static void other(struct chips *c, u8 which, u16 value) {
    if (which & 1) {
        fake_advance(c->fake, (u64)(value % 1024) * NSEC_PER_SEC);
    } else {
        device_reset_all(&c->list);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct chips c;
    chips_setup(&c, 1, 0);
    if (acpipm_add(&c.list, &c.env, NULL, NULL) < 0) {
        abort();
    }
    fuzz_run(&c, ports, ARRAY_LEN(ports), other, data, size);
    chips_teardown(&c);
    return 0;
}
