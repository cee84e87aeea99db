/* SPDX-License-Identifier: Apache-2.0 */
/* The API's router, tables and resources, without sockets and machines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/api.h"

static struct api api;
static struct api_reply reply;

static int setup(void **state) {
    (void)state;
    assert_int_equal(api_init(&api, NULL, "test-1"), 0);
    api.log.mute = true;
    api.no_files = true;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    free(reply.body);
    reply = (struct api_reply){0};
    api_free(&api);
    return 0;
}

static int call(const char *method, const char *path, const char *body) {
    struct api_request q = {method, path, body, body ? strlen(body) : 0};
    free(reply.body);
    api_handle(&api, &q, &reply);
    return reply.status;
}

static void good(const char *method, const char *path, const char *body) {
    int status = call(method, path, body);
    if (status >= 300) {
        fail_msg("%s %s %s -> %d %s", method, path, body, status, reply.body);
    }
}

/* fault is the beginning of the message. */
static void bad(const char *method, const char *path, const char *body, const char *fault) {
    char want[700];
    int status = call(method, path, body);
    snprintf(want, sizeof(want), "{\"fault_message\":\"%s", fault);
    if (status != 400 || strncmp(reply.body, want, strlen(want)) != 0) {
        fail_msg("%s %s %s -> %d %s\nnot %s", method, path, body, status, reply.body, want);
    }
}

#define JSON_ERROR "An error occurred when deserializing the json body of a request: "
#define BEFORE     "The requested operation is not supported before starting the microVM."

static void test_information(void **state) {
    (void)state;
    assert_int_equal(call("GET", "/", NULL), 200);
    assert_string_equal(reply.body,
                        "{\"app_name\":\"Firecracker\",\"id\":\"test-1\",\"state\":\"Not "
                        "started\",\"vmm_version\":\"" API_FIRECRACKER_VERSION "\"}");
    assert_int_equal(call("GET", "/version", NULL), 200);
    assert_int_equal(call("GET", "/version/", NULL), 200);
    assert_int_equal(call("GET", "/machine-config", NULL), 200);
    assert_string_equal(reply.body, "{\"vcpu_count\":1,\"mem_size_mib\":128,\"smt\":false,"
                                    "\"track_dirty_pages\":false,\"huge_pages\":\"None\"}");
    assert_int_equal(call("GET", "/vm/config", NULL), 200);
    assert_non_null(strstr(reply.body, "\"boot-source\":null"));
    assert_int_equal(call("GET", "/sosia", NULL), 200);
    assert_int_equal(call("GET", "/sosia/metrics", NULL), 200);
    assert_non_null(strstr(reply.body, "\nfirecracker_get_api_requests_vmm_version_count 2\n"));
    assert_string_equal(reply.type, "text/plain; version=0.0.4");
}

static void test_paths(void **state) {
    (void)state;
    bad("PUT", "/foo", "{}", "Invalid request method and/or path: PUT foo.");
    bad("GET", "/foo/bar", NULL, "Invalid request method and/or path: GET foo.");
    bad("GET", "/vm", NULL, "Invalid request method and/or path: GET vm.");
    bad("PUT", "/vm", "{}", "Invalid request method and/or path: PUT vm.");
    bad("PATCH", "/boot-source", "{}", "Invalid request method and/or path: PATCH boot-source.");
    bad("PUT", "/snapshot/remove", "{}",
        "Invalid request method and/or path: PUT snapshot/remove.");
    bad("GET", "/balloon/x", NULL, "Unrecognized GET request path `x`.");
    bad("PUT", "/mmds/x", "{}", "Unrecognized PUT request path `x`.");
    bad("GET", "/version", "{}", "GET request cannot have a body.");
    bad("PUT", "/actions", NULL, "Empty PUT request.");
    bad("PATCH", "/vm", NULL, "Empty PATCH request.");
    bad("PUT", "/drives", "{}", "The ID cannot be empty.");
    bad("PUT", "/drives/", "{}", "The ID cannot be empty.");
    bad("PUT", "/drives/a-b", "{}",
        "API Resource IDs can only contain alphanumeric characters and underscores.");
    bad("DELETE", "/drives/a", NULL, BEFORE);
    bad("PUT", "/\xff\xfe", "{}", "Invalid request method and/or path: PUT ??.");
}

