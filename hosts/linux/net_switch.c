/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port of a switch as network back end: the machines of one user on one host, joined by name. The
 * switch is a process of its own (switch_server.c), started by the first machine that asks for it,
 * gone soon after the last one left: no machine depends on another.
 *
 * Frames travel with their header, so that a large TCP segment crosses from guest to guest in one
 * piece. When the switch dies the card loses its link, and gets it back from a new one.
 */
#include "hosts/linux/net_switch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hosts/linux/net_port.h"

enum {
    SWITCH_FRAMES_PER_INPUT = 64,
    CONNECT_TRIES = 400, /* of 10 ms */
    WELCOME_MS = 2000,
    RECONNECT_MS = 500,
};

struct net_switch {
    struct net_port port;
    struct switch_hello hello;
    struct sockaddr_un at;
    char server[4][40]; /* argv that starts the switch */
    int keeper;         /* a byte asks the keeper for a new switch; -1: none yet */
    u8 rx[PORT_FRAME];
};

static struct net_switch *switch_of(struct net_port *p) {
    return CONTAINER_OF(p, struct net_switch, port);
}

int switch_address(const char *name, struct sockaddr_un *out, struct err *err) {
    char dir[80];
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
    if (!n || n > 32 || name[n]) {
        return ERR_SET(err, ERR_INVAL,
                       "switch '%.40s': a name is 1 to 32 letters, digits, '-' or '_'", name);
    }
    int rc = linux_runtime_dir(dir, sizeof(dir), err);
    if (!rc && strlen(dir) + n + 20 > sizeof(out->sun_path)) {
        rc = ERR_SET(err, ERR_INVAL, "switch %s: the path %s is too long for a socket", name, dir);
    }
    if (!rc) {
        *out = (struct sockaddr_un){.sun_family = AF_UNIX};
        snprintf(out->sun_path, sizeof(out->sun_path), "%s/switch-%s.sock", dir, name);
    }
    return rc;
}

/* --- finding the switch ----------------------------------------------------------------------- */

/* In the child of a process that may have threads: system calls only. Its parent is init then. */
static void become_server(char *const *argv) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (fork() == 0) {
        int null = open("/dev/null", O_RDWR);
        for (int fd = 0; fd < 3; fd++) {
            dup2(null, fd); /* the machine's terminal is not the switch's */
        }
        syscall(SYS_close_range, 3u, ~0u, 0u);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    _exit(0);
}

static void server_spawn(struct net_switch *s) {
    char *argv[] = {s->server[0], s->server[1], s->server[2], s->server[3], NULL};
    if (s->keeper >= 0) {
        (void)!write(s->keeper, "", 1);
        return;
    }
    pid_t pid = fork();
    if (!pid) {
        become_server(argv);
    }
    if (pid > 0) {
        waitpid(pid, NULL, 0);
    }
}

/* The keeper: a child from before the fence, which may start programs when the machine itself may
 * not any more, and which starts nothing but the switch. It ends with the machine. */
static void keeper_main(struct net_switch *s, int fd) {
    char byte;
    if (fd != 3) {
        dup2(fd, 3);
    }
    syscall(SYS_close_range, 4u, ~0u, 0u);
    setsid(); /* Ctrl-C at the machine's terminal is the machine's */
    while (read(3, &byte, 1) == 1) {
        server_spawn(s);
    }
    _exit(0);
}

static int keeper_start(struct net_switch *s, struct err *err) {
    int fd[2];
    if (!s->server[0][0]) {
        return 0;
    }
    if (pipe2(fd, O_CLOEXEC)) {
        return ERR_SET(err, ERR_NOMEM, "--net switch: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (!pid) {
        keeper_main(s, fd[0]);
    }
    close(fd[0]);
    if (pid < 0) {
        close(fd[1]);
        return ERR_SET(err, ERR_NOMEM, "--net switch: %s", strerror(errno));
    }
    fcntl(fd[1], F_SETFL, O_NONBLOCK);
    s->keeper = fd[1];
    return 0;
}

/* A connected socket, or a negative code. Starts the switch when nobody listens. */
static int switch_connect(struct net_switch *s, struct err *err) {
    for (int i = 0; i < CONNECT_TRIES && !net_port_quitting(&s->port); i++) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), size = 8 << 20;
        if (fd < 0) {
            break;
        }
        if (!connect(fd, (struct sockaddr *)&s->at, sizeof(s->at))) {
            setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
            return fd;
        }
        close(fd);
        if (i % 20 == 0 && s->server[0][0]) {
            server_spawn(s);
        }
        usleep(10000);
    }
    return ERR_SET(err, ERR_IO, "--net switch=%s: no switch answers at %s: %s", s->port.name,
                   s->at.sun_path, strerror(errno));
}

static const char *refusal(int result) {
    switch (result) {
    case -ERR_NOMEM:
        return "all its ports are taken";
    case -ERR_EXISTS:
        return "another machine has this MAC address";
    case -ERR_INVAL:
        return "the MAC address is a group's";
    case -ERR_RANGE:
        return "a VLAN is 1 to 4094";
    default:
        return "it speaks another version";
    }
}

