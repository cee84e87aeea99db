/* SPDX-License-Identifier: Apache-2.0 */
/* The files of snapshots: what is written is read, what is damaged is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cmd/snap_conf.h"
#include "cmd/snap_mem.h"
#include "cmd/snapshot.h"
#include "core/boot/layout.h"
#include "hosts/linux/linux.h"

#define MEMORY (5 * MIB + 3 * PAGE_SIZE)

static u8 sums[3 * SHA256_SIZE];

struct made {
    struct snap_info info;
    struct cpuid_policy cpuid;
    u64 pages[(MEMORY / PAGE_SIZE + 63) / 64];
    u8 *buf;
    size_t size;
};

static void make(struct made *m, bool incremental) {
    static const u8 machine[] = "the machine";
    struct err err = {0};
    memset(m, 0, sizeof(*m));
    m->info = (struct snap_info){.incremental = incremental,
                                 .engine = "soft",
                                 .program = "0.1",
                                 .wall_ns = 12345,
                                 .tsc_hz = 1000,
                                 .memory = MEMORY,
                                 .vcpus = 2,
                                 .disk_count = 1};
    memset(m->info.id, 0xab, sizeof(m->info.id));
    strcpy(m->info.disk[0].path, "/x/disk");
    m->info.disk[0].size = 512;
    if (incremental) {
        strcpy(m->info.base, "/x/base");
        memset(m->info.base_id, 0xcd, sizeof(m->info.base_id));
        m->pages[0] = 0x11;
    }
    assert_int_equal(cpuid_policy_init(&m->cpuid, 0, 2, &err), 0);
    struct snap_parts parts = {.info = &m->info,
                               .cpuid = &m->cpuid,
                               .conf = "{\"cpus\":2}",
                               .sums = sums,
                               .pages = (const u8 *)m->pages,
                               .machine = machine,
                               .machine_size = sizeof(machine)};
    assert_int_equal(snap_file_build(&parts, &m->buf, &m->size, &err), 0);
}

static int parse(const u8 *buf, size_t size, struct snap_file *f, struct err *err) {
    u8 *copy = malloc(size + 1);
    assert_non_null(copy);
    memcpy(copy, buf, size);
    memset(err, 0, sizeof(*err));
    int rc = snap_file_parse("FILE", copy, size, f, err);
    if (rc) {
        free(copy);
        assert_non_null(strstr(err->text, "FILE"));
    }
    return rc;
}

static void test_round(void **state) {
    struct made m;
    struct snap_file f;
    struct err err;
    (void)state;
    for (int incremental = 0; incremental < 2; incremental++) {
        make(&m, incremental);
        assert_int_equal(parse(m.buf, m.size, &f, &err), 0);
        assert_memory_equal(&f.info, &m.info, sizeof(m.info));
        assert_int_equal(f.conf_size, 10);
        assert_memory_equal(f.conf, "{\"cpus\":2}", 10);
        assert_int_equal(f.cpuid.count, m.cpuid.count);
        assert_int_equal(f.sum_count, 3);
        assert_int_equal(!!f.pages, incremental);
        assert_int_equal(f.machine.len - f.machine.pos, 12);
        snap_file_free(&f);
        free(m.buf);
    }
}

static void test_truncated(void **state) {
    struct made m;
    struct snap_file f;
    struct err err;
    (void)state;
    make(&m, true);
    for (size_t size = 0; size < m.size; size++) {
        assert_true(parse(m.buf, size, &f, &err) < 0);
    }
    assert_non_null(strstr(err.text, "truncated"));
    free(m.buf);
}

/* Any byte of the file, any of several changes: refused. */
static void test_corrupted(void **state) {
    static const u8 change[] = {0x01, 0x80, 0xff};
    struct made m;
    struct snap_file f;
    struct err err;
    (void)state;
    make(&m, true);
    for (size_t at = 0; at < m.size; at++) {
        for (size_t i = 0; i < sizeof(change); i++) {
            m.buf[at] ^= change[i];
            assert_true(parse(m.buf, m.size, &f, &err) < 0);
            m.buf[at] ^= change[i];
        }
    }
    free(m.buf);
}

static void seal(struct made *m) {
    sha256(m->buf, m->size - SHA256_SIZE, m->buf + m->size - SHA256_SIZE);
}

/* With a right checksum: what is read must still be sound, whatever it is. */
static void test_hostile(void **state) {
    struct made m;
    struct snap_file f;
    struct err err;
    (void)state;
    make(&m, true);
    for (size_t at = SNAP_HEADER_SIZE; at < m.size - SHA256_SIZE; at++) {
        u8 old = m.buf[at];
        m.buf[at] = 0xff;
        seal(&m);
        if (!parse(m.buf, m.size, &f, &err)) {
            struct run_options o = {0};
            assert_int_equal(f.sum_count, snap_chunks(f.info.memory));
            snap_conf_read(&o, "FILE", f.conf, f.conf_size, &err);
            run_options_free(&o);
            snap_file_free(&f);
        }
        m.buf[at] = old;
    }
    m.buf[8] = SNAP_VERSION + 1;
    seal(&m);
    assert_int_equal(parse(m.buf, m.size, &f, &err), -ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "newer"));
    m.buf[8] = 0;
    seal(&m);
    assert_int_equal(parse(m.buf, m.size, &f, &err), -ERR_FORMAT);
    free(m.buf);
}