static void test_json(void **state) {
    (void)state;
    bad("PUT", "/boot-source", "{\"kernel\": \"k\"}",
        JSON_ERROR "unknown field `kernel`, expected one of `kernel_image_path`, `initrd_path`, "
                   "`boot_args` at line 1 column 9.");
    bad("PUT", "/boot-source", "{\n \"boot_args\": \"x\"\n}",
        JSON_ERROR "missing field `kernel_image_path` at line 3 column 1.");
    bad("PUT", "/boot-source", "{\"kernel_image_path\": null}",
        JSON_ERROR "invalid type: null, expected path string at line 1 column 26.");
    bad("PUT", "/machine-config", "{\"vcpu_count\": 300, \"mem_size_mib\": 1}",
        JSON_ERROR "invalid value: integer `300`, expected u8 at line 1 column 18.");
    bad("PUT", "/machine-config", "{\"vcpu_count\": \"2\", \"mem_size_mib\": 1}",
        JSON_ERROR "invalid type: string \\\"2\\\", expected u8 at line 1 column 18.");
    bad("PATCH", "/vm", "{\"state\": \"Gone\"}",
        JSON_ERROR "unknown variant `Gone`, expected `Paused` or `Resumed` at line 1 column 16.");
    bad("PUT", "/actions", "{\"action_type\": \"Stop\"}",
        JSON_ERROR "unknown variant `Stop`, expected one of `FlushMetrics`, `InstanceStart`, "
                   "`SendCtrlAltDel` at line 1 column 22.");
    bad("PUT", "/vsock", "{\"guest_cid\": 3, \"guest_cid\": 4, \"uds_path\": \"v\"}",
        JSON_ERROR "duplicate field `guest_cid` at line 1 column");
    bad("PUT", "/drives/a",
        "{\"drive_id\": \"a\", \"is_root_device\": false, \"rate_limiter\": {\"ops\": {\"size\": "
        "1}}}",
        JSON_ERROR "missing field `refill_time` at line 1 column 78.");
    bad("PUT", "/actions", "[]", JSON_ERROR "invalid type: sequence, expected struct ActionBody");
    bad("PUT", "/actions", "{", JSON_ERROR "EOF while parsing a value at line 1 column 1.");
    bad("PUT", "/actions", "\xff", JSON_ERROR);
}

static void test_machine_config(void **state) {
    (void)state;
    good("PUT", "/machine-config", "{\"vcpu_count\": 4, \"mem_size_mib\": 512}");
    good("PATCH", "/machine-config", "{\"mem_size_mib\": 256, \"smt\": true}");
    assert_int_equal(call("GET", "/machine-config", NULL), 200);
    assert_string_equal(reply.body, "{\"vcpu_count\":4,\"mem_size_mib\":256,\"smt\":true,"
                                    "\"track_dirty_pages\":false,\"huge_pages\":\"None\"}");
    bad("PATCH", "/machine-config", "{}", "Empty PATCH request.");
    bad("PATCH", "/machine-config", "{\"vcpu_count\": 3}",
        "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must "
        "be 1 or an even number if SMT is enabled.");
    bad("PATCH", "/machine-config", "{\"mem_size_mib\": 0}",
        "Machine config error: The memory size (MiB) is either 0, or not a multiple of the "
        "configured page size.");
    bad("PUT", "/balloon", "{\"amount_mib\": 257, \"deflate_on_oom\": true}",
        "Balloon config error: Amount of pages requested is too large.");
    good("PUT", "/balloon", "{\"amount_mib\": 200, \"deflate_on_oom\": true}");
    bad("PATCH", "/machine-config", "{\"mem_size_mib\": 100}",
        "Machine config error: The memory size (MiB) is smaller than the previously set balloon");
    good("PATCH", "/machine-config", "{\"cpu_template\": \"None\"}");
    assert_true(reply.deprecated);
    good("PATCH", "/machine-config", "{\"smt\": false}");
    assert_false(reply.deprecated);
}

