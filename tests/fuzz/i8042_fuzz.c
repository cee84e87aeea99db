/* SPDX-License-Identifier: Apache-2.0 */
/* Keyboard controller, debug ports and test devices under arbitrary accesses. */
#include "core/dev/debugport.h"
#include "core/dev/i8042.h"
#include "core/dev/testdev.h"
#include "tests/fuzz/ports.h"

static const u16 ports[] = {0x60, 0x64, 0x60, 0x64, 0x92, 0xe9,   0x80,  0xed,
                            0xe0, 0xe4, 0xe8, 0xeb, 0xf4, 0x2005, 0x2017};

static void other(struct chips *c, u8 which, u16 value) {
    struct device *dev = device_find(&c->list, "i8042");
    const u8 code[] = {(u8)value, (u8)(value >> 8)};
    if (which & 1) {
        i8042_type((struct i8042 *)(void *)dev, code, sizeof(code));
    } else {
        bus_write(&c->mmio, TESTDEV_MEMORY_BASE + value, 1 + which % 8, value);
        bus_read(&c->mmio, TESTDEV_MEMORY_BASE + value, 1 + which % 8);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct chips c;
    chips_setup(&c, 1, 0);
    if (i8042_add(&c.list, &c.env, NULL, NULL) < 0 ||
        debugport_add(&c.list, &c.env, NULL, NULL) < 0 || testdev_add(&c.list, &c.env, NULL) < 0) {
        abort();
    }
    fuzz_run(&c, ports, ARRAY_LEN(ports), other, data, size);
    chips_teardown(&c);
    return 0;
}
