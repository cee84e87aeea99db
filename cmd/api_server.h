/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP on a Unix socket, in a thread of its own ("fc_api"): requests are handed to the event thread
 * one after another and answered when it is done with them.
 */
#ifndef CMD_API_SERVER_H
#define CMD_API_SERVER_H

#include "cmd/api.h"

enum { API_MAX_CONNECTIONS = 10, API_MAX_PAYLOAD = 51200 };

struct api_server;

/* Listens at path, which must not exist. max_payload: bytes of a body. 0 or a negative code with
 * err filled. Event thread. */
int api_server_create(struct api *a, const char *path, u64 max_payload, struct api_server **out,
                      struct err *err);
/* Ends the thread; requests that wait are answered that the machine has ended. The event loop does
 * not run any more. Removes the socket. NULL is fine. */
void api_server_destroy(struct api_server *s);

#endif