#define DRIVE(id, root)                                                                            \
    "{\"drive_id\": \"" id "\", \"is_root_device\": " root ", \"path_on_host\": \"" id "\"}"

static void test_drives(void **state) {
    (void)state;
    good("PUT", "/drives/data", DRIVE("data", "false"));
    good("PUT", "/drives/root", DRIVE("root", "true"));
    assert_int_equal(call("GET", "/vm/config", NULL), 200);
    const char *root = strstr(reply.body, "\"drive_id\":\"root\"");
    const char *data = strstr(reply.body, "\"drive_id\":\"data\"");
    assert_true(root && data && root < data);
    bad("PUT", "/drives/other", DRIVE("other", "true"),
        "Drive config error: A root block device already exists!");
    bad("PUT", "/drives/a", DRIVE("b", "true"),
        "The id from the path does not match the id from the body!");
    good("PUT", "/drives/root", DRIVE("root", "true")); /* again: replaced */
    assert_int_equal(json_array_size(api.config.many[API_DRIVES]), 2);
    bad("PUT", "/drives/v", "{\"drive_id\":\"v\",\"is_root_device\":false,\"socket\":\"s\"}",
        "Drive config error: Unable to create the block device: vhost-user");
    for (int i = 0; i < OPT_MAX_DISKS - 2; i++) {
        char path[32], body[128];
        snprintf(path, sizeof(path), "/drives/d%d", i);
        snprintf(body, sizeof(body),
                 "{\"drive_id\":\"d%d\",\"is_root_device\":false,\"path_on_host\":\"x\"}", i);
        good("PUT", path, body);
    }
    bad("PUT", "/drives/more", DRIVE("more", "false"), "Drive config error: at most 16 of drives");
    bad("PATCH", "/drives/root", "{\"drive_id\": \"root\"}", BEFORE);
}

static void test_networks(void **state) {
    (void)state;
    good("PUT", "/network-interfaces/eth0",
         "{\"iface_id\": \"eth0\", \"host_dev_name\": \"tap0\", \"guest_mac\": "
         "\"06:00:00:00:00:01\"}");
    bad("PUT", "/network-interfaces/eth1",
        "{\"iface_id\": \"eth1\", \"host_dev_name\": \"tap1\", \"guest_mac\": "
        "\"06:00:00:00:00:01\"}",
        "Network config error: The MAC address is already in use: 06:00:00:00:00:01");
    bad("PUT", "/network-interfaces/eth1", "{\"iface_id\": \"eth1\", \"host_dev_name\": \"tap0\"}",
        "Network config error: The host device name tap0 is already in use.");
    bad("PUT", "/mmds/config", "{\"network_interfaces\": []}",
        "MMMDS config error: The list of network interface IDs that allow forwarding MMDS "
        "requests is empty.");
    bad("PUT", "/mmds/config", "{\"network_interfaces\": [\"eth7\"]}",
        "MMMDS config error: The list of network interface IDs provided contains at least one ID "
        "that does not correspond");
    bad("PUT", "/mmds/config",
        "{\"network_interfaces\": [\"eth0\"], \"ipv4_address\": \"10.0.0.1\"}",
        "MMMDS config error: The MMDS IPv4 address is not link local.");
    good("PUT", "/mmds/config", "{\"network_interfaces\": [\"eth0\"], \"version\": \"V2\"}");
}

