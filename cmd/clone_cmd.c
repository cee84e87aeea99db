/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sosia clone` and `sosia engine`. Cloning is a snapshot into the runtime directory (memory-backed
 * where the system has it so) and as many restores of it, each in the background; when all run, the
 * files are deleted: the machines share what they map until the last one ends.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/snapshot.h"

enum { MAX_CLONES = 4096, MAX_ARGS = 64 };

static const char clone_help[] =
    "usage: sosia clone NAME N [--stop] [--dir DIR] [-- RESTORE OPTIONS]\n\n"
    "Runs N copies of the running machine NAME, called NAME-1, NAME-2 ... in the background. What "
    "they\n"
    "write to disks is gone with them (--overlay); their memory is shared with each other until "
    "they\n"
    "write to it.\n\n"
    "  --stop       end NAME; needed when it may write to a disk, which the copies read\n"
    "  --dir DIR    where the snapshot is kept while they start (default: the runtime directory)\n"
    "  -- OPTIONS   further options of `sosia restore` for all of them\n";

static const char engine_help[] = "usage: sosia engine NAME soft|kvm\n\n"
                                  "The running machine NAME goes on under the other engine.\n";

struct request {
    const char *name, *dir;
    long count;
    bool stop;
    char **more;
    int more_count;
};

static int parse(struct request *q, int argc, char **argv, struct err *err) {
    static const struct option options[] = {{"stop", no_argument, NULL, 's'},
                                            {"dir", required_argument, NULL, 'd'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int id, end = argc;
    for (int i = 1; i < argc && end == argc; i++) {
        end = strcmp(argv[i], "--") ? end : i;
    }
    optind = 0;
    opterr = 0;
    while ((id = getopt_long(end, argv, "h", options, NULL)) != -1) {
        if (id == 'h') {
            fputs(clone_help, stdout);
            return 1;
        }
        if (id == '?') {
            return ERR_SET(err, ERR_INVAL, "unknown option; see `sosia clone --help`");
        }
        q->stop |= id == 's';
        q->dir = id == 'd' ? optarg : q->dir;
    }
    q->name = optind < end ? argv[optind] : NULL;
    const char *count = optind + 1 < end ? argv[optind + 1] : "";
    char *rest = NULL;
    q->count = isdigit((unsigned char)count[0]) ? strtol(count, &rest, 10) : 0;
    q->more = argv + MIN(end + 1, argc);
    q->more_count = argc - MIN(end + 1, argc);
    bool ok = optind + 2 == end && rest && !*rest && q->count >= 1 && q->count <= MAX_CLONES &&
              q->more_count <= MAX_ARGS - 16;
    return ok ? 0
              : ERR_SET(err, ERR_INVAL,
                        "a machine and a number from 1 to %d; see `sosia clone --help`",
                        MAX_CLONES);
}

/* --- the snapshot ------------------------------------------------------------------------------
 */

/* A disk that the original goes on writing to cannot be what copies read. */
static int disks_check(const struct request *q, const char *path, struct err *err) {
    struct snap_file f;
    int rc = snap_file_load(path, &f, err);
    if (rc) {
        return rc;
    }
    for (u32 i = 0; !rc && !q->stop && i < f.info.disk_count; i++) {
        if (f.info.disk[i].writable) {
            rc = ERR_SET(err, ERR_STATE,
                         "%s goes on writing to its disk %s, which copies would read: use --stop, "
                         "or run it with a disk of its own",
                         q->name, f.info.disk[i].path);
        }
    }
    snap_file_free(&f);
    return rc;
}

static int request(struct control_client *c, const char *what, struct err *err) {
    return control_ask(c, json_pack("{s:s}", "request", what), NULL, 0, -1, NULL, err);
}

static int snapshot_take(struct control_client *c, const char *path, struct err *err) {
    struct snapshot_files f;
    int rc = snapshot_files_create(&f, path, NULL, err);
    if (rc) {
        return rc;
    }
    const int fds[2] = {f.state_fd, f.memory_fd};
    rc = control_ask(c,
                     json_pack("{s:s, s:s, s:b}", "request", "snapshot", "path", path, "pause", 1),
                     fds, 2, -1, NULL, err);
    rc = rc ? rc : snapshot_files_seal(&f, err);
    return rc ? (snapshot_files_abort(&f), rc) : snapshot_files_commit(&f, false, err);
}

/* --- the copies --------------------------------------------------------------------------------
 */

static int restore_spawn(char **args, const char *name, struct err *err) {
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        execv("/proc/self/exe", args);
        _exit(EXIT_FAILURE_OTHER);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return pid > 0 && WIFEXITED(status) && !WEXITSTATUS(status)
               ? 0
               : ERR_SET(err, ERR_IO, "%s could not be started", name);
}

static int copy_start(const struct request *q, const char *path, long n, struct err *err) {
    char name[256], force[] = "--force";
    char *args[MAX_ARGS] = {(char[]){"sosia"},
                            (char[]){"restore"},
                            (char[]){"-d"},
                            (char[]){"--quiet"},
                            (char[]){"--overlay"},
                            (char[]){"--vsock"}, /* its name is the original's */
                            (char[]){"none"},
                            (char[]){"--name"},
                            name};
    int count = 9;
    snprintf(name, sizeof(name), "%s-%ld", q->name, n);
    for (int i = 0; i < q->more_count; i++) {
        args[count++] = q->more[i];
    }
    if (q->stop) {
        args[count++] = force;
    }
    args[count] = (char *)(uintptr_t)path;
    return restore_spawn(args, name, err);
}

/* Its files are closed when this returns: closing writes to some of them. */
static int original_end(struct control_client *c, struct err *err) {
    struct err gone = {0};
    int rc = request(c, "kill", err);
    if (!rc) {
        request(c, "wait", &gone);
    }
    return rc;
}

static int copies_start(const struct request *q, const char *path, struct err *err) {
    int rc = 0;
    for (long n = 1; !rc && n <= q->count; n++) {
        rc = copy_start(q, path, n, err);
    }
    return rc;
}

static int clone(const struct request *q, struct err *err) {
    struct control_client *c;
    char dir[1024], path[2048], memory[2100];
    int rc = q->dir ? 0 : linux_runtime_dir(dir, sizeof(dir), err);
    rc = rc ? rc : control_connect(q->name, &c, err);
    if (rc) {
        return rc;
    }
    snprintf(path, sizeof(path), "%s/.clone-%d", q->dir ? q->dir : dir, (int)getpid());
    snprintf(memory, sizeof(memory), "%s.mem", path);
    rc = snapshot_take(c, path, err);
    if (!rc) {
        rc = disks_check(q, path, err);
        int after = !rc && q->stop ? original_end(c, err) : request(c, "resume", err);
        rc = rc ? rc : after;
        rc = rc ? rc : copies_start(q, path, err);
        unlink(path);
        unlink(memory);
    }
    control_close(c);
    return rc;
}

int cmd_clone(int argc, char **argv) {
    struct request q = {0};
    struct err err = {0};
    int rc = parse(&q, argc, argv, &err);
    if (rc == 1) {
        return 0;
    }
    rc = rc ? rc : clone(&q, &err);
    if (rc) {
        complain("clone: %s", err.text);
    }
    return !rc ? 0 : rc == -ERR_IO || rc == -ERR_NOSPACE ? EXIT_FAILURE_OTHER : EXIT_BAD_INPUT;
}

/* --- engine ------------------------------------------------------------------------------------
 */

static int restore_run(const char *path, const char *name, const char *engine, struct err *err) {
    char *args[] = {(char[]){"sosia"},
                    (char[]){"restore"},
                    (char[]){"-d"},
                    (char[]){"--quiet"},
                    (char[]){"--force"},
                    (char[]){"--engine"},
                    (char *)(uintptr_t)engine,
                    (char[]){"--name"},
                    (char *)(uintptr_t)name,
                    (char *)(uintptr_t)path,
                    NULL};
    return restore_spawn(args, name, err);
}

/* A terminal cannot follow. */
static int console_check(const char *path, struct err *err) {
    struct snap_file f;
    int rc = snap_file_load(path, &f, err);
    if (rc) {
        return rc;
    }
    json_t *conf = json_loadb(f.conf, f.conf_size, 0, NULL);
    const char *console = json_string_value(json_object_get(conf, "console"));
    if (!console || !strcmp(console, "stdio")) {
        rc = ERR_SET(err, ERR_STATE,
                     "its process is fenced and its console a terminal: run it with --fence off or "
                     "with another console");
    }
    json_decref(conf);
    snap_file_free(&f);
    return rc;
}

/* Back to where it was when the other engine cannot; the files stay when that fails too. */
static int move_to(struct control_client *c, const char *path, const char *name, const char *old,
                   const char *engine, struct err *err) {
    struct err again = {0};
    int rc = original_end(c, err);
    rc = rc ? rc : restore_run(path, name, engine, err);
    if (rc && restore_run(path, name, old, &again)) {
        complain("engine: %s does not run any more; it can be restored from %s", name, path);
        return rc;
    }
    char memory[2100];
    snprintf(memory, sizeof(memory), "%s.mem", path);
    unlink(path);
    unlink(memory);
    return rc;
}

/* A process behind the fence cannot become another engine's: its machine moves to a new process. */
static int move(const char *machine, const char *engine, struct err *err) {
    struct control_client *c;
    json_t *info = NULL;
    char dir[1024], path[2048];
    int rc = linux_runtime_dir(dir, sizeof(dir), err);
    rc = rc ? rc : control_connect(machine, &c, err);
    if (rc) {
        return rc;
    }
    snprintf(path, sizeof(path), "%s/.move-%d", dir, (int)getpid());
    rc = control_ask(c, json_pack("{s:s}", "request", "info"), NULL, 0, -1, &info, err);
    const char *name = json_string_value(json_object_get(info, "name"));
    const char *old = json_string_value(json_object_get(info, "engine"));
    if (!rc && (!name || !old)) {
        rc = ERR_SET(err, ERR_FORMAT, "%s: no answer to use", machine);
    } else if (!rc && strcmp(old, engine) != 0) {
        rc = snapshot_take(c, path, err);
        rc = rc ? rc : console_check(path, err);
        rc = rc ? (request(c, "resume", &(struct err){0}), rc)
                : move_to(c, path, name, old, engine, err);
    }
    json_decref(info);
    control_close(c);
    return rc;
}

int cmd_engine(int argc, char **argv) {
    struct err err = {0};
    json_t *reply = NULL;
    if (argc != 3 || argv[1][0] == '-') {
        bool help = argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
        fputs(engine_help, help ? stdout : stderr);
        return help ? 0 : EXIT_BAD_INPUT;
    }
    json_t *o = json_pack("{s:s, s:s}", "request", "engine", "engine", argv[2]);
    int rc = o ? control_request(argv[1], o, NULL, 0, &reply, &err)
               : ERR_SET(&err, ERR_INVAL, "%s: not an engine", argv[2]);
    if (rc == -ERR_PERM) {
        err = (struct err){0};
        rc = move(argv[1], argv[2], &err);
    }
    if (rc) {
        complain("engine: %s", err.text);
        return EXIT_BAD_INPUT;
    }
    printf("%s runs under %s\n", argv[1], argv[2]);
    json_decref(reply);
    return 0;
}
