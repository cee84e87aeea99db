/* SPDX-License-Identifier: Apache-2.0 */
/* The options of `sosia run`: defaults, every option, every refusal with its message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/cmd.h"
#include "core/if/trace.h"

static struct run_options o;
static struct err err;
static char verb[] = "run", kernel[] = "--kernel=k";

static int parse(const char *first, ...) {
    char *argv[64] = {verb};
    int argc = 1;
    va_list ap;
    va_start(ap, first);
    for (const char *a = first; a && argc < 63; a = va_arg(ap, const char *)) {
        argv[argc++] = (char *)(uintptr_t)a;
    }
    va_end(ap);
    run_options_free(&o);
    err = (struct err){0};
    return run_options_parse(&o, argc, argv, &err);
}

#define GOOD(...)                                                                                  \
    do {                                                                                           \
        if (parse("--kernel", "k", __VA_ARGS__)) {                                                 \
            fail_msg("%s", err.text);                                                              \
        }                                                                                          \
    } while (0)

#define BAD(message, ...)                                                                          \
    do {                                                                                           \
        assert_true(parse("--kernel", "k", __VA_ARGS__) < 0);                                      \
        if (!strstr(err.text, message)) {                                                          \
            fail_msg("'%s' does not say '%s'", err.text, message);                                 \
        }                                                                                          \
    } while (0)

static int teardown(void **state) {
    (void)state;
    run_options_free(&o);
    return 0;
}

static void test_defaults(void **state) {
    (void)state;
    GOOD(NULL);
    assert_string_equal(o.kernel, "k");
    assert_int_equal(o.engine, ENGINE_AUTO);
    assert_int_equal(o.cpus, 1);
    assert_int_equal(o.memory, 512 * MIB);
    assert_null(o.initrd);
    assert_null(o.cmdline);
    assert_null(o.gdb);
    assert_string_equal(o.console, "stdio");
    assert_string_equal(o.virtio_console, "none");
    assert_string_equal(o.debugcon, "none");
    assert_true(o.rng);
    assert_false(o.mmio || o.mmio_cmdline || o.test_devices || o.quiet || o.stats);
    assert_int_equal(o.disk_count + o.net_count + o.module_count + o.trace, 0);
}

static void test_plain_options(void **state) {
    (void)state;
    GOOD("--initrd", "i", "--cmdline", "a b", "--engine", "soft", "--cpus", "64", "--memory=2G",
         "--console", "pty", "--virtio-console", "stdio", "--debugcon", "file=x", "--rng", "off",
         "--quiet", "--stats", "--test-devices", "--net", "none", "--net", "none", "--trace",
         "exits,gdb", NULL);
    assert_string_equal(o.initrd, "i");
    assert_string_equal(o.cmdline, "a b");
    assert_int_equal(o.engine, ENGINE_SOFT);
    assert_int_equal(o.cpus, 64);
    assert_int_equal(o.memory, 2 * GIB);
    assert_string_equal(o.console, "pty");
    assert_string_equal(o.virtio_console, "stdio");
    assert_string_equal(o.debugcon, "file=x");
    assert_false(o.rng);
    assert_true(o.quiet && o.stats && o.test_devices);
    assert_int_equal(o.net_count, 2);
    assert_int_equal(o.trace, BIT(TRACE_EXITS) | BIT(TRACE_GDB));
    GOOD("--engine", "kvm", NULL);
    assert_int_equal(o.engine, ENGINE_KVM);
    GOOD("--engine", "auto", NULL);
    assert_int_equal(o.engine, ENGINE_AUTO);
}

static void test_nets(void **state) {
    (void)state;
    GOOD("--net", "user,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-:53,restrict,mtu=9000",
         "--net", "switch=lab,vlan=7,mac=52:54:00:12:34:56", "--net", "tap=t0,rx-bps=1M,tx-pps=5",
         "--net", "passt=/run/p,queues=2", "--net", "user,host-loopback=off", NULL);
    assert_int_equal(o.net_count, 5);
    assert_int_equal(o.net[0].kind, NET_USER);
    assert_int_equal(o.net[0].user.forward_count, 2);
    assert_string_equal(o.net[0].user.forward[0], "tcp:127.0.0.1:2222-:22");
    assert_true(o.net[0].user.restricted);
    assert_int_equal(o.net[0].user.mtu, 9000);
    assert_int_equal(o.net[1].kind, NET_SWITCH);
    assert_string_equal(o.net[1].name, "lab");
    assert_int_equal(o.net[1].vlan, 7);
    assert_memory_equal(o.net[1].mac, "\x52\x54\0\x12\x34\x56", 6);
    assert_int_equal(o.net[2].rx.bandwidth.size, MIB);
    assert_int_equal(o.net[2].tx.ops.size, 5);
    assert_int_equal(o.net[3].queues, 2);
    assert_true(o.net[4].user.no_loopback);
    u8 a[6], b[6];
    mac_generate("disk", 0, a);
    mac_generate("disk", 0, b);
    assert_memory_equal(a, b, 6);
    assert_int_equal(a[0] & 3, 2);
    mac_generate("disk", 1, b);
    assert_memory_not_equal(a, b, 6);
    mac_generate("other", 0, b);
    assert_memory_not_equal(a, b, 6);
}

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        u64 bytes; /* 0: refused */
    } cases[] = {
        {"512", 512 * MIB},
        {"512M", 512 * MIB},
        {"1G", GIB},
        {"1g", GIB},
        {"1048576K", GIB},
        {"1T", 1024 * GIB},
        {"2GiB", 2 * GIB},
        {"2GB", 2 * GIB},
        {"3Gi", 3 * GIB},
        {"", 0},
        {"M", 0},
        {"-1", 0},
        {"+1", 0},
        {" 1", 0},
        {"1 ", 0},
        {"1MM", 0},
        {"1.5G", 0},
        {"0x10", 0},
        {"1X", 0},
        {"16777216T", 0},
        {"18446744073709551616", 0},
        {"17592186044415", 17592186044415 * MIB},
        {"17592186044416", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        u64 bytes = 0;
        int rc = parse_size(cases[i].text, &bytes);
        if (rc != (cases[i].bytes ? 0 : -ERR_INVAL) || bytes != cases[i].bytes) {
            fail_msg("'%s': %d, %llu", cases[i].text, rc, (unsigned long long)bytes);
        }
    }
}

