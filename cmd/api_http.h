/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libmicrohttpd's functions, found when an API is served: it brings a TLS library with ten thousand
 * relocations, which a machine without API neither waits for nor carries.
 */
#ifndef CMD_API_HTTP_H
#define CMD_API_HTTP_H

#include <microhttpd.h>

#include "core/base/err.h"

struct http_lib {
    __typeof__(&MHD_create_response_from_buffer) create_response_from_buffer;
    __typeof__(&MHD_add_response_header) add_response_header;
    __typeof__(&MHD_queue_response) queue_response;
    __typeof__(&MHD_destroy_response) destroy_response;
    __typeof__(&MHD_lookup_connection_value) lookup_connection_value;
    __typeof__(&MHD_add_connection) add_connection;
    __typeof__(&MHD_get_daemon_info) get_daemon_info;
    __typeof__(&MHD_get_timeout) get_timeout;
    __typeof__(&MHD_run) run;
    __typeof__(&MHD_start_daemon) start_daemon;
    __typeof__(&MHD_stop_daemon) stop_daemon;
};

/* The library stays loaded. */
int http_lib_load(struct http_lib *lib, struct err *err);

/* Loads it, for a process that will not find it later (a jail). */
void http_lib_preload(void);

#endif
