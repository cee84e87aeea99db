/* SPDX-License-Identifier: Apache-2.0 */
/* Signals through a descriptor; see end_signals.h. They are blocked in the thread that asks and in
 * those that it makes later. */
#include "cmd/end_signals.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "hosts/linux/linux.h"

static void mask(int how, sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    pthread_sigmask(how, set, NULL);
}

int end_signals_watch(struct linux_host *lh, void (*fn)(void *ctx), void *ctx) {
    sigset_t set;
    mask(SIG_BLOCK, &set);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd >= 0 && linux_fd_watch(lh, fd, fn, ctx)) {
        close(fd);
        errno = ENOMEM;
        fd = -1;
    }
    return fd;
}

bool end_signals_take(int fd) {
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof(info)) == sizeof(info);
}

void end_signals_unwatch(struct linux_host *lh, int *fd) {
    sigset_t set;
    if (*fd >= 0) {
        linux_fd_unwatch(lh, *fd);
        close(*fd);
        *fd = -1;
        mask(SIG_UNBLOCK, &set);
    }
}
