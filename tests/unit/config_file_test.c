/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration files in Firecracker's format: every field that is taken, every refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/cmd.h"

static struct run_options o;
static struct err err;

static int load(const char *text) {
    run_options_free(&o);
    o = (struct run_options){.cpus = 1, .memory = 512 * MIB, .rng = true};
    err = (struct err){0};
    return config_text_load(&o, "test.json", text, strlen(text), &err);
}

#define CPUS(text)   "\"machine-config\": {\"mem_size_mib\": 1, \"vcpu_count\": " text "}"
#define MEMORY(text) "\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": " text "}"
#define ID           "\"is_root_device\": false, \"drive_id\": "
#define NONE         "\"sosia_network\": \"none\""
#define BOOT         "\"boot-source\": {\"kernel_image_path\": \"k\"}"

static void good(const char *rest) {
    char text[4096];
    snprintf(text, sizeof(text), "{" BOOT "%s%s}", *rest ? "," : "", rest);
    if (load(text)) {
        fail_msg("%s", err.text);
    }
}

static void bad_text(const char *text, const char *message) {
    if (!load(text)) {
        fail_msg("accepted: %s", text);
    }
    if (strncmp(err.text, "config test.json: ", 18) || !strstr(err.text, message)) {
        fail_msg("'%s' does not say '%s'", err.text, message);
    }
    assert_null(strchr(err.text, '\n'));
}

static void bad(const char *rest, const char *message) {
    char text[4096];
    snprintf(text, sizeof(text), "{" BOOT ",%s}", rest);
    bad_text(text, message);
}

static int teardown(void **state) {
    (void)state;
    run_options_free(&o);
    return 0;
}

static void test_boot_source(void **state) {
    (void)state;
    good("");
    assert_string_equal(o.kernel, "k");
    assert_null(o.initrd);
    assert_non_null(strstr(o.cmdline, "reboot=k panic=1")); /* Firecracker's default */
    assert_true(o.mmio);                                    /* its devices are virtio over MMIO */
    assert_false(o.mmio_cmdline);
    assert_false(o.rng); /* only when asked for */
    assert_int_equal(o.cpus, 1);
    assert_int_equal(o.memory, 128 * MIB);
    assert_int_equal(
        load("{\"boot-source\": {\"kernel_image_path\": \"k\", \"initrd_path\": \"i\", "
             "\"boot_args\": \"acpi=off quiet\"}}"),
        0);
    assert_string_equal(o.initrd, "i");
    assert_string_equal(o.cmdline, "acpi=off quiet");
    assert_true(o.mmio_cmdline);
    assert_int_equal(
        load("{\"boot-source\": {\"kernel_image_path\": \"k\", \"initrd_path\": null}}"), 0);
    assert_null(o.initrd);
}

static void test_boot_source_refused(void **state) {
    (void)state;
    bad_text("{}", "missing field `boot-source` at line 1 column 2");
    bad_text("{\"boot-source\": null}", "invalid type: null, expected struct BootSourceConfig");
    bad_text("{\"boot-source\": []}", "invalid type: sequence, expected struct BootSourceConfig");
    bad_text("{\"boot-source\": {}}", "missing field `kernel_image_path` at line 1 column 18");
    bad_text("{\"boot-source\": {\"kernel_image_path\": 7}}",
             "invalid type: integer `7`, expected path string at line 1 column 39");
    bad_text("{\"boot-source\": {\"kernel_image_path\": \"k\", \"boot_args\": []}}",
             "invalid type: sequence, expected path string");
    bad_text("{\"boot-source\": {\"kernel_image_path\": \"k\", \"initrd_path\": true}}",
             "invalid type: boolean `true`, expected path string");
    bad_text(
        "{\"boot-source\": {\"kernel_image_path\": \"k\", \"kernel\": 1}}",
        "unknown field `kernel`, expected one of `kernel_image_path`, `initrd_path`, `boot_args`");
}

