/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics: the groups and names of Firecracker's (src/vmm/src/logger/metrics.rs and the devices'
 * metrics.rs name them), zero where Sosia has nothing of the kind, and a group "sosia".
 *
 * The file is written without waiting; a line that does not fit is counted as missed.
 */
#include "cmd/api_metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/api.h"
#include "cmd/stats.h"
#include "core/dev/char_limit.h"

/* --- names ------------------------------------------------------------------------------------ */

#define VIRTIO_FAILS "activate_fails cfg_fails event_fails "

/* Names that end in _agg are objects {min_us, max_us, sum_us}. */
static const struct group {
    const char *name, *fields;
    bool store; /* values, not counters: never turned into differences */
} groups[] = {
    {"api_server", "process_startup_time_us process_startup_time_cpu_us", true},
    {"balloon", VIRTIO_FAILS "inflate_count stats_updates_count stats_update_fails deflate_count "
                             "free_page_report_count free_page_report_freed free_page_report_fails "
                             "free_page_hint_count free_page_hint_freed free_page_hint_fails"},
    {"block",
     VIRTIO_FAILS "no_avail_buffer execute_fails invalid_reqs_count flush_count "
                  "queue_event_count rate_limiter_event_count update_count update_fails read_bytes "
                  "write_bytes read_count write_count read_agg write_agg "
                  "rate_limiter_throttled_events io_engine_throttled_events remaining_reqs_count"},
    {"deprecated_api", "deprecated_http_api_calls"},
    {"entropy", VIRTIO_FAILS "entropy_event_fails entropy_event_count entropy_bytes host_rng_fails "
                             "entropy_rate_limiter_throttled rate_limiter_event_count"},
    {"get_api_requests",
     "instance_info_count machine_cfg_count mmds_count vmm_version_count hotplug_memory_count"},
    {"i8042",
     "error_count missed_read_count missed_write_count read_count reset_count write_count"},
    {"interrupts", "triggers config_updates"},
    {"latencies_us",
     "full_create_snapshot diff_create_snapshot load_snapshot pause_vm resume_vm "
     "vmm_full_create_snapshot vmm_diff_create_snapshot vmm_load_snapshot vmm_pause_vm "
     "vmm_resume_vm",
     true},
    {"logger", "missed_metrics_count metrics_fails missed_log_count log_fails"},
    {"memory_hotplug",
     VIRTIO_FAILS "queue_event_fails queue_event_count plug_agg plug_count plug_bytes plug_fails "
                  "unplug_agg unplug_count unplug_bytes unplug_fails unplug_discard_fails "
                  "unplug_all_agg unplug_all_count unplug_all_fails state_agg state_count "
                  "state_fails"},
    {"mmds",
     "rx_accepted rx_accepted_err rx_accepted_unusual rx_bad_eth rx_invalid_token rx_no_token "
     "rx_count tx_bytes tx_count tx_errors tx_frames connections_created connections_destroyed"},
    {"net",
     VIRTIO_FAILS "mac_address_updates no_rx_avail_buffer no_tx_avail_buffer rx_queue_event_count "
                  "rx_event_rate_limiter_count rx_rate_limiter_throttled rx_tap_event_count "
                  "rx_bytes_count rx_packets_count rx_fails rx_count tap_read_fails "
                  "tap_write_fails tap_write_agg tx_bytes_count tx_malformed_frames tx_fails "
                  "tx_count tx_packets_count tx_partial_reads tx_queue_event_count "
                  "tx_rate_limiter_event_count tx_rate_limiter_throttled tx_spoofed_mac_count "
                  "tx_remaining_reqs_count"},
    {"patch_api_requests",
     "drive_count drive_fails network_count network_fails machine_cfg_count machine_cfg_fails "
     "mmds_count mmds_fails hotplug_memory_count hotplug_memory_fails pmem_count pmem_fails"},
    {"pmem", VIRTIO_FAILS "queue_event_count rate_limiter_throttled_events "
                          "rate_limiter_event_count"},
    {"put_api_requests",
     "actions_count actions_fails boot_source_count boot_source_fails drive_count drive_fails "
     "logger_count logger_fails machine_cfg_count machine_cfg_fails cpu_cfg_count cpu_cfg_fails "
     "metrics_count metrics_fails network_count network_fails mmds_count mmds_fails vsock_count "
     "vsock_fails pmem_count pmem_fails serial_count serial_fails hotplug_memory_count "
     "hotplug_memory_fails"},
    {"seccomp", "num_faults", true},
    {"signals", "sigbus sigsegv sigxfsz sigxcpu sigpipe sighup sigill", true},
    {"uart", "error_count flush_count missed_read_count missed_write_count read_count write_count "
             "rate_limiter_dropped_bytes"},
    {"vcpu", "exit_io_in exit_io_out exit_mmio_read exit_mmio_write failures kvmclock_ctrl_fails "
             "exit_io_in_agg exit_io_out_agg exit_mmio_read_agg exit_mmio_write_agg"},
    {"vhost_user_block", "activate_fails cfg_fails init_time_us activate_time_us "
                         "config_change_time_us"},
    {"vmm", "device_events panic_count", true},
    {"vsock",
     "activate_fails cfg_fails rx_queue_event_fails tx_queue_event_fails ev_queue_event_fails "
     "muxer_event_fails conn_event_fails rx_queue_event_count tx_queue_event_count rx_bytes_count "
     "tx_bytes_count rx_packets_count tx_packets_count conns_added conns_killed conns_removed "
     "killq_resync tx_flush_fails tx_write_fails rx_read_fails"},
    {"sosia", "instructions exits interrupts exceptions uptime_ms"},
};

