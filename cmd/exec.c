/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verbs `sosia exec` and `sosia cp`: a command in the guest by its agent (docs/exec.md). A copy
 * is a command, too: cat, in the guest, whose input or output is the file here.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/agent_client.h"
#include "cmd/cmd.h"
#include "cmd/terminal.h"

enum { MAX_SECONDS = 1000000, ENV_MAX = AGENT_ARGS_MAX - 1 /* beside TERM */ };

/* "SECONDS" to milliseconds; false, with a message: it is none. */
static bool seconds_parse(const char *option, const char *text, int *ms) {
    char *end;
    double s = strtod(text, &end);
    if (*end || end == text || !(s >= 0 && s <= MAX_SECONDS)) {
        complain("exec: %s %s: not a number of seconds up to %d", option, text, MAX_SECONDS);
        return false;
    }
    *ms = (int)(s * 1000);
    return true;
}

static const char exec_help[] =
    "usage: sosia exec MACHINE [OPTIONS] [--] COMMAND [ARGUMENTS]\n"
    "       sosia exec MACHINE --set-time\n\n"
    "Runs a command in the guest by the agent there (docs/exec.md), with its standard streams\n"
    "here. The machine needs --agent or --vsock.\n\n"
    "  -t, --tty          on a terminal of its own; ^] leaves it\n"
    "  --escape KEY       the key that leaves: ^X, one character, or none\n"
    "  --user USER        name or number (default: root)\n"
    "  --env NAME=VALUE   may be repeated\n"
    "  --cwd DIR          the folder it runs in (default: the user's own)\n"
    "  --timeout SECONDS  then SIGTERM, 5 seconds later SIGKILL\n"
    "  --wait SECONDS     for an agent that has not started yet\n"
    "  --set-time         no command: put the guest's clock right, after a restore\n\n"
    "Exit status: the command's own, 128 + N when signal N ended it, 124 timeout, 125 it was not\n"
    "started or its end is not known, 126 it cannot be run, 127 there is none of that name.\n";

static int exec_usage(bool asked) {
    fputs(exec_help, asked ? stdout : stderr);
    return asked ? 0 : EXEC_FAILED;
}

static bool env_add(struct agent_command *c, char *variable) {
    if (!strchr(variable, '=') || *variable == '=') {
        complain("exec: --env %s: not NAME=VALUE", variable);
        return false;
    }
    if (c->envc == ENV_MAX) {
        complain("exec: --env: more than %d", ENV_MAX);
        return false;
    }
    c->env[c->envc++] = variable;
    return true;
}

/* False, with a message (of getopt's for '?'): the value is none. */
static bool exec_option(struct agent_exec *e, int id) {
    struct agent_command *c = &e->command;
    switch (id) {
    case 't':
        c->tty = true;
        return true;
    case 'E':
        e->escape = escape_parse(optarg);
        if (e->escape == ESCAPE_BAD) {
            complain("exec: --escape %s: not ^X, one character, or none", optarg);
        }
        return e->escape != ESCAPE_BAD;
    case 'u':
        c->user = optarg;
        return true;
    case 'e':
        return env_add(c, optarg);
    case 'w':
        c->dir = optarg;
        return true;
    case 'T':
        return seconds_parse("--timeout", optarg, &e->timeout_ms);
    case 'W':
        return seconds_parse("--wait", optarg, &e->wait_ms);
    case 's':
        e->set_time = true;
        return true;
    default:
        return false;
    }
}

/* Options may stand before the machine and behind it, not behind the command. 0, or the status to
 * end with, plus one. */
static int exec_parse(struct agent_exec *e, int argc, char **argv) {
    static const struct option options[] = {
        {"tty", no_argument, NULL, 't'},        {"escape", required_argument, NULL, 'E'},
        {"user", required_argument, NULL, 'u'}, {"env", required_argument, NULL, 'e'},
        {"cwd", required_argument, NULL, 'w'},  {"timeout", required_argument, NULL, 'T'},
        {"wait", required_argument, NULL, 'W'}, {"set-time", no_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},       {0}};
    optind = 0;
    for (;;) {
        int id = getopt_long(argc, argv, "+th", options, NULL);
        if (id == 'h') {
            return 1 + exec_usage(true);
        }
        if (id != -1 && !exec_option(e, id)) {
            return 1 + exec_usage(false);
        }
        if (id == -1) {
            bool dashes = optind > 1 && !strcmp(argv[optind - 1], "--");
            if (e->machine || dashes || optind == argc) {
                break;
            }
            e->machine = argv[optind++];
        }
    }
    if (!e->machine && optind < argc) {
        e->machine = argv[optind++];
    }
    e->command.argv = argv + optind;
    e->command.argc = (u32)(argc - optind);
    return !e->machine || !e->command.argc != e->set_time ? 1 + exec_usage(false) : 0;
}