static void test_memory_range(void **state) {
    (void)state;
    BAD("memory of 0 bytes", "--memory", "0", NULL);
    BAD("multiple of 4 KiB", "--memory", "1025K", NULL);
    BAD("from 1 MiB", "--memory", "512K", NULL);
    BAD("to 1 TiB", "--memory", "2T", NULL);
    BAD("--memory lots", "--memory", "lots", NULL);
    GOOD("--memory", "1M", NULL);
    GOOD("--memory", "1T", NULL);
}

static void test_disks(void **state) {
    (void)state;
    GOOD("--disk", "a.img", "--disk", "b.img,readonly", "--disk", "c,ro", NULL);
    assert_int_equal(o.disk_count, 3);
    assert_string_equal(o.disk[0].open.path, "a.img");
    assert_false(o.disk[0].open.readonly);
    assert_string_equal(o.disk[1].open.path, "b.img");
    assert_true(o.disk[1].open.readonly && o.disk[2].open.readonly);
    BAD("unknown option 'rw'", "--disk", "a,rw", NULL);
    BAD("unknown option ''", "--disk", "a,", NULL);
    BAD("no file named", "--disk", "", NULL);
    BAD("no file named", "--disk", ",ro", NULL);
    GOOD("--disk", "a,,b,format=qcow2,snapshot,serial=S1,iops=100,bps=2M,on-full=pause,queues=3",
         "--disk", "b,aio=threads,backing-dir=/x,format=raw,readonly=off", NULL);
    const struct disk_option *d = o.disk;
    assert_string_equal(d[0].open.path, "a,b");
    assert_int_equal(d[0].open.format, BLK_FORMAT_QCOW2);
    assert_true(d[0].open.snapshot && d[0].pause_when_full && d[0].queues == 3);
    assert_string_equal(d[0].serial, "S1");
    assert_int_equal(d[0].limit.ops.size, 100);
    assert_int_equal(d[0].limit.bandwidth.size, 2 << 20);
    assert_int_equal(d[1].open.aio, BLK_AIO_THREADS);
    assert_string_equal(d[1].open.backing_dir, "/x");
    assert_false(d[1].open.readonly || d[1].open.backing);
    BAD("format=vmdk: not raw or qcow2", "--disk", "a,format=vmdk", NULL);
    BAD("iops=0: not a number", "--disk", "a,iops=0", NULL);
    BAD("bps=x: not a number", "--disk", "a,bps=x", NULL);
    BAD("serial=: not a name", "--disk", "a,serial=", NULL);
    BAD("not a name of 1 to 20", "--disk", "a,serial=123456789012345678901", NULL);
    BAD("queues=65", "--disk", "a,queues=65", NULL);
    BAD("make no sense", "--disk", "a,readonly,snapshot", NULL);
    BAD("on-full=stop: not error or pause", "--disk", "a,on-full=stop", NULL);
}

