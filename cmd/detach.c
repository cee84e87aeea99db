/* SPDX-License-Identifier: Apache-2.0 */
/* Going into the background; see detach.h. The child tells through a pipe; a pipe that closes
 * without a name is a child that has failed. */
#include "cmd/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/registry.h"

/* Prints the name that comes; the exit status. */
static int parent_wait(int from, pid_t child) {
    char name[128];
    size_t len = 0;
    ssize_t n;
    int status = 0;
    while (len < sizeof(name) - 1 && ((n = read(from, name + len, sizeof(name) - 1 - len)) > 0 ||
                                      (n < 0 && errno == EINTR))) {
        len += n > 0 ? (size_t)n : 0;
    }
    name[len] = 0;
    close(from);
    if (len) {
        puts(name);
        registry_prune();
        return 0;
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : EXIT_FAILURE_OTHER;
}

/* Nothing reads the terminal from here on; when the machine runs its process may not open anything
 * any more. */
static int null_stdin(struct err *err) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0) {
        return ERR_SET(err, ERR_IO, "--detach: /dev/null: %s", strerror(errno));
    }
    if (null > STDERR_FILENO) {
        close(null);
    }
    return 0;
}

int detach_begin(int *word, int *status, struct err *err) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC)) {
        return ERR_SET(err, ERR_IO, "--detach: %s", strerror(errno));
    }
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        int rc = ERR_SET(err, ERR_NOMEM, "--detach: %s", strerror(errno));
        close(fds[0]);
        close(fds[1]);
        return rc;
    }
    if (child) {
        close(fds[1]);
        *status = parent_wait(fds[0], child);
        return 1;
    }
    close(fds[0]);
    setsid();
    *word = fds[1];
    return null_stdin(err);
}

void detach_done(int word, const char *name) {
    dup2(STDIN_FILENO, STDOUT_FILENO); /* /dev/null: detach_begin */
    dup2(STDIN_FILENO, STDERR_FILENO);
    if (write(word, name, strlen(name)) < 0) {
        linux_log_note(LOG_WARN, "whoever started the machine did not wait for it");
    }
    close(word);
}