static void test_machine_config(void **state) {
    (void)state;
    good("\"machine-config\": {\"vcpu_count\": 4, \"mem_size_mib\": 1024, \"smt\": false, "
         "\"track_dirty_pages\": true, \"huge_pages\": \"2M\", \"cpu_template\": null}");
    assert_int_equal(o.cpus, 4);
    assert_int_equal(o.memory, GIB);
    good("\"machine-config\": {\"vcpu_count\": 32, \"mem_size_mib\": 1048576, "
         "\"huge_pages\": \"None\", \"cpu_template\": \"None\"}");
    assert_int_equal(o.cpus, 32);
    assert_int_equal(o.memory, 1024 * GIB);
}

static void test_machine_config_refused(void **state) {
    (void)state;
    bad("\"machine-config\": 1", "expected struct MachineConfig");
    bad(CPUS("0"), "The number of vCPUs must be greater than 0, less than 32");
    bad(CPUS("33"), "The number of vCPUs");
    bad(CPUS("3, \"smt\": true"), "1 or an even number");
    bad(CPUS("256"), "invalid value: integer `256`, expected u8");
    bad("\"machine-config\": {\"vcpu_count\": 1}", "missing field `mem_size_mib`");
    bad(CPUS("-1"), "invalid value: integer `-1`, expected u8");
    bad(CPUS("2.5"), "invalid type: floating point `2.5`, expected u8");
    bad(CPUS("\"2\""), "invalid type: string \"2\", expected u8");
    bad(CPUS("99999999999999999999"), "line 1");
    bad(MEMORY("0"), "The memory size (MiB) is either 0");
    bad(MEMORY("1048577"), "The memory size (MiB)");
    bad(MEMORY("129, \"huge_pages\": \"2M\""), "multiple of the configured page size");
    bad(MEMORY("9223372036854775807"), "The memory size (MiB)");
    bad("\"machine-config\": {\"smt\": 1}", "invalid type: integer `1`, expected a boolean");
    bad("\"machine-config\": {\"track_dirty_pages\": \"no\"}", "expected a boolean");
    bad("\"machine-config\": {\"huge_pages\": \"1G\"}",
        "unknown variant `1G`, expected one of `None`, `Transparent`, `2M`");
    bad("\"machine-config\": {\"huge_pages\": 2}",
        "invalid type: integer `2`, expected string or map");
    bad(MEMORY("1, \"cpu_template\": \"T2\""), "CPU template T2 is not offered");
    bad("\"machine-config\": {\"cores\": 1}",
        "unknown field `cores`, expected one of `vcpu_count`");
}

static void test_drives(void **state) {
    (void)state;
    good("\"drives\": []");
    assert_int_equal(o.disk_count, 0);
    good(
        "\"drives\": [{\"drive_id\": \"data\", \"path_on_host\": \"d\", \"is_root_device\": false, "
        "\"is_read_only\": true, \"cache_type\": \"Unsafe\", \"io_engine\": \"Sync\", "
        "\"partuuid\": null, \"rate_limiter\": null, \"socket\": null},"
        "{\"drive_id\": \"rootfs\", \"path_on_host\": \"r\", \"is_root_device\": true, "
        "\"is_read_only\": false, \"cache_type\": \"Writeback\", \"io_engine\": \"Async\"}]");
    assert_int_equal(o.disk_count, 2);
    assert_string_equal(o.disk[0].open.path, "r"); /* the root device is /dev/vda */
    assert_false(o.disk[0].open.readonly);
    assert_string_equal(o.disk[1].open.path, "d");
    assert_true(o.disk[1].open.readonly);
    assert_non_null(strstr(o.cmdline, " root=/dev/vda rw"));
    good("\"drives\": [{\"drive_id\": \"r\", \"path_on_host\": \"r\", \"is_root_device\": true, "
         "\"is_read_only\": true, \"partuuid\": \"0eaa91a0-01\"}]");
    assert_non_null(strstr(o.cmdline, " root=PARTUUID=0eaa91a0-01 ro"));
}