/* Where a request is counted: by enum api_counter. */
static const struct {
    const char *group, *stem;
} counter_names[API_N_COUNT] = {
    [API_N_GET_INFO] = {"get_api_requests", "instance_info"},
    [API_N_GET_MACHINE] = {"get_api_requests", "machine_cfg"},
    [API_N_GET_MMDS] = {"get_api_requests", "mmds"},
    [API_N_GET_VERSION] = {"get_api_requests", "vmm_version"},
    [API_N_GET_HOTPLUG] = {"get_api_requests", "hotplug_memory"},
    [API_N_PUT_ACTIONS] = {"put_api_requests", "actions"},
    [API_N_PUT_BOOT_SOURCE] = {"put_api_requests", "boot_source"},
    [API_N_PUT_DRIVE] = {"put_api_requests", "drive"},
    [API_N_PUT_LOGGER] = {"put_api_requests", "logger"},
    [API_N_PUT_MACHINE] = {"put_api_requests", "machine_cfg"},
    [API_N_PUT_CPU] = {"put_api_requests", "cpu_cfg"},
    [API_N_PUT_METRICS] = {"put_api_requests", "metrics"},
    [API_N_PUT_NETWORK] = {"put_api_requests", "network"},
    [API_N_PUT_MMDS] = {"put_api_requests", "mmds"},
    [API_N_PUT_VSOCK] = {"put_api_requests", "vsock"},
    [API_N_PUT_PMEM] = {"put_api_requests", "pmem"},
    [API_N_PUT_SERIAL] = {"put_api_requests", "serial"},
    [API_N_PUT_HOTPLUG] = {"put_api_requests", "hotplug_memory"},
    [API_N_PATCH_DRIVE] = {"patch_api_requests", "drive"},
    [API_N_PATCH_NETWORK] = {"patch_api_requests", "network"},
    [API_N_PATCH_MACHINE] = {"patch_api_requests", "machine_cfg"},
    [API_N_PATCH_MMDS] = {"patch_api_requests", "mmds"},
    [API_N_PATCH_HOTPLUG] = {"patch_api_requests", "hotplug_memory"},
    [API_N_PATCH_PMEM] = {"patch_api_requests", "pmem"},
};

/* --- counting --------------------------------------------------------------------------------- */

void api_metrics_init(struct api_metrics *m) {
    *m = (struct api_metrics){.fd = -1};
}

void api_metrics_close(struct api_metrics *m) {
    if (m->fd >= 0) {
        close(m->fd);
    }
    json_decref(m->properties);
    json_decref(m->last);
    api_metrics_init(m);
}

void api_metrics_request(struct api_metrics *m, enum api_counter counter, int rc, bool deprecated) {
    m->count[counter]++;
    m->fails[counter] += rc ? 1 : 0;
    m->deprecated += deprecated;
}

