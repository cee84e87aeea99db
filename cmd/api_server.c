/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API's HTTP server, on libmicrohttpd (api_http.h) with an epoll descriptor that this file's
 * thread polls.
 *
 *   fc_api thread                          event thread
 *     poll: listener, MHD, stop
 *     on_request: body complete
 *       job -> eventfd ------------------> on_job: api_handle
 *       wait <---------------------------- done
 *     queue the reply
 *
 * Connections beyond API_MAX_CONNECTIONS get 503 and are closed. `lock` guards the job.
 */
#include "cmd/api_server.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cmd/api_http.h"

struct api_server {
    struct api *api;
    struct linux_host *lh;
    u64 max_payload;
    struct sockaddr_un at;
    bool bound;
    int listen_fd, job_fd, stop_fd;
    struct http_lib http;
    struct MHD_Daemon *mhd;
    struct host_thread *thread;
    u32 connections; /* fc_api only */

    pthread_mutex_t lock;
    pthread_cond_t done;
    bool closing;
    const struct api_request *request; /* NULL: none waits */
    struct api_reply *reply;
};

/* A request being received; *con_cls of MHD. */
struct upload {
    char *body;
    size_t len;
    bool too_large, failed;
};

/* --- to the event thread and back ------------------------------------------------------------- */

static void on_job(void *ctx) {
    struct api_server *s = ctx;
    u64 n;
    (void)!read(s->job_fd, &n, sizeof(n));
    pthread_mutex_lock(&s->lock);
    if (s->request) {
        api_handle(s->api, s->request, s->reply);
        s->request = NULL;
        pthread_cond_signal(&s->done);
    }
    pthread_mutex_unlock(&s->lock);
    if (s->api->fatal) {
        linux_host_quit(s->lh);
    }
}

static void hand_over(struct api_server *s, const struct api_request *q, struct api_reply *r) {
    u64 one = 1;
    pthread_mutex_lock(&s->lock);
    if (!s->closing) {
        s->request = q;
        s->reply = r;
        (void)!write(s->job_fd, &one, sizeof(one));
    }
    while (s->request && !s->closing) {
        pthread_cond_wait(&s->done, &s->lock);
    }
    if (s->request || s->closing) {
        s->request = NULL;
        if (!r->status) {
            api_reply_fault(r, 400, "The microVM has ended.");
        }
    }
    pthread_mutex_unlock(&s->lock);
}

/* --- replies ---------------------------------------------------------------------------------- */

static enum MHD_Result send_reply(struct api_server *s, struct MHD_Connection *c,
                                  const struct api_reply *r, bool close) {
    size_t len = r->body ? strlen(r->body) : 0;
    struct MHD_Response *response =
        s->http.create_response_from_buffer(len, r->body, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(r->body);
        return MHD_NO;
    }
    s->http.add_response_header(response, "Server", "Firecracker API");
    if (r->body) {
        s->http.add_response_header(response, "Content-Type", r->type);
    }
    if (r->deprecated) {
        s->http.add_response_header(response, "Deprecation", "true");
    }
    if (close) {
        s->http.add_response_header(response, "Connection", "close");
    }
    enum MHD_Result rc = s->http.queue_response(c, (unsigned)r->status, response);
    s->http.destroy_response(response);
    return rc;
}

/* What is wrong with the HTTP itself, and ends the connection. */
static enum MHD_Result send_error(struct api_server *s, struct MHD_Connection *c,
                                  const char *text) {
    struct api_reply r = {.status = 400, .type = "application/json"};
    json_t *v = json_pack("{s:s}", "error", text);
    r.body = v ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    return send_reply(s, c, &r, true);
}

static enum MHD_Result send_too_large(struct api_server *s, struct MHD_Connection *c, u64 size) {
    char text[256];
    snprintf(text, sizeof(text),
             "Request payload with size %llu is larger than the limit of %llu allowed by server.\n"
             "All previous unanswered requests will be dropped.",
             (unsigned long long)size, (unsigned long long)s->max_payload);
    return send_error(s, c, text);
}

