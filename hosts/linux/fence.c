/* SPDX-License-Identifier: Apache-2.0 */
/* The fence as a whole, and the thread that starts threads behind it. fence.h says what it is. */
#include "hosts/linux/fence.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hosts/linux/host.h"

enum { MAX_PATHS = 64, MAX_INHERITED = 256, OPEN_FILES = 4096, GIVE_UP_MS = 5000 };

/* The one signal that workers take, and only while the fence goes up. */
#define FENCE_SIGNAL SIGUSR2

struct spawn {
    pthread_t *out;
    void *(*fn)(void *);
    void *arg;
    int result;
    bool done;
};

struct fence {
    struct fence_path path[MAX_PATHS];
    u32 paths;
    u32 needs;
    bool up;
    struct sock_fprog vcpu;

    pthread_mutex_t lock;
    pthread_cond_t work, ready;
    struct spawn *job; /* one at a time */
    bool spawner_runs, stop;
    pthread_t spawner;
};

struct fence *fence_create(void) {
    struct fence *f = calloc(1, sizeof(*f));
    if (f) {
        pthread_mutex_init(&f->lock, NULL);
        pthread_cond_init(&f->work, NULL);
        pthread_cond_init(&f->ready, NULL);
    }
    return f;
}

void fence_destroy(struct fence *f) {
    if (!f) {
        return;
    }
    if (f->spawner_runs) {
        pthread_mutex_lock(&f->lock);
        f->stop = true;
        pthread_cond_broadcast(&f->work);
        pthread_mutex_unlock(&f->lock);
        pthread_join(f->spawner, NULL);
    }
    for (u32 i = 0; i < f->paths; i++) {
        free(f->path[i].path);
    }
    free(f->vcpu.filter);
    pthread_cond_destroy(&f->work);
    pthread_cond_destroy(&f->ready);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* --- starting threads ------------------------------------------------------------------------- */

static int create_silent(pthread_t *out, void *(*fn)(void *), void *arg) {
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, FENCE_SIGNAL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void *spawner_main(void *arg) {
    struct fence *f = arg;
    pthread_setname_np(pthread_self(), "spawner");
    pthread_mutex_lock(&f->lock);
    while (!f->stop) {
        struct spawn *job = f->job;
        if (!job || job->done) {
            pthread_cond_wait(&f->work, &f->lock);
            continue;
        }
        job->result = create_silent(job->out, job->fn, job->arg);
        job->done = true;
        pthread_cond_broadcast(&f->ready);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

int linux_spawn(struct linux_host *lh, pthread_t *out, void *(*fn)(void *), void *arg) {
    struct fence *f = lh->fence;
    struct spawn job = {.out = out, .fn = fn, .arg = arg};
    if (!f->spawner_runs) {
        return create_silent(out, fn, arg);
    }
    pthread_mutex_lock(&f->lock);
    while (f->job) {
        pthread_cond_wait(&f->ready, &f->lock);
    }
    f->job = &job;
    pthread_cond_broadcast(&f->work);
    while (!job.done) {
        pthread_cond_wait(&f->ready, &f->lock);
    }
    f->job = NULL;
    pthread_cond_broadcast(&f->ready);
    pthread_mutex_unlock(&f->lock);
    return job.result;
}

/* --- what is asked for ------------------------------------------------------------------------ */

void linux_fence_need(struct linux_host *lh, u32 what) {
    lh->fence->needs |= what;
}

int linux_fence_path(struct linux_host *lh, const char *path, u32 rights) {
    struct fence *f = lh->fence;
    if (f->paths == MAX_PATHS || !(f->path[f->paths].path = strdup(path))) {
        return -ERR_NOMEM;
    }
    f->path[f->paths++].rights = rights;
    f->needs |= rights;
    return 0;
}

int linux_fence_folder_of(struct linux_host *lh, const char *path, u32 rights) {
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof(dir)) {
        return -ERR_INVAL;
    }
    memcpy(dir, path, n);
    dir[n] = 0;
    return linux_fence_path(lh, n ? dir : slash ? "/" : ".", rights);
}

/* --- going up --------------------------------------------------------------------------------- */

/* What belongs to each thread and is inherited by those it starts. Async-signal-safe. */
static bool thread_give_up(int ruleset) {
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    bool ok = syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    for (int cap = 0; cap < 64; cap++) {
        (void)syscall(SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0); /* needs CAP_SETPCAP */
    }
    (void)syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    ok = (ruleset < 0 || fence_landlock_enter(ruleset)) && ok;
    return syscall(SYS_capset, &h, none) == 0 && ok;
}

/* Threads that run already (a console's writer, a network's) do it in a signal handler; the handler
 * has nothing but these to speak through. */
static int handler_ruleset;
static u32 handler_done, handler_failed;

static void on_give_up(int signal) {
    int saved = errno;
    (void)signal;
    if (!thread_give_up(handler_ruleset)) {
        __atomic_store_n(&handler_failed, 1, __ATOMIC_RELAXED);
    }
    __atomic_fetch_add(&handler_done, 1, __ATOMIC_RELEASE);
    errno = saved;
}

/* Signals every other thread; returns how many. */
static u32 others_signal(void) {
    DIR *d = opendir("/proc/self/task");
    struct dirent *e;
    u32 n = 0;
    while (d && (e = readdir(d))) {
        int tid = atoi(e->d_name);
        if (tid && tid != (int)syscall(SYS_gettid)) {
            n += syscall(SYS_tgkill, getpid(), tid, FENCE_SIGNAL) == 0;
        }
    }
    if (d) {
        closedir(d);
    }
    return n;
}

static bool others_give_up(int ruleset) {
    struct sigaction sa = {.sa_handler = on_give_up, .sa_flags = SA_RESTART | SA_ONSTACK};
    handler_ruleset = ruleset;
    handler_done = handler_failed = 0;
    sigaction(FENCE_SIGNAL, &sa, NULL);
    u32 n = others_signal();
    for (int ms = 0; __atomic_load_n(&handler_done, __ATOMIC_ACQUIRE) < n; ms++) {
        if (ms > GIVE_UP_MS) {
            return false;
        }
        usleep(1000);
    }
    signal(FENCE_SIGNAL, SIG_IGN);
    return !handler_failed;
}

static void limits(void) {
    struct rlimit files, none = {0};
    setrlimit(RLIMIT_CORE, &none); /* guest memory and keys do not end in a core file */
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        rlim_t most = files.rlim_cur > OPEN_FILES ? files.rlim_cur : OPEN_FILES;
        files.rlim_max = files.rlim_max < most ? files.rlim_max : most;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static int seccomp_up(struct fence *f, struct err *err) {
    int rc = create_silent(&f->spawner, spawner_main, f)
                 ? ERR_SET(err, ERR_NOMEM, "fence: no thread to start threads")
                 : 0;
    f->spawner_runs = !rc;
    return rc ? rc : fence_seccomp(f->needs, &f->vcpu, err);
}

int linux_fence(struct linux_host *lh, struct err *err) {
    struct fence *f = lh->fence;
    if (f->up) {
        return 0;
    }
    /* names that nobody knows yet cannot be listed */
    int ruleset =
        f->needs & FENCE_OPEN ? -1 : fence_landlock_rules(f->path, f->paths, f->needs & FENCE_INET);
    bool ok = others_give_up(ruleset) && thread_give_up(ruleset);
    if (ruleset >= 0) {
        close(ruleset);
    }
    if (!ok) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "fence: privileges cannot be dropped (%s); `--fence "
                       "off` runs without",
                       strerror(errno));
    }
    limits();
    if (!(f->needs & FENCE_DEBUGGED)) {
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* no ptrace, no /proc/PID/mem by the same user */
    }
    int rc = seccomp_up(f, err);
    f->up = !rc;
    return rc;
}

void fence_enter_vcpu(struct fence *f) {
    if (f->up) {
        /* Narrower than what is in force already: a failure leaves that. */
        (void)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &f->vcpu);
    }
}

/* --- inherited descriptors -------------------------------------------------------------------- */

/* What whoever started the process left open, and which no option of ours can name by number. Paths
 * such as /dev/fd/5 were opened anew by then. */
static int inherited[MAX_INHERITED];
static u32 inherited_count;

void linux_inherited_note(void) {
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    while (d && (e = readdir(d)) && inherited_count < MAX_INHERITED) {
        int fd = atoi(e->d_name);
        if (e->d_name[0] != '.' && fd > STDERR_FILENO && fd != dirfd(d)) {
            inherited[inherited_count++] = fd;
        }
    }
    if (d) {
        closedir(d);
    }
}

void linux_inherited_close(void) {
    for (u32 i = 0; i < inherited_count; i++) {
        close(inherited[i]);
    }
    inherited_count = 0;
}