int cmd_exec(int argc, char **argv) {
    struct agent_exec e = {.command = {.user = "", .dir = ""},
                           .escape = ESCAPE_DEFAULT,
                           .timeout_ms = -1,
                           .in = STDIN_FILENO,
                           .out = STDOUT_FILENO,
                           .error = STDERR_FILENO};
    static char term[64];
    char **env = calloc(1 + ENV_MAX, sizeof(*env));
    if (!env) {
        complain("exec: out of memory");
        return EXEC_FAILED;
    }
    const char *here = getenv("TERM");
    snprintf(term, sizeof(term), "TERM=%s", here ? here : "dumb");
    env[0] = term; /* with a terminal only; what --env says comes later and wins */
    e.command.env = env + 1;
    int status = exec_parse(&e, argc, argv);
    if (e.command.tty) {
        e.command.env--;
        e.command.envc++;
    }
    status = status ? status - 1 : agent_run("exec", &e);
    free(env);
    return status;
}

/* --- cp --------------------------------------------------------------------------------------- */

/* "MACHINE:PATH" in two; false: a path of this host. As with scp, one with a slash before the
 * colon is none of a machine. */
static bool place_split(char *text, const char **machine, const char **path) {
    char *colon = strchr(text, ':'), *slash = strchr(text, '/');
    *machine = NULL;
    *path = text;
    if (!colon || colon == text || (slash && slash < colon)) {
        return false;
    }
    *colon = 0;
    *machine = text;
    *path = colon + 1;
    return true;
}

static struct agent_exec copy_of(const char *machine, char **argv, u32 argc) {
    return (struct agent_exec){.machine = machine,
                               .command = {.user = "", .dir = "", .argv = argv, .argc = argc},
                               .escape = ESCAPE_NONE,
                               .timeout_ms = -1,
                               .in = -1,
                               .out = STDERR_FILENO,
                               .error = STDERR_FILENO};
}

/* The name in a folder: that of the other file. */
static int joined(char *out, size_t size, const char *dir, const char *other) {
    const char *slash = strrchr(other, '/');
    int n = snprintf(out, size, "%s/%s", dir, slash ? slash + 1 : other);
    return n > 0 && (size_t)n < size ? 0 : -1;
}

static int copy_in(const char *from, const char *machine, const char *to) {
    /* beside its place first, so that nobody finds half of it */
    static char script[] =
        "d=$1; [ ! -d \"$d\" ] || d=$d/$2; cat >\"$d.part\" && chmod $3 \"$d.part\" "
        "&& mv -f \"$d.part\" \"$d\"";
    const char *slash = strrchr(from, '/');
    char mode[8];
    struct stat st = {0};
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) || S_ISDIR(st.st_mode)) {
        complain("cp: %s: %s", from, S_ISDIR(st.st_mode) ? "is a folder" : strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return EXEC_FAILED;
    }
    snprintf(mode, sizeof(mode), "%o", st.st_mode & 0777);
    char *argv[] = {(char *)(uintptr_t) "sh",
                    (char *)(uintptr_t) "-c",
                    script,
                    (char *)(uintptr_t) "sh",
                    (char *)(uintptr_t)to,
                    (char *)(uintptr_t)(slash ? slash + 1 : from),
                    mode};
    struct agent_exec e = copy_of(machine, argv, ARRAY_LEN(argv));
    e.in = fd;
    int status = agent_run("cp", &e);
    close(fd);
    return status;
}

static int copy_out(const char *machine, const char *from, const char *to) {
    char name[4096], part[4200];
    struct stat st;
    bool folder = !stat(to, &st) && S_ISDIR(st.st_mode);
    if (folder && joined(name, sizeof(name), to, from)) {
        complain("cp: %s: the name is too long", to);
        return EXEC_FAILED;
    }
    to = folder ? name : to;
    int len = snprintf(part, sizeof(part), "%s.part", to);
    errno = *to ? ENAMETOOLONG : ENOENT;
    int fd = *to && len < (int)sizeof(part)
                 ? open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666)
                 : -1;
    if (fd < 0) {
        complain("cp: %.200s: %s", to, strerror(errno));
        return EXEC_FAILED;
    }
    char *argv[] = {(char *)(uintptr_t) "cat", (char *)(uintptr_t) "--", (char *)(uintptr_t)from};
    struct agent_exec e = copy_of(machine, argv, ARRAY_LEN(argv));
    e.out = fd;
    int status = agent_run("cp", &e);
    if (close(fd) || (!status && rename(part, to))) {
        complain("cp: %s: %s", to, strerror(errno));
        status = EXEC_FAILED;
    }
    if (status) {
        unlink(part);
    }
    return status;
}

int cmd_cp(int argc, char **argv) {
    static const char help[] =
        "usage: sosia cp FILE MACHINE:PATH\n"
        "       sosia cp MACHINE:PATH FILE\n\n"
        "Copies one file into a guest or out of it, by the agent there (docs/exec.md). A folder "
        "as\n"
        "the target takes it under its own name. Exit status: 0, or as with `sosia exec`.\n";
    bool asked = argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
    const char *m[2] = {NULL, NULL}, *path[2] = {NULL, NULL};
    bool there[2] = {false, false};
    for (int i = 0; argc == 3 && i < 2; i++) {
        there[i] = place_split(argv[1 + i], &m[i], &path[i]);
    }
    if (there[0] == there[1]) {
        fputs(help, asked ? stdout : stderr);
        return asked ? 0 : EXEC_FAILED;
    }
    return there[0] ? copy_out(m[0], path[0], path[1]) : copy_in(path[0], m[1], path[1]);
}