/* --- requests --------------------------------------------------------------------------------- */

static bool known_method(const char *method) {
    static const char *const methods[] = {"GET", "PUT", "PATCH", "DELETE"};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if (!strcmp(method, methods[i])) {
            return true;
        }
    }
    return false;
}

/* The head has come: refuse before a body is sent. */
static enum MHD_Result begin(struct api_server *s, struct MHD_Connection *c, const char *method,
                             void **state) {
    const char *length = s->http.lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
    u64 size = length ? strtoull(length, NULL, 10) : 0;
    if (!known_method(method)) {
        return send_error(s, c,
                          "Invalid HTTP Method: Unsupported HTTP method.\nAll previous "
                          "unanswered requests will be dropped.");
    }
    if (size > s->max_payload) {
        return send_too_large(s, c, size);
    }
    *state = calloc(1, sizeof(struct upload));
    return *state ? MHD_YES : MHD_NO;
}

static void receive(struct api_server *s, struct upload *u, const char *data, size_t len) {
    if (u->too_large || u->failed || len > s->max_payload - u->len) {
        u->too_large = !u->failed;
        return;
    }
    char *grown = realloc(u->body, u->len + len + 1);
    if (!grown) {
        u->failed = true;
        return;
    }
    u->body = grown;
    memcpy(u->body + u->len, data, len);
    u->len += len;
    u->body[u->len] = 0;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_size, void **state) {
    struct api_server *s = ctx;
    (void)version;
    if (!*state) {
        return begin(s, c, method, state);
    }
    struct upload *u = *state;
    if (*data_size) {
        receive(s, u, data, *data_size);
        *data_size = 0;
        return MHD_YES;
    }
    if (u->too_large) {
        return send_too_large(s, c, s->max_payload + 1);
    }
    if (u->failed) {
        return MHD_NO;
    }
    struct api_request q = {.method = method, .path = url, .body = u->body, .len = u->len};
    struct api_reply r = {0};
    hand_over(s, &q, &r);
    return send_reply(s, c, &r, false);
}

static void on_completed(void *ctx, struct MHD_Connection *c, void **state,
                         enum MHD_RequestTerminationCode why) {
    struct upload *u = *state;
    (void)ctx;
    (void)c;
    (void)why;
    if (u) {
        free(u->body);
        free(u);
        *state = NULL;
    }
}

static void on_connection(void *ctx, struct MHD_Connection *c, void **state,
                          enum MHD_ConnectionNotificationCode what) {
    struct api_server *s = ctx;
    (void)c;
    (void)state;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        s->connections--;
    } else {
        s->connections++;
    }
}

/* Paths are taken as they are: ids have no escapes. */
static size_t no_unescape(void *ctx, struct MHD_Connection *c, char *text) {
    (void)ctx;
    (void)c;
    return strlen(text);
}

/* --- the thread ------------------------------------------------------------------------------- */

static void accept_one(struct api_server *s) {
    static const char full[] = "HTTP/1.1 503 \r\nServer: Firecracker API\r\nConnection: close\r\n"
                               "Content-Length: 40\r\n\r\n{ \"error\": \"Too many open "
                               "connections\" }";
    struct sockaddr_un peer = {.sun_family = AF_UNIX};
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    if (s->connections >= API_MAX_CONNECTIONS) {
        (void)!send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(fd);
        return;
    }
    /* closes fd when it fails */
    s->http.add_connection(s->mhd, fd, (struct sockaddr *)&peer, sizeof(sa_family_t));
}

