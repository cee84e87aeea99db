/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Linux host: struct host on mmap, pthreads, epoll, timerfd and futexes, and the back ends that
 * devices are connected to. One event thread (the one that calls linux_host_run) runs timers,
 * posted work and descriptor callbacks.
 */
#ifndef HOSTS_LINUX_LINUX_H
#define HOSTS_LINUX_LINUX_H

#include "core/base/err.h"
#include "core/if/backend.h"
#include "core/if/host.h"
#include "core/if/share.h"

struct linux_host;

int linux_host_create(struct linux_host **out, struct err *err);
/* No thread, timer or watch may be left. */
void linux_host_destroy(struct linux_host *lh);
struct host *linux_host_host(struct linux_host *lh);

/* Runs the event loop on the calling thread until linux_host_quit (any thread, also a signal
 * handler). */
void linux_host_run(struct linux_host *lh);
void linux_host_quit(struct linux_host *lh);

/* Lines below this level are dropped; default LOG_WARN. */
void linux_host_log_level(struct linux_host *lh, enum log_level level);

/* --- where log lines go: one place per process, standard error unless something is opened ------
 */

enum log_format { LOG_TEXT, LOG_JSON };

struct log_options {
    const char *path; /* a file or pipe that is appended to; NULL: fd, or syslog */
    int fd;           /* an open descriptor, which stays the caller's */
    bool syslog;
    enum log_format format;
};

/* Replaces what was open. 0 or a negative code with err filled. */
int linux_log_open(const struct log_options *o, struct err *err);
void linux_log_close(void);
/* The machine's name in each line. */
void linux_log_name(const char *name);
/* A line of the monitor's own, into the log and to the listener, not to standard error. */
void linux_log_note(enum log_level level, const char *text);
/* fn gets each line as text, with its newline; it must not wait or log. NULL: nobody. */
typedef void (*linux_log_fn)(void *ctx, const char *line, size_t len);
void linux_log_listen(linux_log_fn fn, void *ctx);

/* The terminal is raw: end log lines with CR LF. */
void linux_host_log_raw(bool raw);

/* Calls fn on the event thread whenever fd is readable (or hung up). One watch per fd. 0 or -ERR_*.
 */
int linux_fd_watch(struct linux_host *lh, int fd, void (*fn)(void *ctx), void *ctx);
/* Returns when fn is not running any more (unless called from fn itself). */
void linux_fd_unwatch(struct linux_host *lh, int fd);

/* Runs fn once on the event thread. 0 or -ERR_NOMEM. */
int linux_post(struct linux_host *lh, void (*fn)(void *ctx), void *ctx);
/* Takes back what was posted with this ctx; returns when none of it is running any more. */
void linux_post_forget(struct linux_host *lh, const void *ctx);

/* --- clock ------------------------------------------------------------------------------------ */

/* What host_now says (CLOCK_MONOTONIC), for those without a host. */
u64 linux_now_ns(void);

/* Measuring the frequency of the TSC takes milliseconds. Where it was known before (a saved
 * machine), confirm takes it over when half a millisecond or more since begin agrees with it. */
struct linux_tsc_mark {
    u64 ns, tsc;
};
void linux_tsc_begin(struct linux_tsc_mark *mark);
void linux_tsc_confirm(const struct linux_tsc_mark *mark, u64 hz);

/* --- guest RAM -------------------------------------------------------------------------------- */

/* A private, writable view of a file of at least size bytes as guest RAM, page by page on demand;
 * fd belongs to *out when this succeeds. 0 or -ERR_NOMEM. */
int linux_ram_map(int fd, u64 size, struct host_ram *out);
void linux_ram_free(struct host *host, struct host_ram *ram);
/* Page merging (KSM, Documentation/admin-guide/mm/ksm.rst of Linux): pages of guest RAM with the
 * same contents as others that are offered, in other processes too, become one until somebody
 * writes. Not by default: docs/security.md. linux_ram_mergeable is for RAM that the host makes from
 * now on (private then, not a file), linux_ram_merge for RAM that linux_ram_map has made. */
