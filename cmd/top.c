/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verb `sosia top`: a table of the running machines, made of the difference between two looks
 * at each one's counters (metrics.h). A machine that does not answer within ANSWER_MS is shown
 * without figures.
 */
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/registry.h"

enum { ANSWER_MS = 2000, TOP_MAX = 512, LINE_MAX_COLS = 255 };

struct sample {
    char name[REGISTRY_NAME_MAX + 1], state[12], engine[8];
    long pid;
    bool answered;
    double at; /* seconds, monotonic */
    double cpu;
    u64 guest, resident, monitor;
    u64 exits, read_bytes, write_bytes, rx_bytes, tx_bytes;
};

struct samples {
    struct sample *s; /* TOP_MAX of them, sorted by name */
    u32 count;
};

struct rates {
    double cpu; /* % of one processor */
    double exits, read, write, rx, tx;
};

/* --- looking ---------------------------------------------------------------------------------- */

static u64 number(const json_t *o, const char *key) {
    return (u64)json_integer_value(json_object_get(o, key));
}

/* The sum of a member over the objects of an array. */
static u64 sum(const json_t *stats, const char *array, const char *key) {
    u64 total = 0;
    size_t i;
    json_t *o;
    json_array_foreach(json_object_get(stats, array), i, o) {
        total += number(o, key);
    }
    return total;
}

static void text_copy(char *out, size_t size, const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    snprintf(out, size, "%s", s ? s : "-");
}

static void sample_fill(struct sample *s, const json_t *stats) {
    const json_t *memory = json_object_get(stats, "memory");
    s->answered = true;
    text_copy(s->state, sizeof(s->state), stats, "state");
    text_copy(s->engine, sizeof(s->engine), stats, "engine");
    s->cpu = json_real_value(json_object_get(stats, "cpu_seconds"));
    s->guest = number(memory, "guest");
    s->resident = number(memory, "guest_resident");
    s->monitor = number(memory, "monitor");
    s->exits = sum(stats, "vcpus", "exits");
    s->read_bytes = sum(stats, "disks", "read_bytes");
    s->write_bytes = sum(stats, "disks", "write_bytes");
    s->rx_bytes = sum(stats, "nets", "rx_bytes");
    s->tx_bytes = sum(stats, "nets", "tx_bytes");
}

static int sample_one(void *ctx, const char *name, long pid) {
    struct samples *all = ctx;
    struct control_client *c;
    json_t *reply = NULL;
    if (all->count == TOP_MAX) {
        return 1;
    }
    struct sample *s = &all->s[all->count++];
    *s = (struct sample){.pid = pid, .state = "silent", .engine = "-"};
    snprintf(s->name, sizeof(s->name), "%s", name);
    if (!control_connect(name, &c, NULL)) {
        control_ask(c, json_pack("{s:s, s:s}", "request", "stats", "format", "json"), NULL, 0,
                    ANSWER_MS, &reply, NULL);
        control_close(c);
    }
    s->at = (double)linux_now_ns() / 1e9;
    if (reply) {
        sample_fill(s, json_object_get(reply, "stats"));
        json_decref(reply);
    }
    return 0;
}

static int look(struct samples *all, struct err *err) {
    all->count = 0;
    int rc = registry_walk(sample_one, all, err);
    return rc < 0 ? rc : 0;
}

/* --- figures ---------------------------------------------------------------------------------- */

static double rate(u64 before, u64 now, double seconds) {
    return now > before && seconds > 0 ? (double)(now - before) / seconds : 0;
}

/* The same machine in the look before; NULL: it is new. */
static const struct sample *earlier(const struct samples *before, const struct sample *now) {
    for (u32 i = 0; i < before->count; i++) {
        const struct sample *s = &before->s[i];
        if (s->pid == now->pid && s->answered && !strcmp(s->name, now->name)) {
            return s;
        }
    }
    return NULL;
}

static struct rates rates_of(const struct samples *before, const struct sample *now) {
    const struct sample *old = now->answered ? earlier(before, now) : NULL;
    if (!old) {
        return (struct rates){0};
    }
    double t = now->at - old->at;
    return (struct rates){.cpu = t > 0 ? (now->cpu - old->cpu) / t * 100 : 0,
                          .exits = rate(old->exits, now->exits, t),
                          .read = rate(old->read_bytes, now->read_bytes, t),
                          .write = rate(old->write_bytes, now->write_bytes, t),
                          .rx = rate(old->rx_bytes, now->rx_bytes, t),
                          .tx = rate(old->tx_bytes, now->tx_bytes, t)};
}

/* "1.2M": at most six characters and a 0. */
static const char *human(double v, char out[16]) {
    static const char unit[] = " KMGTP";
    u32 i = 0;
    while (v >= 1000 && i < 5) {
        v /= 1024;
        i++;
    }
    snprintf(out, 16, i && v < 10 ? "%.1f%c" : "%.0f%c", v, i ? unit[i] : 0);
    return out;
}

/* What of the table a terminal has room for. */
struct room {
    u32 rows, cols;
};

static const struct room room_all = {UINT32_MAX, LINE_MAX_COLS};

static struct room terminal_room(void) {
    struct winsize w;
    struct room r = room_all;
    if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_row && w.ws_col) {
        r.rows = w.ws_row > 4 ? w.ws_row - 4u : 1; /* without the heading and what stands below */
        r.cols = MIN((u32)w.ws_col, (u32)LINE_MAX_COLS);
    }
    return r;
}