static void serve(void *ctx) {
    struct api_server *s = ctx;
    const union MHD_DaemonInfo *info = s->http.get_daemon_info(s->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    struct pollfd fd[3] = {{.fd = s->stop_fd, .events = POLLIN},
                           {.fd = s->listen_fd, .events = POLLIN},
                           {.fd = info->epoll_fd, .events = POLLIN}};
    for (;;) {
        MHD_UNSIGNED_LONG_LONG wait = 0;
        bool timed = s->http.get_timeout(s->mhd, &wait) == MHD_YES;
        if (poll(fd, ARRAY_LEN(fd), timed ? (int)MIN(wait, 60000u) : -1) < 0 && errno != EINTR) {
            return;
        }
        if (fd[0].revents) {
            return;
        }
        if (fd[1].revents & POLLIN) {
            accept_one(s);
        }
        s->http.run(s->mhd);
    }
}

/* --- life ------------------------------------------------------------------------------------- */

static int listen_at(struct api_server *s, const char *path, struct err *err) {
    if (strlen(path) >= sizeof(s->at.sun_path)) {
        return ERR_SET(err, ERR_INVAL, "API socket %s: name longer than %zu characters", path,
                       sizeof(s->at.sun_path) - 1);
    }
    s->at.sun_family = AF_UNIX;
    memcpy(s->at.sun_path, path, strlen(path));
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&s->at, sizeof(s->at))) {
        return ERR_SET(err, ERR_IO,
                       "Failed to open the API socket at: %s. Check that it is not already used. "
                       "(%s)",
                       path, strerror(errno));
    }
    s->bound = true;
    return listen(s->listen_fd, 128) /* as Firecracker's */
               ? ERR_SET(err, ERR_IO, "API socket %s: %s", path, strerror(errno))
               : 0;
}

static int start(struct api_server *s, struct err *err) {
    struct host *host = linux_host_host(s->lh);
    int rc = http_lib_load(&s->http, err);
    if (rc) {
        return rc;
    }
    s->job_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (s->job_fd < 0 || s->stop_fd < 0 || linux_fd_watch(s->lh, s->job_fd, on_job, s)) {
        return ERR_SET(err, ERR_IO, "API server: %s", strerror(errno));
    }
    s->mhd = s->http.start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_SUPPRESS_DATE_NO_CLOCK, 0, NULL, NULL,
        on_request, s, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, s, MHD_OPTION_UNESCAPE_CALLBACK, no_unescape, s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)API_MAX_CONNECTIONS, MHD_OPTION_END);
    if (!s->mhd) {
        return ERR_SET(err, ERR_NOMEM, "API server: libmicrohttpd does not start");
    }
    s->thread = host->ops->thread_start(host, "fc_api", serve, s);
    return s->thread ? 0 : ERR_SET(err, ERR_NOMEM, "API server: no thread");
}

int api_server_create(struct api *a, const char *path, u64 max_payload, struct api_server **out,
                      struct err *err) {
    struct api_server *s = calloc(1, sizeof(*s));
    *out = NULL;
    if (!s) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    s->api = a;
    s->lh = a->lh;
    s->max_payload = max_payload;
    s->listen_fd = s->job_fd = s->stop_fd = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->done, NULL);
    int rc = listen_at(s, path, err);
    rc = rc ? rc : start(s, err);
    if (rc) {
        api_server_destroy(s);
        return rc;
    }
    *out = s;
    return 0;
}

static void end_thread(struct api_server *s) {
    struct host *host = linux_host_host(s->lh);
    u64 one = 1;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_signal(&s->done);
    pthread_mutex_unlock(&s->lock);
    (void)!write(s->stop_fd, &one, sizeof(one));
    host->ops->thread_join(host, s->thread);
}

void api_server_destroy(struct api_server *s) {
    if (!s) {
        return;
    }
    if (s->thread) {
        end_thread(s);
    }
    if (s->mhd) {
        s->http.run(s->mhd); /* the last replies */
        s->http.stop_daemon(s->mhd);
    }
    if (s->job_fd >= 0) {
        linux_fd_unwatch(s->lh, s->job_fd);
        close(s->job_fd);
    }
    if (s->stop_fd >= 0) {
        close(s->stop_fd);
    }
    if (s->listen_fd >= 0) {
        close(s->listen_fd);
    }
    if (s->bound) {
        unlink(s->at.sun_path);
    }
    pthread_cond_destroy(&s->done);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