/* --- totals ----------------------------------------------------------------------------------- */

static json_t *empty_group(const char *fields) {
    json_t *out = json_object();
    char name[64];
    while (out && sscanf(fields, "%63s", name) == 1) {
        size_t len = strlen(name);
        bool agg = len > 4 && !strcmp(name + len - 4, "_agg");
        json_object_set_new(out, name,
                            agg ? json_pack("{s:i,s:i,s:i}", "min_us", 0, "max_us", 0, "sum_us", 0)
                                : json_integer(0));
        fields += strspn(fields, " ") + len;
    }
    return out;
}

static void set(json_t *root, const char *group, const char *name, u64 value) {
    json_t *g = json_object_get(root, group);
    if (g) {
        json_object_set_new(g, name, json_integer((json_int_t)value));
    }
}

static void set_requests(const struct api_metrics *m, json_t *root) {
    char name[64];
    for (u32 i = API_N_NONE + 1; i < API_N_COUNT; i++) {
        const char *group = counter_names[i].group;
        snprintf(name, sizeof(name), "%s_count", counter_names[i].stem);
        set(root, group, name, m->count[i]);
        if (group[0] != 'g') {
            snprintf(name, sizeof(name), "%s_fails", counter_names[i].stem);
            set(root, group, name, m->fails[i]);
        }
    }
    set(root, "deprecated_api", "deprecated_http_api_calls", m->deprecated);
    set(root, "logger", "missed_metrics_count", m->missed);
}

static void set_latencies(const struct api_latencies *l, json_t *root) {
    const struct {
        const char *name;
        u64 us;
    } rows[] = {{"full_create_snapshot", l->full_create},
                {"diff_create_snapshot", l->diff_create},
                {"load_snapshot", l->load},
                {"pause_vm", l->pause},
                {"resume_vm", l->resume}};
    char name[64];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        snprintf(name, sizeof(name), "vmm_%s", rows[i].name);
        set(root, "latencies_us", rows[i].name, rows[i].us);
        set(root, "latencies_us", name, rows[i].us);
    }
}

static void set_vcpus(struct machine *m, json_t *root) {
    struct vm *vm = pc_vm(m->pc);
    struct engine_stats sum;
    u64 pio = 0, mmio = 0;
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        const struct vcpu_counters *c = &vm->vcpus[i].counters;
        pio += __atomic_load_n(&c->exits[EXIT_IO], __ATOMIC_RELAXED);
        mmio += __atomic_load_n(&c->exits[EXIT_MMIO], __ATOMIC_RELAXED);
    }
    stats_sum(vm, m->engine, &sum);
    set(root, "vcpu", "exit_io_out", pio);
    set(root, "vcpu", "exit_mmio_write", mmio);
    set(root, "sosia", "instructions", sum.instructions);
    set(root, "sosia", "exits", sum.exits);
    set(root, "sosia", "interrupts", sum.interrupts);
    set(root, "sosia", "exceptions", sum.exceptions);
    set(root, "sosia", "uptime_ms",
        (host_now(linux_host_host(m->lh)) - m->started_ns) / (NSEC_PER_SEC / 1000));
}

/* The sum of all cards is "net", each is "net_ID". */
static void add_net(json_t *root, const char *group, const struct virtio_net_stats *s) {
    const struct {
        const char *name;
        u64 value;
    } rows[] = {{"rx_bytes_count", s->rx_bytes},
                {"rx_packets_count", s->rx_frames},
                {"rx_count", s->rx_frames},
                {"rx_fails", s->rx_dropped},
                {"no_rx_avail_buffer", s->rx_waits},
                {"rx_rate_limiter_throttled", s->rx_limited},
                {"tx_bytes_count", s->tx_bytes},
                {"tx_packets_count", s->tx_frames},
                {"tx_count", s->tx_frames},
                {"tx_malformed_frames", s->tx_dropped},
                {"tx_rate_limiter_throttled", s->tx_limited}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *g = json_object_get(root, group);
        u64 before = (u64)json_integer_value(json_object_get(g, rows[i].name));
        set(root, group, rows[i].name, before + rows[i].value);
    }
}

