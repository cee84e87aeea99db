/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever a debugger sends: each line of the input is framed as a packet with a right checksum; a
 * line that begins with ! goes as it is.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/vm/gdbstub.h"
#include "hosts/fake/fake.h"
#include "tests/unit/lib_mock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_send(void *ctx, const u8 *data, size_t len) {
    (void)ctx;
    if (!len || len > 20000) {
        abort();
    }
    (void)data;
}

static void feed(struct gdbstub *g, const uint8_t *line, size_t n) {
    static const char digits[] = "0123456789abcdef";
    u8 sum = 0, tail[3];
    if (n && line[0] == '!') {
        gdbstub_input(g, line + 1, n - 1);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        sum = (u8)(sum + line[i]);
    }
    tail[0] = '#';
    tail[1] = (u8)digits[sum >> 4];
    tail[2] = (u8)digits[sum & 15];
    gdbstub_input(g, (const u8 *)"\x03$", 2);
    gdbstub_input(g, line, n);
    gdbstub_input(g, tail, 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct fake_host *fake;
    static struct vm *vm;
    struct err err = {0};
    struct gdbstub *g;
    if (!fake) {
        fake = fake_host_create();
        struct vm_params p = {
            .host = &fake->host, .engine = &mock_engine_ops, .vcpus = 2, .memory = MIB};
        if (vm_create(&p, &vm, &err)) {
            abort();
        }
    }
    if (gdbstub_create(vm, on_send, NULL, &g, &err)) {
        abort();
    }
    gdbstub_connected(g);
    for (size_t at = 0; at <= size;) {
        const uint8_t *end = at < size ? memchr(data + at, '\n', size - at) : NULL;
        size_t n = end ? (size_t)(end - (data + at)) : size - at;
        feed(g, data + at, n);
        at += n + 1;
    }
    gdbstub_destroy(g);
    fake_run_posted(fake);
    return 0;
}
