/* SPDX-License-Identifier: Apache-2.0 */
/* The thread of a network back end; see net_port.h. */
#include "hosts/linux/net_port.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int net_port_init(struct net_port *p, struct linux_host *lh, const char *kind, const char *name,
                  struct err *err) {
    p->lh = lh;
    p->kind = kind;
    snprintf(p->name, sizeof(p->name), "%s", name);
    p->fd = -1;
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->wake_fd < 0) {
        return ERR_SET(err, ERR_IO, "--net %s: %s", kind, strerror(errno));
    }
    return 0;
}

void net_port_wake(struct net_port *p) {
    u64 one = 1;
    ssize_t n = write(p->wake_fd, &one, sizeof(one)); /* a full counter is awake already */
    (void)n;
}

int net_port_full(struct net_port *p) {
    __atomic_store_n(&p->want_write, 1, __ATOMIC_SEQ_CST);
    net_port_wake(p);
    return -ERR_AGAIN;
}

bool net_port_quitting(struct net_port *p) {
    return __atomic_load_n(&p->quit, __ATOMIC_ACQUIRE);
}

bool net_port_deliver(struct net_port *p, const struct iov *iov, u32 count) {
    if (p->be.receive(p->be.device, iov, count) != -ERR_AGAIN) {
        return true;
    }
    p->blocked = true;
    p->kept_count = count;
    memcpy(p->kept, iov, count * sizeof(*iov));
    return false;
}

void net_port_retry(struct net_port *p) {
    if (!__atomic_exchange_n(&p->ready, 0, __ATOMIC_ACQ_REL) || !p->blocked) {
        return;
    }
    struct iov iov[2];
    u32 count = p->kept_count;
    memcpy(iov, p->kept, sizeof(iov));
    p->blocked = false;
    if (net_port_deliver(p, iov, count) && p->resumed) {
        p->resumed(p);
    }
}

void net_port_hangup(struct net_port *p, const char *why) {
    char text[256];
    int n = snprintf(text, sizeof(text), "--net %s=%s: %s; the card's cable is out", p->kind,
                     p->name, why);
    linux_log(&p->lh->host, LOG_WARN, text, (size_t)n);
    /* kept open, so that a send under way hits no stranger's descriptor; not waited for */
    p->input = NULL;
    p->be.link(p->be.device, false);
}

static void drain_wakes(struct net_port *p) {
    u64 value;
    ssize_t n = read(p->wake_fd, &value, sizeof(value));
    (void)n;
}

static void wait_once(struct net_port *p) {
    struct pollfd fds[2] = {{.fd = p->wake_fd, .events = POLLIN}, {.fd = -1}};
    if (!p->blocked && p->input) {
        fds[1].events = POLLIN;
    }
    if (__atomic_load_n(&p->want_write, __ATOMIC_SEQ_CST) && p->input) {
        fds[1].events |= POLLOUT;
    }
    fds[1].fd = fds[1].events ? p->fd : -1;
    if (poll(fds, 2, -1) <= 0) {
        return;
    }
    if (fds[0].revents) {
        drain_wakes(p);
        net_port_retry(p);
    }
    if (fds[1].revents & (POLLOUT | POLLERR | POLLHUP)) {
        if (__atomic_exchange_n(&p->want_write, 0, __ATOMIC_ACQ_REL)) {
            if (p->output) {
                p->output(p);
            }
            p->be.writable(p->be.device);
        }
    }
    if ((fds[1].revents & (POLLIN | POLLERR | POLLHUP)) && !p->blocked && p->input) {
        p->input(p);
    }
}

static void *thread_main(void *arg) {
    struct net_port *p = arg;
    char name[16];
    snprintf(name, sizeof(name), "net %.10s", p->kind);
    pthread_setname_np(pthread_self(), name);
    if (p->run) {
        p->run(p);
        return NULL;
    }
    while (!net_port_quitting(p)) {
        wait_once(p);
    }
    return NULL;
}

void net_port_start(struct net_backend *be) {
    struct net_port *p = net_port_of(be);
    p->running = !linux_spawn(p->lh, &p->thread, thread_main, p);
    if (!p->running) {
        static const char text[] = "no thread for a network: the card's cable is out";
        linux_log(&p->lh->host, LOG_ERROR, text, sizeof(text) - 1);
    }
}

void net_port_stop(struct net_backend *be) {
    struct net_port *p = net_port_of(be);
    if (p->running) {
        __atomic_store_n(&p->quit, 1, __ATOMIC_RELEASE);
        net_port_wake(p);
        pthread_join(p->thread, NULL);
        p->running = false;
    }
}

void net_port_close(struct net_backend *be) {
    struct net_port *p = net_port_of(be);
    net_port_stop(be);
    if (p->fd >= 0) {
        close(p->fd);
    }
    if (p->wake_fd >= 0) {
        close(p->wake_fd);
    }
    p->free(p);
}

void net_port_rx_ready(struct net_backend *be) {
    struct net_port *p = net_port_of(be);
    __atomic_store_n(&p->ready, 1, __ATOMIC_RELEASE);
    net_port_wake(p);
}