static json_t *new_group(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
        if (!strcmp(groups[i].name, name)) {
            return empty_group(groups[i].fields);
        }
    }
    return NULL;
}

static void set_nets(const struct api *a, json_t *root) {
    struct virtio_net_stats s;
    for (u32 i = 0; pc_net_stats(a->m->pc, i, &s); i++) {
        const json_t *net = json_array_get(a->config.many[API_NETWORKS], i);
        const char *id = json_string_value(json_object_get(net, "iface_id"));
        char name[128];
        add_net(root, "net", &s);
        if (id) {
            snprintf(name, sizeof(name), "net_%.100s", id);
            json_object_set_new(root, name, new_group("net"));
            add_net(root, name, &s);
        }
    }
}

static void add_block(json_t *root, const char *group, const struct virtio_blk_stats *s) {
    const struct {
        const char *name;
        u64 value;
    } rows[] = {{"read_count", s->reads},
                {"write_count", s->writes},
                {"flush_count", s->flushes},
                {"read_bytes", s->read_bytes},
                {"write_bytes", s->write_bytes},
                {"execute_fails", s->errors},
                {"queue_event_count", s->reads + s->writes + s->flushes + s->discards}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *g = json_object_get(root, group);
        u64 before = (u64)json_integer_value(json_object_get(g, rows[i].name));
        set(root, group, rows[i].name, before + rows[i].value);
    }
}

static void set_blocks(const struct api *a, json_t *root) {
    struct virtio_blk_stats s;
    for (u32 i = 0; pc_disk_stats(a->m->pc, i, &s); i++) {
        const json_t *drive = json_array_get(a->config.many[API_DRIVES], i);
        const char *id = json_string_value(json_object_get(drive, "drive_id"));
        char name[128];
        add_block(root, "block", &s);
        if (id) {
            snprintf(name, sizeof(name), "block_%.100s", id);
            json_object_set_new(root, name, new_group("block"));
            add_block(root, name, &s);
        }
    }
}

static void set_mmds(const struct api *a, json_t *root) {
    struct mmds_counters n;
    api_mmds_counters(a, &n);
    set(root, "mmds", "rx_count", n.rx_frames);
    set(root, "mmds", "rx_accepted", n.rx_frames - n.rx_bad);
    set(root, "mmds", "rx_accepted_err", n.rx_bad);
    set(root, "mmds", "rx_no_token", a->service.no_token);
    set(root, "mmds", "rx_invalid_token", a->service.invalid_token);
    set(root, "mmds", "tx_count", n.tx_frames);
    set(root, "mmds", "tx_frames", n.tx_frames);
    set(root, "mmds", "tx_bytes", n.tx_bytes);
    set(root, "mmds", "tx_errors", n.tx_errors);
    set(root, "mmds", "connections_created", n.opened);
    set(root, "mmds", "connections_destroyed", n.closed);
}

static void set_balloon(struct machine *m, json_t *root) {
    struct balloon_stats s;
    if (!pc_balloon_stats(m->pc, &s)) {
        set(root, "balloon", "inflate_count", s.inflated_pages);
        set(root, "balloon", "stats_updates_count", s.updates);
        set(root, "balloon", "free_page_report_freed", s.reported_bytes);
        set(root, "balloon", "free_page_hint_freed", s.hinted_bytes);
    }
}

json_t *api_metrics_totals(struct api *a) {
    json_t *root = json_object();
    for (size_t i = 0; root && i < ARRAY_LEN(groups); i++) {
        json_object_set_new(root, groups[i].name, empty_group(groups[i].fields));
    }
    if (!root) {
        return NULL;
    }
    set(root, "api_server", "process_startup_time_us", a->start_us);
    set(root, "logger", "missed_log_count", a->log.missed);
    set_requests(&a->metrics, root);
    set_latencies(&a->metrics.latency, root);
    if (a->m && a->m->pc) {
        set_vcpus(a->m, root);
        set_nets(a, root);
        set_blocks(a, root);
        set_balloon(a->m, root);
        set_mmds(a, root);
        if (a->m->serial_limit) {
            set(root, "uart", "rate_limiter_dropped_bytes", char_limit_dropped(a->m->serial_limit));
        }
    }
    return root;
}

