/* SPDX-License-Identifier: Apache-2.0 */
/* What Linux's header says about FUSE, where ours is not included; see lib_fuse_uapi.h. */
#include <linux/fuse.h>

#include "tests/unit/lib_fuse_uapi.h"

#define SIZE(ours, theirs) {"size of " #theirs, sizeof(struct fuse_##theirs)},
#define OPERATION(op)      {"number of " #op, FUSE_##op},
#define FLAG(flag)         {"flag " #flag, FUSE_##flag},

/* clang-format off */
const struct fuse_fact fuse_uapi[] = {
    FUSE_STRUCTS(SIZE)
    FUSE_OPERATIONS(OPERATION)
    FUSE_INIT_FLAGS(FLAG)
    {0},
};
/* clang-format on */
