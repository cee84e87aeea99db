/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A few threads for system calls that block (file I/O). Threads start when work comes and there is
 * no idle one, so a machine without a disk has none.
 */
#include <stdlib.h>

#include "hosts/linux/host.h"

enum { POOL_THREADS = 4 };

struct pool {
    struct linux_host *lh;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct pool_job *first, **tail;
    pthread_t thread[POOL_THREADS];
    int threads, idle, queued; /* queued: jobs that no thread has taken yet */
    bool stop;
    void (*begin)(void); /* NULL: nothing to do first */
    int begun;
};

static void *pool_main(void *arg) {
    struct pool *p = arg;
    pthread_setname_np(pthread_self(), "io");
    if (p->begin) {
        p->begin();
    }
    pthread_mutex_lock(&p->lock);
    p->begun++;
    pthread_cond_broadcast(&p->work);
    for (;;) {
        while (!p->first && !p->stop) {
            p->idle++;
            pthread_cond_wait(&p->work, &p->lock);
            p->idle--;
        }
        struct pool_job *job = p->first;
        if (!job) {
            break;
        }
        p->first = job->next;
        p->queued--;
        if (!p->first) {
            p->tail = &p->first;
        }
        pthread_mutex_unlock(&p->lock);
        job->fn(job);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static struct pool *create(struct linux_host *lh, void (*begin)(void)) {
    struct pool *p = calloc(1, sizeof(*p));
    if (p) {
        pthread_mutex_init(&p->lock, NULL);
        pthread_cond_init(&p->work, NULL);
        p->tail = &p->first;
        p->lh = lh;
        p->begin = begin;
    }
    return p;
}

struct pool *pool_create(struct linux_host *lh) {
    return create(lh, NULL);
}

/* Workers take no signals: kicks and Ctrl-C belong to other threads. */
static int pool_grow(struct pool *p) {
    int rc = linux_spawn(p->lh, &p->thread[p->threads], pool_main, p);
    p->threads += rc ? 0 : 1;
    return rc;
}

struct pool *pool_create_started(struct linux_host *lh, void (*begin)(void)) {
    struct pool *p = create(lh, begin);
    if (!p) {
        return NULL;
    }
    pthread_mutex_lock(&p->lock);
    while (p->threads < POOL_THREADS && !pool_grow(p)) {
    }
    while (p->begun < p->threads) {
        pthread_cond_wait(&p->work, &p->lock);
    }
    p->begin = NULL; /* a thread that could not be had now would come behind the fence */
    pthread_mutex_unlock(&p->lock);
    if (!p->threads) {
        pool_destroy(p);
        return NULL;
    }
    return p;
}

int pool_submit(struct pool *p, struct pool_job *job) {
    int rc = 0;
    pthread_mutex_lock(&p->lock);
    if (p->queued >= p->idle && p->threads < POOL_THREADS && pool_grow(p) && !p->threads) {
        rc = -ERR_NOMEM;
    } else {
        job->next = NULL;
        *p->tail = job;
        p->tail = &job->next;
        p->queued++;
        pthread_cond_signal(&p->work);
    }
    pthread_mutex_unlock(&p->lock);
    return rc;
}

void pool_destroy(struct pool *p) {
    if (!p) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->threads; i++) {
        pthread_join(p->thread[i], NULL);
    }
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    free(p);
}