static void test_drives_refused(void **state) {
    (void)state;
    bad("\"drives\": {}", "invalid type: map, expected a sequence");
    bad("\"drives\": [3]", "invalid type: integer `3`, expected struct BlockDeviceConfig");
    bad("\"drives\": [{\"path_on_host\": \"d\"}]", "missing field `drive_id`");
    bad("\"drives\": [{" ID "\"a\"}]", "path_on_host is missing");
    bad("\"drives\": [{" ID "\"a/b\", \"path_on_host\": \"d\"}]", "alphanumeric");
    bad("\"drives\": [{" ID "\"\", \"path_on_host\": \"d\"}]", "alphanumeric");
    bad("\"drives\": [{\"drive_id\": 1, \"path_on_host\": \"d\"}]", "expected a string");
    bad("\"drives\": [{\"drive_id\": \"a\", \"path_on_host\": 1}]",
        "invalid type: integer `1`, expected path string");
    bad("\"drives\": [{\"drive_id\": \"a\", \"is_read_only\": 0}]", "expected a boolean");
    bad("\"drives\": [{\"drive_id\": \"a\", \"is_root_device\": \"yes\"}]", "expected a boolean");
    bad("\"drives\": [{\"drive_id\": \"a\", \"partuuid\": 7}]",
        "invalid type: integer `7`, expected path string");
    bad("\"drives\": [{\"drive_id\": \"a\", \"cache_type\": \"Magic\"}]",
        "unknown variant `Magic`, expected `Unsafe` or `Writeback`");
    bad("\"drives\": [{\"drive_id\": \"a\", \"io_engine\": \"Vulcan\"}]",
        "unknown variant `Vulcan`, expected `Async` or `Sync`");
    bad("\"drives\": [{\"drive_id\": \"a\", \"rate_limiter\": {\"speed\": 1}}]",
        "unknown field `speed`, expected");
    bad("\"drives\": [{" ID "\"a\", \"socket\": \"s\"}]", "(socket) are not offered");
    bad("\"drives\": [{\"drive_id\": \"a\", \"size\": 1}]", "unknown field `size`");
    bad("\"drives\": [{\"drive_id\": \"a\", \"path_on_host\": \"x\", \"is_root_device\": true},"
        "{\"drive_id\": \"b\", \"path_on_host\": \"y\", \"is_root_device\": true}]",
        "A root block device already exists!");
}

static void test_too_many(void **state) {
    (void)state;
    char text[8192];
    int n = snprintf(text, sizeof(text), "{" BOOT ",\"drives\": [");
    for (int i = 0; i <= OPT_MAX_DISKS; i++) {
        n += snprintf(text + n, sizeof(text) - (size_t)n,
                      "%s{" ID "\"d%d\", \"path_on_host\": \"x\"}", i ? "," : "", i);
    }
    snprintf(text + n, sizeof(text) - (size_t)n, "]}");
    bad_text(text, "at most 16 of drives are possible");
    n = snprintf(text, sizeof(text), "{" BOOT ",\"network-interfaces\": [");
    for (int i = 0; i <= OPT_MAX_NETS; i++) {
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%s{" NONE ", \"iface_id\": \"e%d\"}",
                      i ? "," : "", i);
    }
    snprintf(text + n, sizeof(text) - (size_t)n, "]}");
    bad_text(text, "at most 8 of network-interfaces are possible");
}

