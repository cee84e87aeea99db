/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sosia snapshot`: asks a running machine for a snapshot, and shows what is in one. The files are
 * opened, synced and put in their places here, so the machine's process needs no right to.
 */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/snap_mem.h"
#include "cmd/snapshot.h"
#include "core/boot/layout.h"

static const char help_text[] =
    "usage: sosia snapshot NAME FILE [--incremental] [--track] [--keep-paused|--stop] [--no-sync]\n"
    "       sosia snapshot info FILE [--json] [--check]\n"
    "       sosia snapshot merge BASE FILE NEW\n\n"
    "Saves the running machine NAME (a name, process number or socket) to FILE and FILE.mem.\n\n"
    "  --incremental   only the pages written since its last snapshot (the first one has all)\n"
    "  --track         note written pages from now on, for an incremental one later\n"
    "  --keep-paused   leave the machine paused\n"
    "  --stop          end the machine\n"
    "  --no-sync       do not wait until the files are on the disk\n\n"
    "info describes a snapshot; --check also compares the checksums of its memory.\n"
    "merge makes one full snapshot NEW out of BASE and an incremental one that stands on it.\n\n"
    "Exit status: 0 done, 1 the host failed, 2 bad usage, or a snapshot that is damaged.\n";

static int status_of(int rc) {
    return !rc                                                       ? 0
           : rc == -ERR_NOMEM || rc == -ERR_IO || rc == -ERR_NOSPACE ? EXIT_FAILURE_OTHER
                                                                     : EXIT_BAD_INPUT;
}

/* --- taking one --------------------------------------------------------------------------------
 */

struct request {
    bool incremental, track, paused, stop, nosync, json, check, help;
    const char *arg[4];
    int args;
};

static int ask(const struct request *q, struct control_client *c, struct snapshot_files *f,
               json_t **reply, struct err *err) {
    const int fds[2] = {f->state_fd, f->memory_fd};
    json_t *o =
        json_pack("{s:s, s:s, s:b, s:b, s:b}", "request", "snapshot", "path", f->state,
                  "incremental", q->incremental, "track", q->track, "pause", q->paused || q->stop);
    return o ? control_ask(c, o, fds, 2, -1, reply, err)
             : ERR_SET(err, ERR_INVAL, "%s: not a name in UTF-8", f->state);
}

static int stop(struct control_client *c, struct err *err) {
    return control_ask(c, json_pack("{s:s}", "request", "kill"), NULL, 0, -1, NULL, err);
}

/* Paths as the machine would find them from anywhere. */
static int absolute(const char *path, char *out, size_t size, struct err *err) {
    char cwd[SNAPSHOT_PATH_MAX];
    int n = path[0] == '/'             ? snprintf(out, size, "%s", path)
            : getcwd(cwd, sizeof(cwd)) ? snprintf(out, size, "%s/%s", cwd, path)
                                       : -1;
    return n > 0 && (size_t)n < size ? 0 : ERR_SET(err, ERR_INVAL, "%s: name too long", path);
}

static int take(const struct request *q, struct err *err) {
    struct snapshot_files f;
    struct control_client *c;
    json_t *reply = NULL;
    char path[SNAPSHOT_PATH_MAX - 16];
    u64 begin = linux_now_ns();
    int rc = absolute(q->arg[1], path, sizeof(path), err);
    rc = rc ? rc : control_connect(q->arg[0], &c, err);
    if (rc) {
        return rc;
    }
    rc = snapshot_files_create(&f, path, NULL, err);
    if (!rc) {
        rc = ask(q, c, &f, &reply, err);
        rc = rc ? rc : snapshot_files_seal(&f, err);
        rc = rc ? (snapshot_files_abort(&f), rc) : snapshot_files_commit(&f, !q->nosync, err);
    }
    if (!rc) {
        printf("%s: %s, %.1f MiB of memory, paused for %.1f ms, %.1f ms in all\n", q->arg[1],
               json_is_true(json_object_get(reply, "incremental")) ? "incremental" : "full",
               (double)json_integer_value(json_object_get(reply, "memory")) / (double)MIB,
               json_real_value(json_object_get(reply, "milliseconds")),
               (double)(linux_now_ns() - begin) / 1e6);
        rc = q->stop ? stop(c, err) : 0;
    }
    json_decref(reply);
    control_close(c);
    return rc;
}

/* --- looking at one ----------------------------------------------------------------------------
 */

static void hex(const u8 *id, char out[2 * SNAP_ID_SIZE + 1]) {
    for (int i = 0; i < SNAP_ID_SIZE; i++) {
        snprintf(out + 2 * i, 3, "%02x", id[i]);
    }
}

static json_t *disks_json(const struct snap_info *info) {
    json_t *a = json_array();
    for (u32 i = 0; i < info->disk_count; i++) {
        const struct snap_disk *d = &info->disk[i];
        json_array_append_new(a, json_pack("{s:s, s:I, s:b}", "path", d->path, "size",
                                           (json_int_t)d->size, "writable", d->writable));
    }
    return a;
}

static json_t *info_json(const struct snap_file *f, const char *memory) {
    const struct snap_info *info = &f->info;
    char id[2 * SNAP_ID_SIZE + 1], base[2 * SNAP_ID_SIZE + 1];
    hex(info->id, id);
    hex(info->base_id, base);
    json_t *o = json_pack("{s:i, s:s, s:s, s:s, s:I, s:I, s:i, s:I, s:s}", "format", SNAP_VERSION,
                          "id", id, "program", info->program, "engine", info->engine, "saved",
                          (json_int_t)(info->wall_ns / NSEC_PER_SEC), "memory",
                          (json_int_t)info->memory, "vcpus", (int)info->vcpus, "tsc_hz",
                          (json_int_t)info->tsc_hz, "memory_file", memory);
    json_object_set_new(o, "incremental", json_boolean(info->incremental));
    if (info->incremental) {
        json_object_set_new(o, "base", json_string(info->base));
        json_object_set_new(o, "base_id", json_string(base));
    }
    json_object_set_new(o, "disks", disks_json(info));
    json_object_set_new(o, "config", json_loadb(f->conf, f->conf_size, 0, NULL));
    return o;
}

/* The file names things to a terminal: nothing but printable characters. */
static const char *clean(char *text) {
    for (char *p = text; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 127) {
            *p = '?';
        }
    }
    return text;
}

static void info_text(const char *path, struct snap_file *f, char *memory) {
    struct snap_info *info = &f->info;
    time_t t = (time_t)(info->wall_ns / NSEC_PER_SEC);
    char when[32] = "?";
    struct tm tm;
    if (localtime_r(&t, &tm)) {
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
    }
    printf("%s: %s snapshot of %s, by Sosia %s under the %s engine\n", path,
           info->incremental ? "incremental" : "full", when, clean(info->program),
           clean(info->engine));
    printf("processors %u, memory %llu MiB in %s\n", info->vcpus,
           (unsigned long long)(info->memory / MIB), clean(memory));
    if (info->incremental) {
        printf("stands on %s\n", clean(info->base));
    }
    for (u32 i = 0; i < info->disk_count; i++) {
        printf("disk %u: %s%s\n", i, clean(info->disk[i].path),
               info->disk[i].writable ? "" : " (read-only)");
    }
    json_t *conf = json_loadb(f->conf, f->conf_size, 0, NULL);
    char *text = conf ? json_dumps(conf, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    printf("configuration: %s\n", text ? text : "damaged");
    free(text);
    json_decref(conf);
}

static int memory_check(const char *memory, const struct snap_file *f, struct err *err) {
    int fd = snap_mem_open(memory, f, LAYOUT_VMGENID, err);
    int rc = fd < 0 ? fd : snap_mem_check(memory, fd, f, err);
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

static int show(const struct request *q, struct err *err) {
    struct snap_file f;
    char memory[SNAPSHOT_PATH_MAX];
    int rc = snap_file_load(q->arg[1], &f, err);
    if (rc) {
        return rc;
    }
    rc = snap_memory_path(q->arg[1], &f.info, memory, sizeof(memory), err);
    if (!rc && q->check) {
        rc = memory_check(memory, &f, err);
    }
    if (!rc && q->json) {
        json_t *o = info_json(&f, memory);
        json_dumpf(o, stdout, JSON_INDENT(2));
        puts("");
        json_decref(o);
    } else if (!rc) {
        info_text(q->arg[1], &f, memory);
        puts(q->check ? "all checksums are right" : "the state's checksum is right");
    }
    snap_file_free(&f);
    return rc;
}

/* --- the verb ----------------------------------------------------------------------------------
 */

static int parse(struct request *q, int argc, char **argv) {
    static const struct option options[] = {{"incremental", no_argument, NULL, 'i'},
                                            {"track", no_argument, NULL, 't'},
                                            {"keep-paused", no_argument, NULL, 'p'},
                                            {"stop", no_argument, NULL, 's'},
                                            {"no-sync", no_argument, NULL, 'n'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"check", no_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int id;
    optind = 0;
    opterr = 0;
    while ((id = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (id) {
        case '?':
            return -ERR_INVAL;
        default:
            q->incremental |= id == 'i';
            q->track |= id == 't';
            q->paused |= id == 'p';
            q->stop |= id == 's';
            q->nosync |= id == 'n';
            q->json |= id == 'j';
            q->check |= id == 'c';
            q->help |= id == 'h';
        }
    }
    for (; optind < argc && q->args < (int)ARRAY_LEN(q->arg); optind++) {
        q->arg[q->args++] = argv[optind];
    }
    return optind == argc ? 0 : -ERR_INVAL;
}

int cmd_snapshot(int argc, char **argv) {
    struct request q = {0};
    struct err err = {0};
    int rc = parse(&q, argc, argv);
    if (q.help) {
        fputs(help_text, stdout);
        return 0;
    }
    if (!rc && q.args == 2 && !strcmp(q.arg[0], "info")) {
        rc = show(&q, &err);
    } else if (!rc && q.args == 4 && !strcmp(q.arg[0], "merge")) {
        rc = snapshot_merge(q.arg[1], q.arg[2], q.arg[3], &err);
    } else if (!rc && q.args == 2 && !q.json && !q.check) {
        rc = take(&q, &err);
    } else {
        fputs(help_text, stderr);
        return EXIT_BAD_INPUT;
    }
    if (rc) {
        complain("%s", err.text);
    }
    return status_of(rc);
}