static void print_row(const struct samples *before, const struct sample *s, u32 cols) {
    struct rates r = rates_of(before, s);
    char a[16], b[16], c[16], d[16], e[16], f[16], g[16], line[LINE_MAX_COLS + 1];
    snprintf(line, sizeof(line), "%-20.20s %8ld %-8s %-6s %6.1f %7s %7s %8s %7s %7s %7s %7s",
             s->name, s->pid, s->state, s->engine, r.cpu, human((double)s->resident, a),
             human((double)s->monitor, b), human(r.exits, c), human(r.read, d), human(r.write, e),
             human(r.rx, f), human(r.tx, g));
    printf("%.*s\n", (int)cols, line);
}

static void print_table(const struct samples *before, const struct samples *now, struct room room) {
    char line[LINE_MAX_COLS + 1];
    snprintf(line, sizeof(line), "%-20s %8s %-8s %-6s %6s %7s %7s %8s %7s %7s %7s %7s", "NAME",
             "PID", "STATE", "ENGINE", "CPU%", "MEMORY", "MONITOR", "EXITS/s", "READ/s", "WRITE/s",
             "RX/s", "TX/s");
    printf("%.*s\n", (int)room.cols, line);
    for (u32 i = 0; i < MIN(now->count, room.rows); i++) {
        print_row(before, &now->s[i], room.cols);
    }
    if (now->count > room.rows) {
        printf("%u more\n", now->count - room.rows);
    }
}

static void print_json(const struct samples *before, const struct samples *now) {
    json_t *list = json_array();
    for (u32 i = 0; i < now->count; i++) {
        const struct sample *s = &now->s[i];
        struct rates r = rates_of(before, s);
        json_array_append_new(
            list,
            json_pack("{s:s, s:I, s:s, s:s, s:f, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "name",
                      s->name, "pid", (json_int_t)s->pid, "state", s->state, "engine", s->engine,
                      "cpu_percent", r.cpu, "memory", (json_int_t)s->guest, "memory_resident",
                      (json_int_t)s->resident, "monitor_memory", (json_int_t)s->monitor,
                      "exits_per_second", r.exits, "disk_read_bytes_per_second", r.read,
                      "disk_write_bytes_per_second", r.write, "net_receive_bytes_per_second", r.rx,
                      "net_transmit_bytes_per_second", r.tx));
    }
    json_dumpf(list, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(list);
}

/* --- the verb --------------------------------------------------------------------------------- */

/* Waits; true: the person wants to leave. */
static bool pause_for(int ms, bool keys) {
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char key = 0;
    if (poll(&p, keys ? 1 : 0, ms) <= 0 || !keys) {
        return false;
    }
    return read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 3;
}

static bool keys_begin(struct termios *saved) {
    struct termios t;
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, saved)) {
        return false;
    }
    t = *saved;
    t.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
    return !tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

static int run_live(struct samples *a, struct samples *b, int ms, struct err *err) {
    struct termios saved;
    bool keys = keys_begin(&saved);
    int rc = look(a, err);
    for (bool leave = false; !rc && !leave;) {
        leave = pause_for(ms, keys);
        rc = leave ? 0 : look(b, err);
        fputs(isatty(STDOUT_FILENO) ? "\x1b[H\x1b[J" : "", stdout);
        print_table(a, b, terminal_room());
        fputs(keys ? "\nq leaves\n" : "", stdout);
        leave = leave || fflush(stdout);
        struct samples t = *a;
        *a = *b;
        *b = t;
    }
    if (keys) {
        tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    }
    return rc;
}

static int run_once(struct samples *a, struct samples *b, int ms, bool json, struct err *err) {
    int rc = look(a, err);
    if (rc) {
        return rc;
    }
    pause_for(ms, false);
    rc = look(b, err);
    if (!rc && json) {
        print_json(a, b);
    } else if (!rc) {
        print_table(a, b, room_all);
    }
    return rc;
}

int cmd_top(int argc, char **argv) {
    static const char help[] =
        "usage: sosia top [--once [--json]] [--interval SECONDS]\n\n"
        "Shows what the running machines use: processor, memory (the guest's that is resident,\n"
        "and the monitor's own), exits, disk and network bytes per second. q leaves.\n";
    static const struct option options[] = {{"once", no_argument, NULL, 'o'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"interval", required_argument, NULL, 'i'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    bool once = false, json = false;
    double seconds = 1;
    char *end = NULL;
    int id;
    optind = 0;
    while ((id = getopt_long(argc, argv, "i:h", options, NULL)) != -1) {
        once = once || id == 'o' || id == 'j';
        json = json || id == 'j';
        seconds = id == 'i' ? strtod(optarg, &end) : seconds;
        if (id == 'h' || id == '?' || (end && *end) || !(seconds >= 0.05 && seconds <= 3600)) {
            fputs(help, id == 'h' ? stdout : stderr);
            return id == 'h' ? 0 : EXIT_BAD_INPUT;
        }
    }
    struct err err = {0};
    struct samples a = {calloc(TOP_MAX, sizeof(struct sample)), 0};
    struct samples b = {calloc(TOP_MAX, sizeof(struct sample)), 0};
    int ms = (int)(seconds * 1000);
    int rc = !a.s || !b.s ? ERR_SET(&err, ERR_NOMEM, "out of memory")
             : once       ? run_once(&a, &b, ms, json, &err)
                          : run_live(&a, &b, ms, &err);
    if (rc) {
        complain("top: %s", err.text);
    }
    free(a.s);
    free(b.s);
    return rc ? EXIT_FAILURE_OTHER : 0;
}
