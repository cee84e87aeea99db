/* SPDX-License-Identifier: Apache-2.0 */
/* Loading libmicrohttpd on demand; see api_http.h. */
#include "cmd/api_http.h"

#include <dlfcn.h>
#include <string.h>

#include "core/base/types.h"

static const char library[] = "libmicrohttpd.so.12";
enum { LIBRARY_FLAGS = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE };

int http_lib_load(struct http_lib *lib, struct err *err) {
    static const char *const names[] = {
        "MHD_create_response_from_buffer",
        "MHD_add_response_header",
        "MHD_queue_response",
        "MHD_destroy_response",
        "MHD_lookup_connection_value",
        "MHD_add_connection",
        "MHD_get_daemon_info",
        "MHD_get_timeout",
        "MHD_run",
        "MHD_start_daemon",
        "MHD_stop_daemon",
    };
    void *fn[ARRAY_LEN(names)];
    _Static_assert(sizeof(fn) == sizeof(*lib), "one pointer each");
    void *handle = dlopen(library, LIBRARY_FLAGS);
    if (!handle) {
        return ERR_SET(err, ERR_NOTFOUND,
                       "API server: %s is not there; install it (Debian: libmicrohttpd12)",
                       library);
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        fn[i] = dlsym(handle, names[i]);
        if (!fn[i]) {
            return ERR_SET(err, ERR_UNSUPPORTED, "API server: this libmicrohttpd has no %s",
                           names[i]);
        }
    }
    memcpy(lib, fn, sizeof(fn));
    return 0;
}

void http_lib_preload(void) {
    (void)dlopen(library, LIBRARY_FLAGS);
}
