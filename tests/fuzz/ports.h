/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the device harnesses share: the input is a list of 4-byte steps (kind, which, value u16)
 * that read and write the device's ports, move the clock, and save and reload its state. What is
 * left behind a step of kind STEP_LOAD is taken as a saved state.
 */
#ifndef TESTS_FUZZ_PORTS_H
#define TESTS_FUZZ_PORTS_H

#include <stdlib.h>

#include "tests/unit/lib_chips.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEP_WRITE, STEP_READ, STEP_CLOCK, STEP_RELOAD, STEP_LOAD, STEP_OTHER, STEP_KINDS };

enum { FUZZ_STATE_MAX = 128 * 1024 };

/* A state that was just saved must load. */
static inline void fuzz_reload(struct chips *c) {
    u8 *buf = malloc(FUZZ_STATE_MAX);
    size_t n = buf ? chips_save(c, buf, FUZZ_STATE_MAX) : 0;
    if (!buf || chips_load(c, buf, n) != 0) {
        abort();
    }
    free(buf);
}

static inline void fuzz_load(struct chips *c, const uint8_t *data, size_t size) {
    struct snap_reader r = {.buf = data, .len = size};
    mutex_lock(&c->fake->host, &c->lock);
    if (size && data[0] & 1) {
        irqchip_load(c->irq, &r);
    } else {
        device_load_all(&c->list, &r);
    }
    mutex_unlock(&c->fake->host, &c->lock);
}

typedef void (*fuzz_other_fn)(struct chips *c, u8 which, u16 value);

static inline void fuzz_run(struct chips *c, const u16 *ports, u32 count, fuzz_other_fn other,
                            const uint8_t *data, size_t size) {
    for (size_t at = 0; at + 4 <= size; at += 4) {
        u8 kind = data[at], which = data[at + 1];
        u16 value = (u16)(data[at + 2] | data[at + 3] << 8);
        u16 port = ports[which % count];
        u32 width = 1u << ((kind >> 4) % 3);
        switch ((kind & 15) % STEP_KINDS) {
        case STEP_WRITE:
            mutex_lock(&c->fake->host, &c->lock);
            bus_write(&c->pio, port, width, (u32)value * 0x10001u);
            mutex_unlock(&c->fake->host, &c->lock);
            break;
        case STEP_READ:
            mutex_lock(&c->fake->host, &c->lock);
            bus_read(&c->pio, port, width);
            mutex_unlock(&c->fake->host, &c->lock);
            break;
        case STEP_CLOCK:
            fake_advance(c->fake, (u64)value << (which % 10));
            break;
        case STEP_RELOAD:
            if (value % 8 == 0) {
                fuzz_reload(c);
            }
            break;
        case STEP_LOAD:
            fuzz_load(c, data + at + 4, size - at - 4);
            break;
        default:
            if (other) {
                other(c, which, value);
            }
            break;
        }
    }
    fuzz_reload(c);
}

#endif
