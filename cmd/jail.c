/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sosia jail`: starts `sosia api` as another user in a chroot, with namespaces, control groups and
 * resource limits; flags and files as Firecracker's jailer has them, also through a link of the
 * name "jailer". Needs root; what it starts does not keep it.
 *
 * The order matters: everything that needs names or rights of the host comes before pivot_root, the
 * devices before the user changes, and the user last. When exec-file is this program (or is not
 * given) nothing is executed: the process goes on as the API server, so that no library need be in
 * the jail. Any other program is copied there, as the jailer does, and must be static.
 */
#include "cmd/jail.h"
#include "cmd/api_http.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cmd/cmd.h"

enum { JAIL_FILES = 2048, JAIL_ARGS = 256 };

enum jail_option {
    J_ID = 256,
    J_EXEC,
    J_UID,
    J_GID,
    J_CGROUP_VERSION,
    J_CGROUP,
    J_PARENT,
    J_BASE,
    J_NETNS,
    J_LIMIT,
    J_DAEMON,
    J_PIDNS,
    J_VERSION,
    J_HELP,
};

static const struct option jail_options[] = {
    {"id", required_argument, NULL, J_ID},
    {"exec-file", required_argument, NULL, J_EXEC},
    {"uid", required_argument, NULL, J_UID},
    {"gid", required_argument, NULL, J_GID},
    {"cgroup-version", required_argument, NULL, J_CGROUP_VERSION},
    {"cgroup", required_argument, NULL, J_CGROUP},
    {"parent-cgroup", required_argument, NULL, J_PARENT},
    {"chroot-base-dir", required_argument, NULL, J_BASE},
    {"netns", required_argument, NULL, J_NETNS},
    {"resource-limit", required_argument, NULL, J_LIMIT},
    {"daemonize", no_argument, NULL, J_DAEMON},
    {"new-pid-ns", no_argument, NULL, J_PIDNS},
    {"version", no_argument, NULL, J_VERSION},
    {"help", no_argument, NULL, J_HELP},
    {0},
};

static const char jail_help[] =
    "usage: sosia jail --id ID --uid N --gid N [OPTIONS] [-- OPTIONS of sosia api]\n\n"
    "Runs `sosia api` as another user in a folder of its own. Needs root.\n\n"
    "  --id ID                1 to 64 letters, digits and '-'\n"
    "  --uid N, --gid N       whom the machine runs as\n"
    "  --exec-file FILE       another (static) program; default: this one\n"
    "  --chroot-base-dir DIR  default /srv/jailer; its \"/\" is DIR/NAME/ID/root, NAME that of "
    "the\n"
    "                         program\n"
    "  --cgroup FILE=VALUE    a limit, such as memory.max=600M; may be repeated\n"
    "  --cgroup-version 1|2   default 1\n"
    "  --parent-cgroup NAME   default: NAME of the program\n"
    "  --netns PATH           a network namespace to enter\n"
    "  --resource-limit fsize=BYTES|no-file=N\n"
    "                         size of a file it may write; descriptors (default 2048)\n"
    "  --daemonize            in the background, without a terminal\n"
    "  --new-pid-ns           a process namespace of its own; NAME.pid in its \"/\" says the "
    "number\n";

/* --- options ---------------------------------------------------------------------------------- */

static int parse_number(const char *what, const char *text, u64 max, u64 *out, struct err *err) {
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || n > max) {
        return ERR_SET(err, ERR_INVAL, "%s %s: not a number up to %llu", what, text,
                       (unsigned long long)max);
    }
    *out = n;
    return 0;
}

static int parse_limit(struct jail *j, const char *arg, struct err *err) {
    if (!strncmp(arg, "fsize=", 6)) {
        return parse_number("--resource-limit fsize", arg + 6, INT64_MAX, &j->limit_fsize, err);
    }
    if (!strncmp(arg, "no-file=", 8)) {
        return parse_number("--resource-limit no-file", arg + 8, 1u << 20, &j->limit_files, err);
    }
    return ERR_SET(err, ERR_INVAL, "--resource-limit %s: fsize=BYTES or no-file=N", arg);
}

static int parse_version(struct jail *j, const char *arg, struct err *err) {
    if (strcmp(arg, "1") && strcmp(arg, "2")) {
        return ERR_SET(err, ERR_INVAL, "--cgroup-version %s: 1 or 2", arg);
    }
    j->cgroup_version = *arg - '0';
    return 0;
}

static int parse_cgroup(struct jail *j, const char *arg, struct err *err) {
    if (j->cgroups == JAIL_CGROUPS) {
        return ERR_SET(err, ERR_INVAL, "--cgroup: at most %d", JAIL_CGROUPS);
    }
    j->cgroup[j->cgroups++] = arg;
    return 0;
}

static int parse_user(struct jail *j, int id, const char *arg, struct err *err) {
    u64 n = 0;
    int rc = parse_number(id == J_UID ? "--uid" : "--gid", arg, UINT32_MAX - 1, &n, err);
    *(id == J_UID ? &j->uid : &j->gid) = (u32)n;
    return rc;
}

static int parse_one(struct jail *j, int id, const char *arg, struct err *err) {
    switch (id) {
    case J_UID:
    case J_GID:
        return parse_user(j, id, arg, err);
    case J_CGROUP_VERSION:
        return parse_version(j, arg, err);
    case J_CGROUP:
        return parse_cgroup(j, arg, err);
    case J_LIMIT:
        return parse_limit(j, arg, err);
    case J_ID:
        j->id = arg;
        return 0;
    case J_EXEC:
        j->exec_file = arg;
        return 0;
    case J_PARENT:
        j->parent_cgroup = arg;
        return 0;
    case J_BASE:
        j->base = arg;
        return 0;
    case J_NETNS:
        j->netns = arg;
        return 0;
    case J_DAEMON:
        j->daemonize = true;
        return 0;
    case J_PIDNS:
        j->new_pid_ns = true;
        return 0;
    default:
        return ERR_SET(err, ERR_INVAL, "unknown option or missing value");
    }
}

/* A path below a hierarchy's mount point that stays there. */
static bool group_name_good(const char *name) {
    return *name && *name != '/' && strlen(name) < 256 && !strstr(name, "..");
}

static int check(struct jail *j, struct err *err) {
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
    size_t n = j->id ? strlen(j->id) : 0;
    if (!n || n > JAIL_ID_MAX || j->id[strspn(j->id, good)]) {
        return ERR_SET(err, ERR_INVAL, "--id: 1 to %d letters, digits and '-'", JAIL_ID_MAX);
    }
    if (j->uid == (uid_t)-1 || j->gid == (gid_t)-1) {
        return ERR_SET(err, ERR_INVAL, "--uid and --gid are needed");
    }
    const char *slash = strrchr(j->exec_file, '/');
    j->name = slash ? slash + 1 : j->exec_file;
    j->parent_cgroup = j->parent_cgroup ? j->parent_cgroup : j->name;
    if (j->base[0] != '/') {
        return ERR_SET(err, ERR_INVAL, "--chroot-base-dir %s: not an absolute path", j->base);
    }
    if (!group_name_good(j->parent_cgroup)) {
        return ERR_SET(err, ERR_INVAL, "--parent-cgroup %s: not a relative path", j->parent_cgroup);
    }
    return geteuid() ? ERR_SET(err, ERR_PERM, "a jail needs root") : 0;
}

/* 0, 1: help or version was printed, or a code. */
static int parse(struct jail *j, int argc, char **argv, struct err *err) {
    int id, rc = 0;
    *j = (struct jail){.base = "/srv/jailer",
                       .cgroup_version = 1,
                       .limit_files = JAIL_FILES,
                       .uid = (uid_t)-1,
                       .gid = (gid_t)-1};
    optind = 0;
    opterr = 0;
    while (!rc && (id = getopt_long(argc, argv, "+h", jail_options, NULL)) != -1) {
        if (id == J_HELP || id == 'h') {
            fputs(jail_help, stdout);
            return 1;
        }
        if (id == J_VERSION) {
            cmd_version(0, NULL);
            return 1;
        }
        rc = parse_one(j, id, optarg, err);
    }
    j->args = argv + optind;
    j->arg_count = argc - optind;
    return rc;
}

/* --- into the jail ---------------------------------------------------------------------------- */

static int limits_set(const struct jail *j, struct err *err) {
    struct rlimit files = {.rlim_cur = j->limit_files, .rlim_max = j->limit_files};
    struct rlimit size = {.rlim_cur = j->limit_fsize, .rlim_max = j->limit_fsize};
    if (setrlimit(RLIMIT_NOFILE, &files) || (j->limit_fsize && setrlimit(RLIMIT_FSIZE, &size))) {
        return ERR_SET(err, ERR_PERM, "--resource-limit: %s", strerror(errno));
    }
    return 0;
}

static int netns_enter(const struct jail *j, struct err *err) {
    int fd = j->netns ? open(j->netns, O_RDONLY | O_CLOEXEC) : -1;
    int rc = 0;
    if (j->netns && (fd < 0 || setns(fd, CLONE_NEWNET))) {
        rc = ERR_SET(err, ERR_INVAL, "--netns %s: %s", j->netns, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

static void daemonize(void) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid();
    for (int fd = 0; fd < 3 && null >= 0; fd++) {
        dup2(null, fd);
    }
    close(null);
}

static int pid_file_write(const struct jail *j, pid_t pid, struct err *err) {
    char path[300];
    snprintf(path, sizeof(path), "/%.250s.pid", j->name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0 || dprintf(fd, "%d", (int)pid) < 0) {
        return ERR_SET(err, ERR_IO, "jail: %s: %s", path, strerror(errno));
    }
    close(fd);
    return 0;
}

/* The child is process 1 of its namespace; the parent notes its number outside and is done. -1:
 * this is the child. */
static int pid_ns_enter(const struct jail *j, struct err *err) {
    if (unshare(CLONE_NEWPID)) {
        return ERR_SET(err, ERR_PERM, "--new-pid-ns: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid < 0) {
        return ERR_SET(err, ERR_NOMEM, "--new-pid-ns: %s", strerror(errno));
    }
    return pid ? pid_file_write(j, pid, err) : 1;
}

static int user_drop(const struct jail *j, struct err *err) {
    if (setgroups(0, NULL) || setresgid(j->gid, j->gid, j->gid) ||
        setresuid(j->uid, j->uid, j->uid)) {
        return ERR_SET(err, ERR_PERM, "--uid, --gid: %s", strerror(errno));
    }
    return 0;
}

static bool is_this_program(const char *path) {
    struct stat a, b;
    return !stat("/proc/self/exe", &a) && !stat(path, &b) && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* The jailed program's arguments: its name, the id, what was behind "--". */
static int program_run(const struct jail *j, bool self) {
    static char id_flag[] = "--id";
    char *argv[JAIL_ARGS + 4], id[JAIL_ID_MAX + 1], path[PATH_MAX], name[NAME_MAX + 1];
    int n = 0;
    snprintf(path, sizeof(path), "/%s", j->name);
    snprintf(name, sizeof(name), "%s", j->name);
    snprintf(id, sizeof(id), "%s", j->id);
    argv[n++] = self ? name : path;
    argv[n++] = id_flag;
    argv[n++] = id;
    for (int i = 0; i < j->arg_count; i++) {
        argv[n++] = j->args[i];
    }
    argv[n] = NULL;
    if (self) {
        return cmd_api(n, argv);
    }
    execve(path, argv, (char *[]){NULL});
    complain("jail: %s: %s", path, strerror(errno));
    return EXIT_FAILURE_OTHER;
}

/* 0: the parent of a new process namespace, done; 1: in the jail. */
static int enter(struct jail *j, bool self, struct err *err) {
    int rc = jail_root_make(j, !self, err);
    rc = rc ? rc : jail_cgroup_enter(j, err);
    rc = rc ? rc : limits_set(j, err);
    rc = rc ? rc : netns_enter(j, err);
    if (!rc && self) {
        linux_preload();
        http_lib_preload();
    }
    rc = rc ? rc : jail_root_enter(j, err);
    if (rc) {
        return rc;
    }
    clearenv();
    if (j->daemonize) {
        daemonize();
    }
    rc = j->new_pid_ns ? pid_ns_enter(j, err) : pid_file_write(j, getpid(), err);
    if (rc < 0 || (!rc && j->new_pid_ns)) {
        return rc;
    }
    rc = user_drop(j, err);
    return rc ? rc : 1;
}

int cmd_jail(int argc, char **argv) {
    struct jail j;
    struct err err = {0};
    char self_path[PATH_MAX] = "";
    int rc = parse(&j, argc, argv, &err);
    if (rc == 1) {
        return 0;
    }
    if (!rc && !j.exec_file) {
        ssize_t n = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);
        j.exec_file = n > 0 ? self_path : "sosia";
    }
    rc = rc ? rc : check(&j, &err);
    if (!rc && j.arg_count > JAIL_ARGS) {
        rc = ERR_SET(&err, ERR_INVAL, "more than %d arguments for the jailed program", JAIL_ARGS);
    }
    bool self = !rc && is_this_program(j.exec_file);
    if (!rc && !self && access(j.exec_file, X_OK)) {
        rc = ERR_SET(&err, ERR_INVAL, "--exec-file %s: %s", j.exec_file, strerror(errno));
    }
    linux_inherited_close();
    rc = rc ? rc : enter(&j, self, &err);
    if (rc < 0) {
        complain("%s", err.text);
        return rc == -ERR_INVAL ? EXIT_BAD_INPUT : EXIT_FAILURE_OTHER;
    }
    return rc ? program_run(&j, self) : 0;
}
