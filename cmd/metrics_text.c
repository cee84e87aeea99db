/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's counters in Prometheus' text format: one family of lines per counter, by tables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/metrics.h"

struct family {
    const char *key;  /* in the JSON object */
    const char *name; /* without the "sosia_" in front */
    const char *type, *help;
};

/* Members of the object itself and of its "memory". */
static const struct family plain[] = {
    {"uptime", "uptime_seconds", "gauge", "Time since the machine was started."},
    {"cpu_seconds", "cpu_seconds_total", "counter", "Processor time of the whole process."},
};

static const struct family memory[] = {
    {"guest", "memory_bytes", "gauge", "Memory that the guest has."},
    {"guest_resident", "memory_resident_bytes", "gauge", "Of it, what the host holds in memory."},
    {"monitor", "monitor_memory_bytes", "gauge", "Memory of the monitor itself."},
};

/* Members of the objects in an array, told apart by a label. */
static const struct family vcpus[] = {
    {"instructions", "vcpu_instructions_total", "counter", "Instructions that were interpreted."},
    {"exits", "vcpu_exits_total", "counter", "Returns from the guest to the monitor."},
    {"interrupts", "vcpu_interrupts_total", "counter", "Interrupts delivered."},
    {"exceptions", "vcpu_exceptions_total", "counter", "Exceptions delivered."},
};

static const struct family disks[] = {
    {"reads", "disk_reads_total", "counter", "Read requests done."},
    {"writes", "disk_writes_total", "counter", "Write requests done."},
    {"flushes", "disk_flushes_total", "counter", "Flushes done."},
    {"discards", "disk_discards_total", "counter", "Discards and zero writes done."},
    {"read_bytes", "disk_read_bytes_total", "counter", "Bytes read."},
    {"write_bytes", "disk_written_bytes_total", "counter", "Bytes written."},
    {"errors", "disk_errors_total", "counter", "Requests that failed."},
};

static const struct family nets[] = {
    {"rx_frames", "net_receive_frames_total", "counter", "Frames the guest received."},
    {"rx_bytes", "net_receive_bytes_total", "counter", "Bytes the guest received."},
    {"rx_dropped", "net_receive_dropped_total", "counter", "Frames to the guest dropped."},
    {"tx_frames", "net_transmit_frames_total", "counter", "Frames the guest sent."},
    {"tx_bytes", "net_transmit_bytes_total", "counter", "Bytes the guest sent."},
    {"tx_dropped", "net_transmit_dropped_total", "counter", "Frames of the guest dropped."},
};

static const struct {
    const char *key, *label;
    const struct family *families;
    size_t count;
} arrays[] = {
    {"vcpus", "vcpu", vcpus, ARRAY_LEN(vcpus)},
    {"disks", "disk", disks, ARRAY_LEN(disks)},
    {"nets", "card", nets, ARRAY_LEN(nets)},
};

static void head(FILE *f, const struct family *m) {
    fprintf(f, "# HELP sosia_%s %s\n# TYPE sosia_%s %s\n", m->name, m->help, m->name, m->type);
}

static void value(FILE *f, const json_t *v) {
    if (json_is_real(v)) {
        fprintf(f, " %.9f\n", json_real_value(v));
    } else {
        fprintf(f, " %lld\n", (long long)json_integer_value(v));
    }
}

static void put_plain(FILE *f, const char *machine, const json_t *o, const struct family *m,
                      size_t count) {
    for (size_t i = 0; i < count; i++) {
        head(f, &m[i]);
        fprintf(f, "sosia_%s{machine=\"%s\"}", m[i].name, machine);
        value(f, json_object_get(o, m[i].key));
    }
}

static void put_array(FILE *f, const char *machine, const json_t *list, const char *label,
                      const struct family *m) {
    size_t i;
    json_t *o;
    if (json_array_size(list)) {
        head(f, m);
    }
    json_array_foreach(list, i, o) {
        fprintf(f, "sosia_%s{machine=\"%s\",%s=\"%zu\"}", m->name, machine, label, i);
        value(f, json_object_get(o, m->key));
    }
}

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* Names of machines have no characters that a label would have to escape (registry.h). */
char *metrics_prometheus(const json_t *o) {
    static const char *const states[] = {"running", "paused", "stopping"};
    char *text = NULL;
    size_t size = 0;
    FILE *f = o ? open_memstream(&text, &size) : NULL;
    if (!f) {
        return NULL;
    }
    const char *machine = text_of(o, "name"), *state = text_of(o, "state");
    fprintf(f,
            "# HELP sosia_info What machine this is.\n# TYPE sosia_info gauge\n"
            "sosia_info{machine=\"%s\",version=\"%s\",engine=\"%s\"} 1\n",
            machine, text_of(o, "version"), text_of(o, "engine"));
    fputs("# HELP sosia_state 1 for the state that the machine is in.\n# TYPE sosia_state gauge\n",
          f);
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        fprintf(f, "sosia_state{machine=\"%s\",state=\"%s\"} %d\n", machine, states[i],
                !strcmp(state, states[i]));
    }
    put_plain(f, machine, o, plain, ARRAY_LEN(plain));
    put_plain(f, machine, json_object_get(o, "memory"), memory, ARRAY_LEN(memory));
    for (size_t a = 0; a < ARRAY_LEN(arrays); a++) {
        for (size_t i = 0; i < arrays[a].count; i++) {
            put_array(f, machine, json_object_get(o, arrays[a].key), arrays[a].label,
                      &arrays[a].families[i]);
        }
    }
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    return text;
}