/* Hello and welcome. -ERR_AGAIN: the switch went away meanwhile. */
static int switch_greet(struct net_switch *s, int fd, struct err *err) {
    struct switch_welcome w = {0};
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (send(fd, &s->hello, sizeof(s->hello), MSG_NOSIGNAL) != sizeof(s->hello) ||
        poll(&wait, 1, WELCOME_MS) != 1 || recv(fd, &w, sizeof(w), 0) != sizeof(w)) {
        return -ERR_AGAIN;
    }
    if (w.magic != SWITCH_MAGIC || w.result) {
        return ERR_SET(err, ERR_IO, "--net switch=%s: refused: %s", s->port.name,
                       refusal(w.magic == SWITCH_MAGIC ? w.result : 0));
    }
    memcpy(s->hello.mac, w.mac, sizeof(w.mac));
    s->hello.generated = 0; /* the guest knows it now */
    return 0;
}

static int switch_join(struct net_switch *s, struct err *err) {
    for (int i = 0; i < 10; i++) {
        int fd = switch_connect(s, err);
        int rc = fd < 0 ? fd : switch_greet(s, fd, err);
        if (!rc) {
            return fd;
        }
        if (fd >= 0) {
            close(fd);
        }
        if (rc != -ERR_AGAIN) {
            return rc;
        }
    }
    return ERR_SET(err, ERR_IO, "--net switch=%s: the switch does not answer", s->port.name);
}

/* --- frames ----------------------------------------------------------------------------------- */

static int switch_send(struct net_backend *be, const struct iov *iov, u32 count) {
    struct net_port *p = net_port_of(be);
    struct msghdr msg = {.msg_iov = (struct iovec *)(void *)(uintptr_t)iov, .msg_iovlen = count};
    ssize_t n;
    do {
        n = sendmsg(p->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 && errno == EAGAIN ? net_port_full(p) : 0;
}

/* The switch is gone: pulls the cable until there is one again. The descriptor keeps its number,
 * because a vCPU may be about to use it. */
static void switch_rejoin(struct net_port *p) {
    struct net_switch *s = switch_of(p);
    p->be.link(p->be.device, false);
    while (!net_port_quitting(p)) {
        struct pollfd wake = {.fd = p->wake_fd, .events = POLLIN};
        int fd = switch_join(s, NULL);
        if (fd >= 0) {
            dup3(fd, p->fd, O_CLOEXEC);
            close(fd);
            p->be.link(p->be.device, true);
            return;
        }
        poll(&wake, 1, RECONNECT_MS);
    }
}

static void switch_input(struct net_port *p) {
    struct net_switch *s = switch_of(p);
    for (u32 i = 0; i < SWITCH_FRAMES_PER_INPUT; i++) {
        ssize_t n = recv(p->fd, s->rx, sizeof(s->rx), MSG_DONTWAIT);
        if (!n || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            switch_rejoin(p);
            return;
        }
        if (n < 0 || !net_port_deliver(p, &(struct iov){s->rx, (size_t)n}, 1)) {
            return;
        }
    }
}

/* --- life ------------------------------------------------------------------------------------- */

static void switch_free(struct net_port *p) {
    if (switch_of(p)->keeper >= 0) {
        close(switch_of(p)->keeper);
    }
    free(switch_of(p));
}

/* No set_offloads: neighbours send what they like, the device makes of it what its driver knows. */
static const struct net_backend_ops switch_ops = {.send = switch_send,
                                                  .rx_ready = net_port_rx_ready,
                                                  .start = net_port_start,
                                                  .stop = net_port_stop,
                                                  .close = net_port_close};

int net_switch_open(struct linux_host *lh, const struct net_switch_opts *opts, u8 mac[6],
                    struct net_backend **out, struct err *err) {
    struct net_switch *s = calloc(1, sizeof(*s));
    if (!s) {
        return ERR_SET(err, ERR_NOMEM, "--net switch: out of memory");
    }
    s->keeper = -1;
    struct net_port *p = &s->port;
    for (u32 i = 0; i < ARRAY_LEN(s->server) && opts->server[i]; i++) {
        snprintf(s->server[i], sizeof(s->server[i]), "%s", opts->server[i]);
    }
    s->hello = (struct switch_hello){.magic = SWITCH_MAGIC,
                                     .kind = SWITCH_PLUG,
                                     .vlan = opts->vlan,
                                     .generated = opts->generated_mac};
    memcpy(s->hello.mac, mac, 6);
    p->be =
        (struct net_backend){.ops = &switch_ops, .vnet_hdr = true, .offloads = NET_F_TX | NET_F_RX};
    p->input = switch_input;
    p->free = switch_free;
    int rc = net_port_init(p, lh, "switch", opts->name, err);
    rc = rc ? rc : switch_address(opts->name, &s->at, err);
    if (!rc) {
        p->fd = switch_join(s, err);
        rc = p->fd < 0 ? p->fd : 0;
    }
    rc = rc ? rc : keeper_start(s, err);
    linux_fence_need(lh, FENCE_UNIX);
    if (rc) {
        net_port_close(&p->be);
        return rc;
    }
    memcpy(mac, s->hello.mac, 6);
    *out = &p->be;
    return 0;
}