void linux_ram_mergeable(struct linux_host *lh);
void linux_ram_merge(const struct host_ram *ram);
enum ksm_state { KSM_MISSING, KSM_OFF, KSM_ON };
enum ksm_state linux_ksm_state(void);

/* --- the fence: fence.h ----------------------------------------------------------------------- */

enum {
    FENCE_INET = 1 << 0,     /* Internet sockets: user networks */
    FENCE_UNIX = 1 << 1,     /* new Unix sockets: vsock, a switch that went away */
    FENCE_READ = 1 << 2,     /* a path: files and directories below it are read */
    FENCE_WRITE = 1 << 3,    /* and made, written, renamed, removed */
    FENCE_SOCKETS = 1 << 4,  /* and below it Unix sockets are made, and files removed */
    FENCE_OPEN = 1 << 5,     /* any path, told later: an API */
    FENCE_DEBUGGED = 1 << 6, /* others may look into the process: perf, debuggers */
};

/* Before linux_fence: what will be needed (FENCE_*), also below a path, or below the folder that
 * path is in. A path that does not exist is no error. 0 or -ERR_NOMEM. */
void linux_fence_need(struct linux_host *lh, u32 what);
int linux_fence_path(struct linux_host *lh, const char *path, u32 rights);
int linux_fence_folder_of(struct linux_host *lh, const char *path, u32 rights);
/* Gives everything else away, for all threads and for good. -ERR_UNSUPPORTED: the kernel cannot. */
int linux_fence(struct linux_host *lh, struct err *err);
/* Loads the libraries that are opened by name later: behind a chroot there are none. */
void linux_preload(void);
/* At the start of main and before the fence: descriptors that the process was started with. */
void linux_inherited_note(void);
void linux_inherited_close(void);

/* --- back ends -------------------------------------------------------------------------------- */

enum blk_format { BLK_FORMAT_AUTO, BLK_FORMAT_RAW, BLK_FORMAT_QCOW2 };
enum blk_aio { BLK_AIO_AUTO, BLK_AIO_THREADS, BLK_AIO_IO_URING };

struct blk_options {
    const char *path;
    enum blk_format format; /* AUTO: by the file's first bytes */
    enum blk_aio aio;       /* AUTO: io_uring where the kernel offers it, else threads */
    bool readonly;
    bool snapshot;           /* writes go to a file without a name and are gone at close */
    bool backing;            /* open the backing files that an image names, wherever they are */
    const char *backing_dir; /* open those in this directory or below; NULL: none */
    bool no_backing;         /* only this layer: for tools that look at one file */
    bool commit;             /* the first backing file is opened for writing, too */
};

/* An image file or block device. Locked against a second writer (open file description lock). */
int blk_open(struct linux_host *lh, const struct blk_options *o, struct block_backend **out,
             struct err *err);
/* The image and what it stands on, locked, for tools (snapshot is not looked at). */
struct image;
int image_open(struct host *host, const struct blk_options *o, struct image **out, struct err *err);
/* A read-only disk of size bytes (a multiple of 512) in memory, copied from data. */
int blk_memory_open(struct linux_host *lh, const char *name, const void *data, u64 size,
                    struct block_backend **out, struct err *err);
/* As blk_open, raw. */
int blk_file_open(struct linux_host *lh, const char *path, bool readonly,
                  struct block_backend **out, struct err *err);

/*
 * The terminal on standard input and output, set raw when it is one. Ctrl-A x calls leave (event
 * thread), Ctrl-A Ctrl-A (or a) sends Ctrl-A, Ctrl-A h shows help.
 */
int con_stdio_open(struct linux_host *lh, void (*leave)(void *ctx), void *ctx,
                   struct char_backend **out, struct err *err);