/* --- memory ------------------------------------------------------------------------------------
 */

static int temp(void) {
    char name[] = "/tmp/sosia-snap-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    return fd;
}

static u8 *ram_make(void) {
    u8 *ram = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(ram, MAP_FAILED);
    for (u64 at = 0; at < MIB; at += 7 * PAGE_SIZE) {
        memset(ram + at, (int)(at >> PAGE_SHIFT) | 1, 100);
    }
    ram[MEMORY - 1] = 1;
    memset(ram + LAYOUT_VMGENID, 0xab, SNAP_ID_SIZE);
    return ram;
}

static int check(struct made *m, int fd, u8 *table, struct err *err) {
    struct snap_file f = {.info = m->info, .sums = table, .sum_count = 3};
    f.pages = m->info.incremental ? (const u8 *)m->pages : NULL;
    memset(err, 0, sizeof(*err));
    int rc = snap_mem_fd_check("MEM", fd, &f, LAYOUT_VMGENID, err);
    return rc ? rc : snap_mem_check("MEM", fd, &f, err);
}

static void test_memory(void **state) {
    struct made m;
    struct err err = {0};
    u8 table[3 * SHA256_SIZE], byte;
    struct host_ram ram = {.hva = ram_make(), .size = MEMORY, .fd = -1};
    u8 *back = malloc(MEMORY);
    int fd = temp();
    (void)state;
    make(&m, false);
    struct snap_mem_write w = {.ram = &ram, .pagemap = -1, .fd = fd, .name = "MEM", .sums = table};
    assert_int_equal(snap_mem_write(&w, &err), 0);
    assert_int_equal(snap_read_at(fd, back, MEMORY, 0), 0);
    assert_memory_equal(back, ram.hva, MEMORY);
    assert_int_equal(check(&m, fd, table, &err), 0);
    for (u64 at = 0; at < MEMORY; at += 300 * PAGE_SIZE + 17) {
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        assert_int_equal(check(&m, fd, table, &err), -ERR_FORMAT);
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    }
    assert_int_equal(check(&m, fd, table, &err), 0);
    assert_int_equal(ftruncate(fd, (off_t)(MEMORY - 1)), 0);
    assert_int_equal(check(&m, fd, table, &err), -ERR_FORMAT);
    assert_non_null(strstr(err.text, "truncated"));
    assert_int_equal(ftruncate(fd, (off_t)MEMORY), 0);
    memset(m.info.id, 1, sizeof(m.info.id));
    assert_int_equal(check(&m, fd, table, &err), -ERR_FORMAT);
    assert_non_null(strstr(err.text, "another snapshot"));
    munmap(ram.hva, MEMORY);
    free(back);
    free(m.buf);
    close(fd);
}

static void test_incremental(void **state) {
    struct made m;
    struct err err = {0};
    u8 table[3 * SHA256_SIZE], zero[SHA256_SIZE] = {0};
    struct host_ram ram = {.hva = ram_make(), .size = MEMORY, .fd = -1};
    u8 *back = malloc(MEMORY);
    int fd = temp();
    u64 page = LAYOUT_VMGENID / PAGE_SIZE;
    (void)state;
    make(&m, true);
    m.pages[page / 64] |= BIT(page % 64);
    struct snap_mem_write w = {
        .ram = &ram, .pagemap = -1, .pages = m.pages, .fd = fd, .name = "MEM", .sums = table};
    assert_int_equal(snap_mem_write(&w, &err), 0);
    assert_int_equal(w.written, 3 * PAGE_SIZE);
    assert_int_equal(check(&m, fd, table, &err), 0);
    assert_int_equal(snap_read_at(fd, back, MEMORY, 0), 0);
    assert_memory_equal(back, ram.hva, PAGE_SIZE);
    assert_int_equal(back[7 * PAGE_SIZE], 0); /* not one of its pages */
    assert_memory_equal(table + SHA256_SIZE, zero, SHA256_SIZE);
    assert_int_equal(lseek(fd, 2 * PAGE_SIZE, SEEK_DATA) >= (off_t)(4 * PAGE_SIZE), 1);
    munmap(ram.hva, MEMORY);
    free(back);
    free(m.buf);
    close(fd);
}