/* --- JSON lines ------------------------------------------------------------------------------- */

static bool is_store(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
        if (!strcmp(groups[i].name, name)) {
            return groups[i].store;
        }
    }
    return false;
}

/* now minus then, for every number. */
static json_t *difference(json_t *now, json_t *then) {
    json_t *out = json_object(), *group, *v;
    const char *name, *field;
    json_object_foreach(now, name, group) {
        json_t *before = json_object_get(then, name), *copy = json_deep_copy(group);
        json_object_foreach(group, field, v) {
            json_int_t was = json_integer_value(json_object_get(before, field));
            if (json_is_integer(v) && !is_store(name)) {
                json_object_set_new(copy, field, json_integer(json_integer_value(v) - was));
            }
        }
        json_object_set_new(out, name, copy);
    }
    return out;
}

static json_t *line_head(const struct api *a) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_t *out = json_object();
    json_int_t ms = (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    json_object_set_new(out, "utc_timestamp_ms", json_integer(ms));
    if (a->metrics.emit_id) {
        json_object_set_new(out, "id", json_string(a->id));
    }
    if (json_is_object(a->metrics.properties)) {
        json_object_set(out, "properties", a->metrics.properties);
    }
    return out;
}

static int write_line(struct api_metrics *m, const char *text) {
    size_t len = strlen(text);
    ssize_t n = write(m->fd, text, len);
    bool ended = n > 0 && write(m->fd, "\n", 1) == 1; /* one that was cut is ended, too */
    return ended && n == (ssize_t)len ? 0 : -ERR_IO;
}

int api_metrics_flush(struct api *a) {
    struct api_metrics *m = &a->metrics;
    if (m->fd < 0) {
        return 0;
    }
    json_t *totals = api_metrics_totals(a);
    json_t *line = line_head(a), *change = totals ? difference(totals, m->last) : NULL;
    if (change) {
        json_object_update(line, change);
    }
    char *text = change ? json_dumps(line, JSON_COMPACT) : NULL;
    int rc = text ? write_line(m, text) : -ERR_IO;
    m->flushed += rc ? 0 : 1;
    m->missed += rc ? 1 : 0;
    if (!rc) {
        json_decref(m->last);
        m->last = json_incref(totals);
    }
    free(text);
    json_decref(line);
    json_decref(change);
    json_decref(totals);
    return rc;
}

/* --- Prometheus ------------------------------------------------------------------------------- */

/* "block_rootfs" and "net_eth0" become a label of the group before the underscore. */
static void metric_name(const char *group, const char *field, char *out, size_t size) {
    static const char *const devices[] = {"block_", "net_"};
    for (size_t i = 0; i < ARRAY_LEN(devices); i++) {
        size_t len = strlen(devices[i]);
        if (!strncmp(group, devices[i], len)) {
            snprintf(out, size, "firecracker_%.*s_device_%s{device=\"%s\"}", (int)len - 1, group,
                     field, group + len);
            return;
        }
    }
    snprintf(out, size, "firecracker_%s_%s", group, field);
}

static void put_metric(FILE *f, const char *group, const char *field, const json_t *v) {
    char name[320];
    metric_name(group, field, name, sizeof(name));
    if (json_is_integer(v)) {
        fprintf(f, "# TYPE %.*s %s\n%s %lld\n", (int)strcspn(name, "{"), name,
                is_store(group) ? "gauge" : "counter", name, (long long)json_integer_value(v));
    }
}

char *api_metrics_text(struct api *a) {
    char *text = NULL;
    size_t len = 0;
    json_t *root = api_metrics_totals(a), *group, *v;
    FILE *f = root ? open_memstream(&text, &len) : NULL;
    const char *name, *field;
    if (!f) {
        json_decref(root);
        return NULL;
    }
    fprintf(f, "# TYPE sosia_machine_state gauge\nsosia_machine_state{id=\"%s\"} %d\n", a->id,
            (int)a->state);
    json_object_foreach(root, name, group) {
        json_object_foreach(group, field, v) {
            put_metric(f, name, field, v);
        }
    }
    fclose(f);
    json_decref(root);
    return text;
}
