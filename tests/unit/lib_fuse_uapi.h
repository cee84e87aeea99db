/* SPDX-License-Identifier: Apache-2.0 */
/* FUSE as Linux's own header has it, for comparison with core/virtio/fuse_wire.h. */
#ifndef TESTS_UNIT_LIB_FUSE_UAPI_H
#define TESTS_UNIT_LIB_FUSE_UAPI_H

#include <stddef.h>

/* X(ours, Linux's) for structures that have the same layout under (nearly) the same name. */
#define FUSE_STRUCTS(X)                                                                            \
    X(in_header, in_header)                                                                        \
    X(out_header, out_header)                                                                      \
    X(attr, attr)                                                                                  \
    X(entry_out, entry_out)                                                                        \
    X(attr_out, attr_out)                                                                          \
    X(getattr_in, getattr_in)                                                                      \
    X(setattr_in, setattr_in)                                                                      \
    X(mknod_in, mknod_in)                                                                          \
    X(mkdir_in, mkdir_in)                                                                          \
    X(rename_in, rename_in)                                                                        \
    X(rename2_in, rename2_in)                                                                      \
    X(link_in, link_in)                                                                            \
    X(open_in, open_in)                                                                            \
    X(create_in, create_in)                                                                        \
    X(open_out, open_out)                                                                          \
    X(release_in, release_in)                                                                      \
    X(rw_in, read_in)                                                                              \
    X(rw_in, write_in)                                                                             \
    X(write_out, write_out)                                                                        \
    X(statfs_out, statfs_out)                                                                      \
    X(fsync_in, fsync_in)                                                                          \
    X(getxattr_in, getxattr_in)                                                                    \
    X(getxattr_out, getxattr_out)                                                                  \
    X(init_out, init_out)                                                                          \
    X(forget_in, forget_in)                                                                        \
    X(batch_forget_in, batch_forget_in)                                                            \
    X(fallocate_in, fallocate_in)                                                                  \
    X(lseek_in, lseek_in)                                                                          \
    X(copy_in, copy_file_range_in)                                                                 \
    X(dirent, dirent)

/* X(operation) */
#define FUSE_OPERATIONS(X)                                                                         \
    X(LOOKUP)                                                                                      \
    X(FORGET)                                                                                      \
    X(GETATTR)                                                                                     \
    X(SETATTR)                                                                                     \
    X(READLINK)                                                                                    \
    X(SYMLINK)                                                                                     \
    X(MKNOD)                                                                                       \
    X(MKDIR)                                                                                       \
    X(UNLINK)                                                                                      \
    X(RMDIR)                                                                                       \
    X(RENAME)                                                                                      \
    X(LINK)                                                                                        \
    X(OPEN)                                                                                        \
    X(READ)                                                                                        \
    X(WRITE)                                                                                       \
    X(STATFS)                                                                                      \
    X(RELEASE)                                                                                     \
    X(FSYNC)                                                                                       \
    X(SETXATTR)                                                                                    \
    X(GETXATTR)                                                                                    \
    X(LISTXATTR)                                                                                   \
    X(REMOVEXATTR)                                                                                 \
    X(INIT)                                                                                        \
    X(OPENDIR)                                                                                     \
    X(READDIR)                                                                                     \
    X(RELEASEDIR)                                                                                  \
    X(FSYNCDIR)                                                                                    \
    X(CREATE)                                                                                      \
    X(INTERRUPT)                                                                                   \
    X(DESTROY)                                                                                     \
    X(BATCH_FORGET)                                                                                \
    X(FALLOCATE)                                                                                   \
    X(READDIRPLUS)                                                                                 \
    X(RENAME2)                                                                                     \
    X(LSEEK)                                                                                       \
    X(COPY_FILE_RANGE)                                                                             \
    X(SYNCFS)

/* X(flag) of INIT */
#define FUSE_INIT_FLAGS(X)                                                                         \
    X(ASYNC_READ)                                                                                  \
    X(ATOMIC_O_TRUNC)                                                                              \
    X(BIG_WRITES)                                                                                  \
    X(AUTO_INVAL_DATA)                                                                             \
    X(DO_READDIRPLUS)                                                                              \
    X(READDIRPLUS_AUTO)                                                                            \
    X(ASYNC_DIO)                                                                                   \
    X(PARALLEL_DIROPS)                                                                             \
    X(MAX_PAGES)                                                                                   \
    X(HANDLE_KILLPRIV_V2)

struct fuse_fact {
    const char *name;
    unsigned long long value;
};
/* In the order of the lists above; ends with a NULL name. */
extern const struct fuse_fact fuse_uapi[];

#endif
