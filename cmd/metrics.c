/* SPDX-License-Identifier: Apache-2.0 */
/* Gathering the counters of a machine; see metrics.h. */
#include "cmd/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/machine.h"
#include "cmd/manage.h"
#include "cmd/registry.h"

const char *metrics_state(struct machine *m) {
    struct vm *vm = pc_vm(m->pc);
    if (vm_stop_get(vm).reason != STOP_NONE) {
        return "stopping";
    }
    return __atomic_load_n(&vm->pause_count, __ATOMIC_SEQ_CST) ? "paused" : "running";
}

static void put(json_t *o, const char *key, u64 value) {
    json_object_set_new(o, key, json_integer((json_int_t)value));
}

static json_t *vcpus_json(struct machine *m) {
    struct vm *vm = pc_vm(m->pc);
    json_t *list = json_array();
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        struct engine_stats s = {0};
        json_t *o = json_object();
        m->engine->stats(vm->engine_vcpus[i], &s);
        put(o, "instructions", s.instructions);
        put(o, "exits", s.exits);
        put(o, "interrupts", s.interrupts);
        put(o, "exceptions", s.exceptions);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *disks_json(struct machine *m) {
    struct virtio_blk_stats s;
    json_t *list = json_array();
    for (u32 i = 0; pc_disk_stats(m->pc, i, &s); i++) {
        json_t *o = json_object();
        put(o, "reads", s.reads);
        put(o, "writes", s.writes);
        put(o, "flushes", s.flushes);
        put(o, "discards", s.discards);
        put(o, "read_bytes", s.read_bytes);
        put(o, "write_bytes", s.write_bytes);
        put(o, "errors", s.errors);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *nets_json(struct machine *m) {
    struct virtio_net_stats s;
    json_t *list = json_array();
    for (u32 i = 0; pc_net_stats(m->pc, i, &s); i++) {
        json_t *o = json_object();
        put(o, "rx_frames", s.rx_frames);
        put(o, "rx_bytes", s.rx_bytes);
        put(o, "rx_dropped", s.rx_dropped);
        put(o, "tx_frames", s.tx_frames);
        put(o, "tx_bytes", s.tx_bytes);
        put(o, "tx_dropped", s.tx_dropped);
        json_array_append_new(list, o);
    }
    return list;
}

/* "RssAnon:     123 kB" in /proc/self/status, which was opened while that was allowed. */
static u64 status_bytes(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

static json_t *memory_json(struct machine *m) {
    char text[4096];
    int fd = manage_status_fd(m);
    ssize_t n = fd >= 0 ? pread(fd, text, sizeof(text) - 1, 0) : 0;
    text[n > 0 ? n : 0] = 0;
    json_t *o = json_object();
    put(o, "guest", m->cfg.memory);
    put(o, "guest_resident", status_bytes(text, "RssShmem:"));
    put(o, "monitor", status_bytes(text, "RssAnon:"));
    return o;
}

json_t *metrics_json(struct machine *m) {
    struct timespec cpu = {0};
    json_t *o = json_object();
    u64 up = host_now(linux_host_host(m->lh)) - m->started_ns;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    json_object_set_new(o, "name", json_string(m->reg ? registry_name(m->reg) : "-"));
    json_object_set_new(o, "version", json_string(SOSIA_VERSION));
    json_object_set_new(o, "state", json_string(metrics_state(m)));
    json_object_set_new(o, "engine", json_string(m->engine->name));
    json_object_set_new(o, "uptime", json_real((double)up / 1e9));
    json_object_set_new(o, "cpu_seconds",
                        json_real((double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9));
    json_object_set_new(o, "memory", memory_json(m));
    json_object_set_new(o, "vcpus", vcpus_json(m));
    json_object_set_new(o, "disks", disks_json(m));
    json_object_set_new(o, "nets", nets_json(m));
    return o;
}
