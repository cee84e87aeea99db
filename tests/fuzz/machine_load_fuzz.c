/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading a saved machine from arbitrary bytes. The input patches a valid saved state (position
 * u16, length u8, bytes, ...), because random bytes would not get past the first section; inputs
 * that begin with 0xff are taken as they are.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/board/pc.h"
#include "core/if/callout.h"
#include "hosts/fake/fake.h"
#include "tests/unit/lib_mock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
    struct fake_host *fake;
    struct fake_disk *disk;
    struct pc *pc;
    u8 *saved, *patched;
    size_t len;
};

static void build(struct machine *m) {
    struct err err = {0};
    struct snap_writer w = {0};
    m->fake = fake_host_create();
    m->disk = fake_disk_create(m->fake, MIB);
    struct machine_config cfg = {.vcpus = 2,
                                 .memory = MIB,
                                 .disk = {{.backend = &m->disk->be}},
                                 .disk_count = 1,
                                 .net_count = 1,
                                 .rng = true,
                                 .test_devices = true};
    cfg.net[0].transport = TRANSPORT_MMIO;
    if (pc_create(&m->fake->host, &mock_engine_ops, &cfg, &m->pc, &err)) {
        abort();
    }
    vm_save(pc_vm(m->pc), &w);
    m->len = w.len;
    m->saved = malloc(m->len);
    m->patched = malloc(m->len);
    w = (struct snap_writer){.buf = m->saved, .cap = m->len};
    if (!m->saved || !m->patched || vm_save(pc_vm(m->pc), &w)) {
        abort();
    }
}

static void patch(struct machine *m, const uint8_t *data, size_t size) {
    memcpy(m->patched, m->saved, m->len);
    while (size >= 3) {
        size_t at = ((size_t)data[0] | (size_t)data[1] << 8) % m->len;
        size_t n = MIN(MIN((size_t)data[2] % 16, size - 3), m->len - at);
        memcpy(m->patched + at, data + 3, n);
        data += 3 + n;
        size -= 3 + n;
    }
}

/* The guest goes on to use what was loaded. */
static void poke(struct machine *m) {
    struct engine_vcpu *ev = &pc_vm(m->pc)->vcpus[0].engine;
    for (u32 port = 0; port < 0x700; port++) {
        callout_pio_read(ev, (u16)port, 1);
    }
    for (u64 page = 0xc0001000; page < 0xc0003000; page += 4) {
        callout_mmio_read(ev, page, 4);
    }
    fake_advance(m->fake, 1000000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct machine m;
    struct err err = {0};
    struct snap_reader r;
    if (!m.pc) {
        build(&m);
    }
    if (size && data[0] == 0xff) {
        r = (struct snap_reader){.buf = data + 1, .len = size - 1};
    } else {
        patch(&m, data, size);
        r = (struct snap_reader){.buf = m.patched, .len = m.len};
    }
    vm_load(pc_vm(m.pc), &r, &err);
    poke(&m);
    return 0;
}
