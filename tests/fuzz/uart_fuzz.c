/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port under arbitrary accesses, input and a back end that refuses. */
#include "core/dev/uart16550.h"
#include "tests/fuzz/ports.h"

static const u16 ports[] = {0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff};

static void other(struct chips *c, u8 which, u16 value) {
    struct fake_char *ch = c->user;
    u8 bytes[32] = {(u8)value};
    if (which & 1) {
        fake_char_input(ch, bytes, value % sizeof(bytes));
    } else {
        ch->accept = value % 8 ? value % 8 : SIZE_MAX;
        ch->be.writable(ch->be.device);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct chips c;
    struct fake_char *ch = fake_char_create();
    chips_setup(&c, 1, 0);
    if (uart_add(&c.list, &c.env, "serial0", UART_COM1, 4, &ch->be, NULL) < 0) {
        abort();
    }
    c.user = ch;
    fuzz_run(&c, ports, ARRAY_LEN(ports), other, data, size);
    chips_teardown(&c);
    fake_char_destroy(ch);
    return 0;
}