/* What the guest never touched is found, also when the machine itself was restored. */
static void test_private(void **state) {
    struct made m;
    struct err err = {0};
    u8 table[3 * SHA256_SIZE];
    struct host_ram ram;
    int from = temp(), fd = temp();
    u8 id[SNAP_ID_SIZE];
    (void)state;
    make(&m, false);
    memset(id, 0xab, sizeof(id));
    assert_int_equal(ftruncate(from, (off_t)MEMORY), 0);
    assert_int_equal(pwrite(from, "base", 4, (off_t)(5 * MIB)), 4);
    assert_int_equal(linux_ram_map(from, MEMORY, &ram), 0);
    memcpy(ram.hva + LAYOUT_VMGENID, id, sizeof(id));
    memcpy(ram.hva + 3 * MIB, "own", 3);
    struct snap_mem_write w = {.ram = &ram, .pagemap = -1, .fd = fd, .name = "MEM", .sums = table};
    w.pagemap = open("/proc/self/pagemap", O_RDONLY);
    assert_int_equal(snap_mem_write(&w, &err), 0);
    close(w.pagemap);
    assert_int_equal(w.written, 3 * PAGE_SIZE);
    assert_int_equal(check(&m, fd, table, &err), 0);
    char text[4];
    assert_int_equal(snap_read_at(fd, text, 4, 5 * MIB), 0);
    assert_memory_equal(text, "base", 4);
    assert_int_equal(snap_read_at(fd, text, 3, 3 * MIB), 0);
    assert_memory_equal(text, "own", 3);
    linux_ram_free(NULL, &ram);
    free(m.buf);
    close(fd);
}

/* --- configuration -----------------------------------------------------------------------------
 */

static void test_conf(void **state) {
    static char disk[] = "/dev/null,format=raw,readonly,serial=abc,iops=100,queues=3";
    static char net[] = "user,hostfwd=tcp:127.0.0.1:2222-:22,restrict,mtu=1400,rx-bps=5000";
    struct err err = {0};
    struct machine *m = calloc(1, sizeof(*m));
    struct run_options o = {0};
    (void)state;
    m->o = (struct run_options){.cpus = 3,
                                .memory = 64 * MIB,
                                .cmdline = "quiet \"x\"",
                                .console = "none",
                                .virtio_console = "none",
                                .debugcon = "file=/dev/null",
                                .disk_count = 1,
                                .net_count = 1,
                                .rng = true,
                                .mmio = true};
    assert_int_equal(disk_option_parse(&m->o.disk[0], disk, &err), 0);
    assert_int_equal(net_option_parse(&m->o.net[0], net, &err), 0);
    memcpy(m->cfg.net[0].mac, "\x02\x03\x04\x05\x06\x07", 6);
    m->cfg.disk[0].queues = 3;
    char *text = snap_conf_write(m);
    assert_non_null(text);
    if (snap_conf_read(&o, "FILE", text, strlen(text), &err)) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(o.cpus, 3);
    assert_true(o.rng && o.mmio && !o.test_devices);
    assert_string_equal(o.cmdline, "quiet \"x\"");
    assert_string_equal(o.debugcon, "file=/dev/null");
    assert_string_equal(o.disk[0].open.path, "/dev/null");
    assert_true(o.disk[0].open.readonly);
    assert_string_equal(o.disk[0].serial, "abc");
    assert_memory_equal(&o.disk[0].limit, &m->o.disk[0].limit, sizeof(o.disk[0].limit));
    assert_int_equal(o.net[0].kind, NET_USER);
    assert_int_equal(o.net[0].user.forward_count, 1);
    assert_string_equal(o.net[0].user.forward[0], m->o.net[0].user.forward[0]);
    assert_true(o.net[0].user.restricted);
    assert_memory_equal(o.net[0].mac, m->cfg.net[0].mac, 6);
    assert_memory_equal(&o.net[0].rx, &m->o.net[0].rx, sizeof(o.net[0].rx));
    run_options_free(&o);
    free(text);
    free(m);
}

static void test_conf_refused(void **state) {
    static const char *const texts[] = {
        "",
        "[]",
        "{}",
        "{\"cpus\":0}",
        "{\"cpus\":65,\"disks\":[],\"nets\":[]}",
        "{\"cpus\":1,\"memory\":4096,\"disks\":[],\"nets\":[]}",
        "{\"cpus\":1,\"memory\":1048576,\"disks\":[{}],\"nets\":[]}",
        "{\"cpus\":1,\"memory\":1048576,\"disks\":[],\"nets\":[{\"kind\":2}]}",
        "{\"cpus\":1,\"memory\":1048576,\"disks\":[],\"nets\":[],\"warp\":1}",
        "{\"cpus\":1,\"memory\":1048576,\"console\":\"x\",\"disks\":[],\"nets\":[]}",
        "{\"cpus\":1,\"memory\":1048576,\"console\":null,\"disks\":[],\"nets\":[]}",
        "{\"cpus\":1,\"memory\":1048576,\"cmdline\":\"a\\u0000b\",\"disks\":[],\"nets\":[]}",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct run_options o = {0};
        struct err err = {0};
        assert_true(snap_conf_read(&o, "FILE", texts[i], strlen(texts[i]), &err) < 0);
        run_options_free(&o);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round),        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_corrupted),    cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_incremental),
        cmocka_unit_test(test_private),      cmocka_unit_test(test_conf),
        cmocka_unit_test(test_conf_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