static void test_network(void **state) {
    (void)state;
    static const u8 mac[6] = {0x06, 0x00, 0xac, 0x10, 0x00, 0xFe};
    good("\"network-interfaces\": [{\"iface_id\": \"eth0\", \"host_dev_name\": \"tap0\", "
         "\"guest_mac\": \"06:00:ac:10:00:Fe\", \"mtu\": 9000, \"rx_rate_limiter\": null, "
         "\"tx_rate_limiter\": null}, {" NONE ", \"iface_id\": \"eth1\"}]");
    assert_int_equal(o.net_count, 2);
    assert_memory_equal(o.net[0].mac, mac, 6);
    assert_int_equal(o.net[0].mtu, 9000);
    assert_int_equal(o.net[1].mtu, 0);
    bad("\"network-interfaces\": [{\"iface_id\": \"e-0\"}]", "alphanumeric");
    bad("\"network-interfaces\": [{\"iface_id\": \"e\"}]",
        "host_dev_name (a tap device) and sosia_network");
    bad("\"network-interfaces\": [{\"iface_id\": \"e\", \"host_dev_name\": \"t\"}, {\"iface_id\": "
        "\"f\", \"host_dev_name\": \"t\"}]",
        "t is already in use");
    bad("\"network-interfaces\": [{\"iface_id\": \"e\", \"sosia_network\": \"tin-cans\"}]",
        "not one of user");
    good("\"network-interfaces\": [{\"iface_id\": \"e\", \"sosia_network\": \"user,restrict\"}]");
    assert_int_equal(o.net[0].kind, NET_USER);
    assert_true(o.net[0].user.restricted);
    bad("\"network-interfaces\": [{\"iface_id\": \"e\", \"host_dev_name\": 1}]",
        "expected path string");
    bad("\"network-interfaces\": [{" NONE ", \"iface_id\": \"e\", \"mtu\": 67}]",
        "the mtu must be 68 to 65535");
    bad("\"network-interfaces\": [{\"iface_id\": \"e\", \"mtu\": 65536}]",
        "integer `65536`, expected u16");
    good("\"network-interfaces\": [{" NONE
         ", \"iface_id\": \"e\", \"rx_rate_limiter\": {\"bandwidth\": "
         "{\"size\": "
         "1000, \"refill_time\": 100, \"one_time_burst\": 7}}, \"tx_rate_limiter\": {\"ops\": "
         "{\"size\": 5, \"refill_time\": 9}, \"bandwidth\": null}}]");
    assert_int_equal(o.net[0].rx.bandwidth.size, 1000);
    assert_int_equal(o.net[0].rx.bandwidth.burst, 7);
    assert_int_equal(o.net[0].rx.ops.size, 0);
    assert_int_equal(o.net[0].tx.ops.refill_ms, 9);
    bad("\"network-interfaces\": [{\"iface_id\": \"e\", \"rx_rate_limiter\": {\"ops\": {\"size\": "
        "1}}}]",
        "missing field `refill_time`");
    bad("\"network-interfaces\": [{\"iface_id\": \"e\", \"rx_rate_limiter\": {\"ops\": {\"size\": "
        "-1}}}]",
        "integer `-1`, expected u64");
    bad("\"network-interfaces\": [{\"iface_id\": \"e\", \"tx_rate_limiter\": 1}]",
        "expected struct RateLimiterConfig");
    bad("\"network-interfaces\": [{\"iface_id\": \"e\", \"speed\": 1}]",
        "unknown field `speed`, expected");
    bad("\"network-interfaces\": {}", "expected a sequence");
    static const char *const macs[] = {
        "06:00:ac:10:00",    "06:00:ac:10:00:0g", "06-00-ac-10-00-02",  "06:00:ac:10:00:2",
        " 6: 0:ac:10:00:02", "0x:00:ac:10:00:02", "06:00:ac:10:00:022", ""};
    for (size_t i = 0; i < ARRAY_LEN(macs); i++) {
        char text[160];
        snprintf(text, sizeof(text),
                 "\"network-interfaces\": [{" NONE ", \"iface_id\": \"e\", \"guest_mac\": \"%s\"}]",
                 macs[i]);
        bad(text, "is not a MAC address");
    }
}

static void test_entropy_and_others(void **state) {
    (void)state;
    good("\"entropy\": {}");
    assert_true(o.rng);
    good("\"balloon\": null, \"vsock\": null, \"logger\": null, \"metrics\": null, "
         "\"mmds-config\": null, \"cpu-config\": null, \"network-interfaces\": null");
    assert_false(o.rng);
    good("\"entropy\": {\"rate_limiter\": {\"bandwidth\": {\"size\": 1000, \"refill_time\": 100, "
         "\"one_time_burst\": 7}}}");
    assert_true(o.rng);
    assert_int_equal(o.rng_limit.bandwidth.size, 1000);
    assert_int_equal(o.rng_limit.bandwidth.refill_ms, 100);
    assert_int_equal(o.rng_limit.bandwidth.burst, 7);
    assert_int_equal(o.rng_limit.ops.size, 0);
    good("\"sosia\": {\"engine\": \"soft\", \"transport\": \"pci\"}");
    assert_int_equal(o.engine, ENGINE_SOFT);
    assert_false(o.mmio);
    bad("\"sosia\": {\"engine\": \"diesel\"}", "unknown variant `diesel`");
    good("\"serial\": {\"rate_limiter\": {\"size\": 1, \"refill_time\": 2}}");
    assert_int_equal(o.serial_limit.refill_ms, 2);
    bad("\"entropy\": 1", "expected struct EntropyDeviceConfig");
    bad("\"logger\": {}", "logger: only `sosia api --config-file` has it");
    bad("\"metrics\": {\"metrics_path\": \"m\"}", "metrics: only `sosia api");
    bad("\"pmem\": [{\"id\": \"p\", \"path_on_host\": \"f\"}]", "not offered by Sosia");
    bad("\"memory-hotplug\": {\"total_size_mib\": 1024}", "not offered by Sosia");
    bad("\"mmds-config\": {\"network_interfaces\": []}", "is empty");
    bad("\"mmds-config\": {\"network_interfaces\": [\"e\"]}", "does not correspond");
    bad("\"planet\": {}", "unknown field `planet`, expected one of `balloon`");
}