/* One more than there is room for. */
static void repeat(const char *option, const char *value, u32 count, const char *message) {
    char *argv[2 * 40 + 3] = {verb, kernel};
    int argc = 2;
    for (u32 i = 0; i <= count; i++) {
        argv[argc++] = (char *)(uintptr_t)option;
        argv[argc++] = (char *)(uintptr_t)value;
    }
    run_options_free(&o);
    err = (struct err){0};
    assert_int_equal(run_options_parse(&o, argc - 2, argv, &err), 0);
    run_options_free(&o);
    assert_true(run_options_parse(&o, argc, argv, &err) < 0);
    assert_non_null(strstr(err.text, message));
}

static void test_too_many(void **state) {
    (void)state;
    repeat("--disk", "d", OPT_MAX_DISKS, "at most 16 disks");
    repeat("--net", "none", OPT_MAX_NETS, "at most 8 cards");
    repeat("--module", "m", OPT_MAX_MODULES, "at most 32 modules");
}

static void test_modules(void **state) {
    (void)state;
    GOOD("--module", "file with arguments", "--module", "other", NULL);
    assert_int_equal(o.module_count, 2);
    assert_string_equal(o.module[0], "file with arguments");
}

static void test_transport(void **state) {
    (void)state;
    GOOD("--transport", "pci", NULL);
    assert_false(o.mmio);
    GOOD("--transport", "mmio", NULL);
    assert_true(o.mmio && !o.mmio_cmdline);
    GOOD("--transport", "mmio-cmdline", NULL);
    assert_true(o.mmio && o.mmio_cmdline);
    BAD("--transport isa", "--transport", "isa", NULL);
}

static void test_gdb(void **state) {
    (void)state;
    GOOD("--gdb", "tcp:127.0.0.1:1234", NULL);
    assert_string_equal(o.gdb, "tcp:127.0.0.1:1234");
    assert_false(o.gdb_wait);
    GOOD("--gdb", "unix:/tmp/a,b,wait", NULL);
    assert_string_equal(o.gdb, "unix:/tmp/a,b");
    assert_true(o.gdb_wait);
    BAD("--gdb 1234", "--gdb", "1234", NULL);
}

static void test_refused(void **state) {
    (void)state;
    BAD("--engine warp", "--engine", "warp", NULL);
    BAD("--cpus 0", "--cpus", "0", NULL);
    BAD("--cpus 65", "--cpus", "65", NULL);
    BAD("--cpus -1", "--cpus", "-1", NULL);
    BAD("--cpus 2x", "--cpus", "2x", NULL);
    BAD("from 1 to 64", "--cpus", "99999999999999999999999", NULL);
    BAD("--net tap0: not one of user", "--net", "tap0", NULL);
    BAD("--net user: not one of", "--net", "user=x", NULL);
    BAD("--net tap: not one of", "--net", "tap", NULL);
    BAD("mtu=67: not a number", "--net", "user,mtu=67", NULL);
    BAD("queues=9", "--net", "user,queues=9", NULL);
    BAD("vlan=4095", "--net", "switch=a,vlan=4095", NULL);
    BAD("unknown option 'vlan'", "--net", "tap=a,vlan=1", NULL);
    BAD("mac=1:2", "--net", "user,mac=1:2", NULL);
    BAD("mac=53:54:00:12:34:56", "--net", "user,mac=53:54:00:12:34:56", NULL);
    BAD("restrict=maybe", "--net", "user,restrict=maybe", NULL);
    BAD("rx-bps=0", "--net", "user,rx-bps=0", NULL);
    BAD("unknown option 'colour'", "--net", "user,colour=red", NULL);
    BAD("--console printer", "--console", "printer", NULL);
    BAD("--virtio-console file=", "--virtio-console", "file=", NULL);
    BAD("--debugcon ", "--debugcon", "", NULL);
    BAD("--rng: on or off", "--rng", "maybe", NULL);
    BAD("nonsense", "--trace", "pio,nonsense", NULL);
    BAD("only one console can be stdio", "--console", "stdio", "--virtio-console", "stdio", NULL);
    BAD("extra: not an option", "extra", NULL);
    BAD("extra: not an option", "--", "extra", NULL);
    BAD("--frobnicate: unknown option", "--frobnicate", NULL);
    BAD("--frobnicate=3: unknown option", "--quiet", "--frobnicate=3", NULL);
    BAD("-x: unknown option", "--quiet", "-xyz", NULL);
    BAD("--initrd: unknown option or missing value", "--quiet", "--initrd", NULL);
    BAD("--quiet=yes: unknown option", "--quiet=yes", NULL);
    assert_true(parse(NULL) < 0);
    assert_non_null(strstr(err.text, "no kernel"));
}

static void test_help(void **state) {
    (void)state;
    int saved = dup(STDOUT_FILENO);
    assert_non_null(freopen("/dev/null", "w", stdout));
    int rc = parse("--help", NULL), short_rc = parse("-h", NULL);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    assert_int_equal(rc, 1);
    assert_int_equal(short_rc, 1);
}

