/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State files of snapshots. The input patches a good file (position u16, length u8, bytes, ...)
 * whose checksum is then made right, because nothing else gets past it; inputs that begin with 0xff
 * are taken as they are.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/snap_conf.h"
#include "cmd/snap_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conf[] =
    "{\"cpus\":1,\"memory\":4194304,\"console\":\"none\",\"virtio-console\":\"none\",\"debugcon\":"
    "\"none\",\"disks\":[{\"path\":\"/"
    "d\",\"format\":1,\"limit\":[1,2,3,4,5,6]}],\"nets\":[{\"kind\":1,"
    "\"forwards\":[\"tcp::1-:2\"],\"mac\":\"02:00:00:00:00:01\"}]}";

static u8 *build(size_t *size) {
    static struct snap_info info = {.incremental = true,
                                    .base = "/base",
                                    .engine = "soft",
                                    .program = "0.1",
                                    .memory = 4 * MIB,
                                    .vcpus = 1,
                                    .disk_count = 1,
                                    .disk = {{.path = "/d"}}};
    static struct cpuid_policy cpuid = {.count = 1, .phys_bits = 40, .vendor = "GenuineIntel"};
    static u8 sums[2 * SHA256_SIZE], pages[128];
    struct err err = {0};
    struct snap_parts parts = {.info = &info,
                               .cpuid = &cpuid,
                               .conf = conf,
                               .sums = sums,
                               .pages = pages,
                               .machine = sums,
                               .machine_size = sizeof(sums)};
    u8 *buf;
    if (snap_file_build(&parts, &buf, size, &err)) {
        abort();
    }
    return buf;
}

static void patch(u8 *buf, size_t len, const uint8_t *data, size_t size) {
    while (size >= 3) {
        size_t at = ((size_t)data[0] | (size_t)data[1] << 8) % len;
        size_t n = MIN(MIN((size_t)data[2] % 16, size - 3), len - at);
        memcpy(buf + at, data + 3, n);
        data += 3 + n;
        size -= 3 + n;
    }
    sha256(buf, len - SHA256_SIZE, buf + len - SHA256_SIZE);
}

static void look(struct snap_file *f) {
    struct run_options o = {0};
    struct cpuid_policy here;
    struct err err = {0};
    u64 weaker;
    snap_conf_read(&o, "FILE", f->conf, f->conf_size, &err);
    run_options_free(&o);
    if (!cpuid_policy_init(&here, 0, 1, &err)) {
        cpuid_policy_emulate(&here, UINT64_MAX, NULL, &f->cpuid);
        cpuid_policy_adopt(&here, &f->cpuid, &weaker, &err);
    }
    if (f->sum_count != snap_chunks(f->info.memory) || f->machine.pos > f->machine.len) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static u8 *good;
    static size_t good_size;
    struct err err = {0};
    struct snap_file *f = calloc(1, sizeof(*f));
    if (!good) {
        good = build(&good_size);
    }
    bool raw = size && data[0] == 0xff;
    size_t len = raw ? size - 1 : good_size;
    u8 *buf = malloc(len + 1);
    if (!f || !buf) {
        abort();
    }
    memcpy(buf, raw ? data + 1 : good, len);
    if (!raw) {
        patch(buf, len, data, size);
    }
    if (snap_file_parse("FILE", buf, len, f, &err)) {
        free(buf);
    } else {
        look(f);
        snap_file_free(f);
    }
    free(f);
    return 0;
}