static void test_balloon(void **state) {
    (void)state;
    good("\"balloon\": {\"amount_mib\": 64, \"deflate_on_oom\": true, "
         "\"stats_polling_interval_s\": 3, \"free_page_reporting\": true}");
    assert_true(o.balloon.present && o.balloon.opts.deflate_on_oom && o.balloon.opts.reporting);
    assert_false(o.balloon.opts.hinting);
    assert_int_equal(o.balloon.opts.target_mib, 64);
    assert_int_equal(o.balloon.opts.stats_seconds, 3);
    good("\"balloon\": null");
    assert_false(o.balloon.present);
    good("\"vsock\": {\"guest_cid\": 5, \"uds_path\": \"./v.sock\"}");
    assert_int_equal(o.vsock.cid, 5);
    assert_string_equal(o.vsock.path, "./v.sock");
    good("\"vsock\": null");
    assert_int_equal(o.vsock.cid, 0);
    bad("\"balloon\": {\"helium\": 1}", "unknown field `helium`");
}

static void test_not_json(void **state) {
    (void)state;
    bad_text("", "line");
    bad_text("{", "line 1");
    bad_text("{\n\n!", "line 3");
    bad_text("[]", "invalid type: sequence, expected struct VmmConfig");
    bad_text("[1", "line 1");
    bad_text("{" BOOT "} trailing", "line 1");
    bad_text("{" BOOT "," BOOT "}", "duplicate");
    bad_text("{" BOOT ", \"a\\u0000b\": 1}", "line 1");
    bad_text("{" BOOT ", \"a\\nb\": 1}", "unknown field `a?b`");
    bad_text("{\"boot-source\": {\"kernel_image_path\": \"\xff\"}}", "line 1");
    char deep[8192];
    memset(deep, '[', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = 0;
    bad_text(deep, "line 1");
}

static void test_long_arguments(void **state) {
    (void)state;
    static char text[8192], args[3000];
    memset(args, 'a', sizeof(args) - 1);
    snprintf(text, sizeof(text),
             "{\"boot-source\": {\"kernel_image_path\": \"k\", \"boot_args\": \"%s\"}, \"drives\": "
             "[{\"drive_id\": \"r\", \"path_on_host\": \"r\", \"is_root_device\": true}]}",
             args);
    bad_text(text, "command line too long");
}

static void test_large_file(void **state) {
    (void)state;
    char path[] = "/tmp/config_file_test.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (4 << 20) + 1), 0);
    close(fd);
    err = (struct err){0};
    assert_int_equal(config_file_load(&o, path, &err), -ERR_INVAL);
    assert_non_null(strstr(err.text, "larger than 4 MiB"));
    unlink(path);
}

#define T(name) cmocka_unit_test_teardown(name, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_boot_source),
        T(test_boot_source_refused),
        T(test_machine_config),
        T(test_machine_config_refused),
        T(test_drives),
        T(test_drives_refused),
        T(test_too_many),
        T(test_network),
        T(test_entropy_and_others),
        T(test_balloon),
        T(test_not_json),
        T(test_long_arguments),
        T(test_large_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