static void test_metadata(void **state) {
    (void)state;
    static char big[60000];
    assert_int_equal(call("GET", "/mmds", NULL), 200);
    assert_string_equal(reply.body, "{}");
    bad("PATCH", "/mmds", "{\"a\": 1}", "MMDS error: The MMDS data store is not initialized.");
    good("PUT", "/mmds", "{\"a\": {\"b\": 1, \"c\": 2}, \"d\": [1]}");
    good("PATCH", "/mmds", "{\"a\": {\"b\": null, \"e\": {\"f\": null}}, \"d\": 5}");
    assert_int_equal(call("GET", "/mmds", NULL), 200);
    assert_string_equal(reply.body, "{\"a\":{\"c\":2,\"e\":{}},\"d\":5}");
    memset(big, 'x', sizeof(big) - 1);
    memcpy(big, "{\"k\": \"", 7);
    memcpy(big + sizeof(big) - 3, "\"}", 2);
    assert_int_equal(call("PUT", "/mmds", big), 413);
    assert_int_equal(call("PATCH", "/mmds", big), 413);
    assert_int_equal(call("GET", "/mmds", NULL), 200);
    assert_string_equal(reply.body, "{\"a\":{\"c\":2,\"e\":{}},\"d\":5}");
}

#define BITS(bitmap)                                                                               \
    "{\"cpuid_modifiers\": [{\"leaf\": \"0x7\", \"subleaf\": \"0\", \"flags\": 1, \"modifiers\": " \
    "[{\"register\": \"ebx\", \"bitmap\": \"" bitmap "\"}]}]}"

static void test_cpu_config(void **state) {
    (void)state;
    struct cpu_template t;
    struct api_text e;
    good("PUT", "/cpu-config", "{}");
    good("PUT", "/cpu-config", BITS("0b0xx_1"));
    assert_int_equal(api_cpu_template(api.config.single[API_CPU_CONFIG], &t, &e), 0);
    assert_int_equal(t.count, 1);
    assert_int_equal(t.modifier[0].leaf, 7);
    assert_int_equal(t.modifier[0].reg, 1);
    assert_int_equal(t.modifier[0].mask, 9);
    assert_int_equal(t.modifier[0].value, 1);
    bad("PUT", "/cpu-config", BITS("01"), "Configure CPU error: '01' is not a bitmap");
    bad("PUT", "/cpu-config", BITS("0b"), "Configure CPU error: '0b' is not a bitmap");
    bad("PUT", "/cpu-config", BITS("0b012"), "Configure CPU error: ");
    bad("PUT", "/cpu-config", BITS("0b000000001111111100000000111111110"), "Configure CPU error: ");
    bad("PUT", "/cpu-config", "{\"kvm_capabilities\": [\"56\"]}", "Configure CPU error: kvm_cap");
    bad("PUT", "/cpu-config", "{\"msr_modifiers\": [{\"addr\": \"0x10\", \"bitmap\": \"0b1\"}]}",
        "Configure CPU error: MSR 0x10 cannot be modified");
    bad("PUT", "/cpu-config", "{\"msr_modifiers\": [{\"addr\": \"-1\", \"bitmap\": \"0b1\"}]}",
        "Configure CPU error: '-1' is not a number");
    good("PUT", "/cpu-config",
         "{\"msr_modifiers\": [{\"addr\": \"0x10a\", \"bitmap\": \"0b0x\"}]}");
}