/* A new pseudo-terminal; its name ("/dev/pts/3") goes to name. link: a symbolic link to it that
 * lives as long (replaces one that is there), or NULL. */
int con_pty_open(struct linux_host *lh, const char *link, char *name, size_t size,
                 struct char_backend **out, struct err *err);
/* Output appended to a file (created), no input. What a full disk does not take is dropped; the log
 * says how much. */
int con_file_open(struct linux_host *lh, const char *path, struct char_backend **out,
                  struct err *err);

/*
 * A console that keeps its last output and that sockets can attach to (con_hub.c), in front of
 * below, which it owns when it succeeds (NULL: nothing but those sockets).
 */
struct con_hub;
int con_hub_open(struct linux_host *lh, struct char_backend *below, struct con_hub **out,
                 struct err *err);
/* One that listens at a Unix stream socket; each connection is attached. */
int con_socket_open(struct linux_host *lh, const char *path, struct con_hub **out, struct err *err);
struct char_backend *con_hub_backend(struct con_hub *hub); /* closing it closes all */
struct feed *con_hub_feed(struct con_hub *hub);            /* feed.h */
/*
 * A folder for a guest. What is not below path (symbolic links, "..", device nodes, whatever
 * happens to names meanwhile) cannot be reached through it.
 */
int share_open(struct linux_host *lh, const char *path, bool readonly, struct share_backend **out,
               struct err *err);

/* Sockets of the guest as Unix sockets: path for programs of the host that connect, path_PORT for
 * those that listen. A stale socket at path is replaced; it is removed at the end. path NULL: no
 * such sockets, only what vsock_unix_adopt brings. */
int vsock_unix_open(struct linux_host *lh, const char *path, struct vsock_backend **out,
                    struct err *err);
/* fd, a stream socket, becomes a connection to the guest's port, as if its other end had connected
 * and sent "CONNECT PORT". On the event thread. 0, and fd is the back end's, or -ERR_NOSPACE. */
int vsock_unix_adopt(struct vsock_backend *be, int fd, u32 port);

/* Networks. Each has a thread of its own while a device is connected. */

/* An existing tap device. */
int net_tap_open(struct linux_host *lh, const char *name, struct net_backend **out,
                 struct err *err);
/* The socket of a passt process. */
int net_passt_open(struct linux_host *lh, const char *path, struct net_backend **out,
                   struct err *err);

enum { NET_USER_FORWARDS = 32 };

struct net_user_opts {
    u16 mtu;          /* 0: 1500 */
    bool restricted;  /* the guest reaches forwarded ports' peers, DHCP and nothing else */
    bool no_loopback; /* the guest does not reach services on the host's loopback address */
    const char *forward[NET_USER_FORWARDS]; /* "tcp:127.0.0.1:2222-:22", as in QEMU */
    u32 forward_count;
};
/* A network without privileges: NAT, DHCP, DNS, IPv4 and IPv6 in this process (libslirp). */
int net_user_open(struct linux_host *lh, const struct net_user_opts *opts, struct net_backend **out,
                  struct err *err);

struct net_switch_opts {
    const char *name;
    u16 vlan;              /* 1..4094; 0: the ports that name none */
    bool generated_mac;    /* the switch may change it where another machine has it */
    const char *server[4]; /* arguments with which this program serves the switch; NULL: never */
};
/* A port of a switch between machines; starts the switch when there is none of this name. */
int net_switch_open(struct linux_host *lh, const struct net_switch_opts *opts, u8 mac[6],
                    struct net_backend **out, struct err *err);
/* The switch itself, until the last port has left. 0 also when another process serves it. */
int switch_serve(const char *name, struct err *err);
/* Writes what the switch knows about its ports, as text, to the descriptor out. */
int switch_status(const char *name, int out, struct err *err);

/* The directory for sockets of this user, made when missing: "/run/user/1000/sosia". */
int linux_runtime_dir(char *path, size_t size, struct err *err);

#endif