/* What stands on the command line wins over the file, wherever it stands. */
static void test_config_and_options(void **state) {
    (void)state;
    char path[] = "/tmp/run_options_test.XXXXXX";
    static const char text[] = "{\"boot-source\": {\"kernel_image_path\": \"from-file\"},"
                               "\"machine-config\": {\"vcpu_count\": 3, \"mem_size_mib\": 100}}";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    close(fd);
    assert_int_equal(parse("--cpus", "2", "--config", path, NULL), 0);
    assert_string_equal(o.kernel, "from-file");
    assert_int_equal(o.cpus, 2);
    assert_int_equal(o.memory, 100 * MIB);
    assert_int_equal(parse("--config", path, "--kernel", "mine", NULL), 0);
    assert_string_equal(o.kernel, "mine");
    assert_int_equal(o.cpus, 3);
    unlink(path);
    assert_true(parse("--config", path, NULL) < 0);
    assert_non_null(strstr(err.text, "No such file"));
    assert_true(parse("--config", "/", NULL) < 0);
    assert_non_null(strstr(err.text, "is a directory"));
}

static void test_vsock(void **state) {
    (void)state;
    GOOD("--vsock", "7,path=/tmp/a,,b", NULL);
    assert_int_equal(o.vsock.cid, 7);
    assert_string_equal(o.vsock.path, "/tmp/a,b");
    BAD("--vsock: CID=2", "--vsock", "2,path=x", NULL);
    BAD("--vsock: CID=4294967295", "--vsock", "4294967295,path=x", NULL);
    BAD("--vsock: CID=three", "--vsock", "three,path=x", NULL);
    BAD("--vsock: unknown option 'cid'", "--vsock", "cid=3,path=x", NULL);
    BAD("--vsock: unknown option 'port'", "--vsock", "3,port=x", NULL);
    BAD("--vsock: needs CID,path=SOCKET", "--vsock", "3", NULL);
    BAD("--vsock: needs CID,path=SOCKET", "--vsock", "3,path=", NULL);
}

static void test_stats(void **state) {
    (void)state;
    GOOD("--stats", NULL);
    assert_true(o.stats && !o.translator.count);
    GOOD("--stats=full", NULL);
    assert_true(o.stats && o.translator.count);
    BAD("--stats: full or nothing, not 'some'", "--stats=some", NULL);
}

static void test_portable(void **state) {
    (void)state;
    GOOD("--engine", "soft", NULL);
    assert_false(o.portable);
    GOOD("--engine", "soft", "--portable", NULL);
    assert_true(o.portable);
}

static void test_cloud_init(void **state) {
    (void)state;
    GOOD("--cloud-init", "user-data=u,network-config=n", NULL);
    assert_string_equal(o.cloud_init.user_data, "u");
    assert_string_equal(o.cloud_init.network_config, "n");
    assert_null(o.cloud_init.meta_data);
    BAD("--cloud-init: needs user-data=FILE", "--cloud-init", "meta-data=m", NULL);
    BAD("--cloud-init: user-data=", "--cloud-init", "user-data=", NULL);
    BAD("--cloud-init: unknown option 'vendor-data'", "--cloud-init", "vendor-data=x", NULL);
}

static void test_balloon(void **state) {
    (void)state;
    GOOD("--balloon", "on", NULL);
    assert_true(o.balloon.present);
    assert_int_equal(o.balloon.opts.target_mib, 0);
    GOOD("--balloon", "target=1G,deflate-on-oom,stats=5,reporting,hinting=off", NULL);
    assert_int_equal(o.balloon.opts.target_mib, 1024);
    assert_int_equal(o.balloon.opts.stats_seconds, 5);
    assert_true(o.balloon.opts.deflate_on_oom && o.balloon.opts.reporting);
    assert_false(o.balloon.opts.hinting);
    BAD("--balloon: target=12K", "--balloon", "target=12K", NULL);
    BAD("--balloon: target=", "--balloon", "target", NULL);
    BAD("--balloon: stats=65536", "--balloon", "stats=65536", NULL);
    BAD("--balloon: unknown option 'up'", "--balloon", "up", NULL);
    BAD("--balloon: unknown option ''", "--balloon", "on,", NULL);
    BAD("--balloon: reporting=maybe", "--balloon", "reporting=maybe", NULL);
}

#define T(name) cmocka_unit_test_teardown(name, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_defaults),           T(test_plain_options), T(test_nets),     T(test_sizes),
        T(test_memory_range),       T(test_disks),         T(test_too_many), T(test_modules),
        T(test_transport),          T(test_gdb),           T(test_refused),  T(test_help),
        T(test_config_and_options), T(test_stats),         T(test_balloon),  T(test_vsock),
        T(test_cloud_init),         T(test_portable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
