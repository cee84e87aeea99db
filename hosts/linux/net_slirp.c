/* SPDX-License-Identifier: Apache-2.0 */
/* Loading libslirp on demand; see net_user.h. */
#include <dlfcn.h>
#include <string.h>

#include "hosts/linux/linux.h"
#include "hosts/linux/net_user.h"

int slirp_lib_load(struct slirp_lib *lib, struct err *err) {
    static const char *const names[] = {"slirp_new",          "slirp_cleanup",
                                        "slirp_pollfds_fill", "slirp_pollfds_poll",
                                        "slirp_input",        "slirp_add_hostxfwd"};
    void *fn[ARRAY_LEN(names)];
    _Static_assert(sizeof(fn) == sizeof(*lib), "one pointer each");
    void *handle = dlopen("libslirp.so.0", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) {
        return ERR_SET(err, ERR_NOTFOUND,
                       "--net user: libslirp is not there; install it (Debian: libslirp0)");
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        fn[i] = dlsym(handle, names[i]);
        if (!fn[i]) {
            return ERR_SET(err, ERR_UNSUPPORTED, "--net user: this libslirp has no %s", names[i]);
        }
    }
    memcpy(lib, fn, sizeof(fn));
    return 0;
}

void linux_preload(void) {
    (void)dlopen("libslirp.so.0", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}
