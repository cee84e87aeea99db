/* SPDX-License-Identifier: Apache-2.0 */
/* The sosia command: finds the verb and calls it. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"

struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static int cmd_help(int argc, char **argv);

static const struct verb verbs[] = {
    {"run", cmd_run, "run a virtual machine"},
    {"api", cmd_api, "serve Firecracker's API for one machine"},
    {"jail", cmd_jail, "run the API server as another user in a folder of its own"},
    {"verify", cmd_verify, "run a machine, translated code in lock-step with the interpreter"},
    {"snapshot", cmd_snapshot, "save a running machine to files, and look at such files"},
    {"clone", cmd_clone, "run copies of a running machine"},
    {"engine", cmd_engine, "change how the instructions of a running machine execute"},
    {"restore", cmd_restore, "run the machine of a snapshot"},
    {"image", cmd_image, "make, check, convert and resize disk images"},
    {"cpu", cmd_cpu, "show the processor that guests see, and what is withheld and why"},
    {"switch", cmd_switch, "show the ports of a switch between machines"},
    {"sensitivity", cmd_sensitivity, "find the sensitive instructions, and whether they trap"},
    {"ls", cmd_ls, "list the running machines"},
    {"stop", cmd_stop, "press a machine's power button, and kill it when that does not help"},
    {"kill", cmd_kill, "end a machine at once"},
    {"pause", cmd_pause, "let a machine stand still"},
    {"resume", cmd_resume, "let a paused machine go on"},
    {"balloon", cmd_balloon, "ask a guest to give up memory, or take it back"},
    {"console", cmd_console, "attach to a machine's console"},
    {"exec", cmd_exec, "run a command in a guest, by the agent there"},
    {"cp", cmd_cp, "copy a file into a guest or out of it"},
    {"logs", cmd_logs, "show a machine's log and what its console said"},
    {"wait", cmd_wait, "wait for a machine's end; its exit status"},
    {"top", cmd_top, "show what the running machines do, again and again"},
    {"stats", cmd_stats, "show the counters of a running machine"},
    {"version", cmd_version, "show the version"},
    {"help", cmd_help, "show this text"},
};

static void usage(FILE *to) {
    fputs("usage: sosia VERB [OPTIONS]\n\nA virtual machine monitor for x86-64.\n\n", to);
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        fprintf(to, "  %-11s %s\n", verbs[i].name, verbs[i].help);
    }
    fputs("\n`sosia VERB --help` shows a verb's options.\n", to);
}

static int cmd_help(int argc, char **argv) {
    (void)argc;
    (void)argv;
    usage(stdout);
    return 0;
}

int cmd_version(int argc, char **argv) {
    (void)argc;
    (void)argv;
    puts("sosia " SOSIA_VERSION);
    return 0;
}

static const char *verb_of(const char *arg) {
    if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
        return "help";
    }
    return !strcmp(arg, "--version") || !strcmp(arg, "-V") ? "version" : arg;
}

/* A descriptor that the caller closed would be given to the next file that is opened: the guest's
 * console must not end up in a disk image. False: not even /dev/null can be opened. */
static bool standard_streams_open(void) {
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    return fd >= 0 && close(fd) == 0;
}

/* Through a link of such a name this is a drop-in replacement. */
static bool called(const char *program, const char *name) {
    const char *slash = strrchr(program, '/');
    return !strcmp(slash ? slash + 1 : program, name);
}

int main(int argc, char **argv) {
    if (!standard_streams_open()) {
        return EXIT_FAILURE_OTHER;
    }
    linux_inherited_note();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error of the write */
    if (argc && called(argv[0], "firecracker")) {
        return cmd_api(argc, argv);
    }
    if (argc && called(argv[0], "jailer")) {
        return cmd_jail(argc, argv);
    }
    if (argc < 2) {
        usage(stderr);
        return EXIT_BAD_INPUT;
    }
    const char *name = verb_of(argv[1]);
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (!strcmp(name, verbs[i].name)) {
            return verbs[i].run(argc - 1, argv + 1);
        }
    }
    complain("unknown verb '%s'; `sosia --help` lists them", argv[1]);
    return EXIT_BAD_INPUT;
}