static void test_times(void **state) {
    (void)state;
    bad("PATCH", "/vm", "{\"state\": \"Paused\"}", BEFORE);
    bad("PUT", "/actions", "{\"action_type\": \"FlushMetrics\"}", BEFORE);
    bad("PUT", "/actions", "{\"action_type\": \"SendCtrlAltDel\"}", BEFORE);
    bad("GET", "/balloon/statistics", NULL, BEFORE);
    bad("PATCH", "/balloon", "{\"amount_mib\": 1}", BEFORE);
    bad("GET", "/balloon", NULL, "Balloon config error: No balloon device found.");
    bad("PUT", "/actions", "{\"action_type\": \"InstanceStart\"}",
        "Start microvm error: Cannot start microvm without kernel configuration.");
    bad("PUT", "/snapshot/create", "{\"snapshot_path\": \"s\", \"mem_file_path\": \"m\"}", BEFORE);
    good("PUT", "/boot-source", "{\"kernel_image_path\": \"k\"}");
    bad("PUT", "/snapshot/load",
        "{\"snapshot_path\": \"s\", \"mem_backend\": {\"backend_type\": \"File\", "
        "\"backend_path\": \"m\"}}",
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring");
    bad("PUT", "/pmem/p", "{\"id\": \"p\", \"path_on_host\": \"f\"}",
        "Pmem device error: persistent memory devices are not offered");
    bad("PUT", "/hotplug/memory", "{\"total_size_mib\": 1024}", "Memory hotplug config error: ");
    api.state = API_PAUSED; /* as if */
    bad("PUT", "/boot-source", "{\"kernel_image_path\": \"k\"}",
        "The requested operation is not supported after starting the microVM.");
    bad("PUT", "/actions", "{\"action_type\": \"InstanceStart\"}",
        "The requested operation is not supported after starting the microVM.");
    bad("DELETE", "/drives/a", NULL, "The requested operation is not supported: devices of a");
    bad("PATCH", "/pmem/p", "{\"id\": \"p\"}", "The requested operation is not supported: ");
    api.state = API_NOT_STARTED;
}

static void test_log(void **state) {
    (void)state;
    char path[] = "/tmp/api_test.XXXXXX", line[512], body[200];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    api.no_files = api.log.mute = false;
    snprintf(body, sizeof(body),
             "{\"log_path\": \"%s\", \"level\": \"Warn\", \"show_level\": true, "
             "\"show_log_origin\": true}",
             path);
    good("PUT", "/logger", body);
    bad("GET", "/x", NULL, "Invalid");
    bad("PUT", "/logger", "{\"log_path\": \"/nowhere/log\"}",
        "Logger error: Failed to open target file: No such file or directory (os error 2)");
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof(line), f));
    fclose(f);
    unlink(path);
    assert_non_null(strstr(line, " [test-1:main:ERROR:cmd/api_router.c:"));
    assert_non_null(strstr(line, "Received Error. Status code: 400 Bad Request. Message: Invalid"));
    assert_int_equal(line[4], '-');
    assert_int_equal(line[10], 'T');
}

static void test_metrics(void **state) {
    (void)state;
    char path[] = "/tmp/api_test.XXXXXX", body[200];
    static char line[64 * 1024];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    api.no_files = false;
    bad("PUT", "/metrics", "{\"metrics_path\": \"/nowhere/m\"}", "Metrics error: ");
    snprintf(body, sizeof(body),
             "{\"metrics_path\": \"%s\", \"emit_id\": true, \"properties\": {\"k\": \"v\"}}", path);
    good("PUT", "/metrics", body);
    bad("PUT", "/metrics", body, "Metrics error: Cannot initialize the metrics system");
    call("GET", "/version", NULL);
    assert_int_equal(api_metrics_flush(&api), 0);
    call("GET", "/version", NULL);
    call("GET", "/version", NULL);
    assert_int_equal(api_metrics_flush(&api), 0);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (int i = 1; i <= 2; i++) {
        assert_non_null(fgets(line, sizeof(line), f));
        json_t *v = json_loads(line, 0, NULL);
        assert_non_null(v);
        const json_t *get = json_object_get(v, "get_api_requests");
        assert_int_equal(json_integer_value(json_object_get(get, "vmm_version_count")), i);
        assert_string_equal(json_string_value(json_object_get(v, "id")), "test-1");
        assert_non_null(json_object_get(v, "utc_timestamp_ms"));
        assert_non_null(json_object_get(json_object_get(v, "block"), "read_agg"));
        json_decref(v);
    }
    assert_null(fgets(line, sizeof(line), f));
    fclose(f);
    unlink(path);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_information), T(test_paths),    T(test_json),     T(test_machine_config),
        T(test_drives),      T(test_networks), T(test_metadata), T(test_times),
        T(test_cpu_config),  T(test_log),      T(test_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
