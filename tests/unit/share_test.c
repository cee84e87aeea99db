/* SPDX-License-Identifier: Apache-2.0 */
/* The service behind shared folders, on real folders: what works, and what must not be reached. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "hosts/linux/share_int.h"

struct rig {
    char base[64]; /* a folder of its own ... */
    char dir[96];  /* ... with the shared one in it */
    struct linux_host *lh;
    struct share_backend *be;
    struct share *s;
    bool swapped; /* enough of it */
};

static void path_in(char *out, size_t size, const struct rig *r, const char *name) {
    snprintf(out, size, "%s/%s", r->base, name);
}

static void put_file(const struct rig *r, const char *name, const char *text) {
    char path[512];
    path_in(path, sizeof(path), r, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void put_dir(const struct rig *r, const char *name) {
    char path[512];
    path_in(path, sizeof(path), r, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

static void move(const struct rig *r, const char *from, const char *to) {
    char a[512], b[512];
    path_in(a, sizeof(a), r, from);
    path_in(b, sizeof(b), r, to);
    assert_int_equal(rename(a, b), 0);
}

static bool exists(const struct rig *r, const char *name) {
    char path[512];
    struct stat st;
    path_in(path, sizeof(path), r, name);
    return !lstat(path, &st);
}

static struct rig *setup_with(bool readonly) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    snprintf(r->base, sizeof(r->base), "/tmp/share_test.XXXXXX");
    assert_non_null(mkdtemp(r->base));
    snprintf(r->dir, sizeof(r->dir), "%s/dir", r->base);
    put_dir(r, "dir");
    put_dir(r, "dir/sub");
    put_file(r, "dir/file", "content");
    put_file(r, "dir/sub/inner", "inside");
    put_file(r, "canary", "must not be read");
    assert_int_equal(linux_host_create(&r->lh, NULL), 0);
    assert_int_equal(share_open(r->lh, r->dir, readonly, &r->be, NULL), 0);
    r->s = share_of(r->be);
    return r;
}

static struct rig *setup(void) {
    return setup_with(false);
}

static void teardown(struct rig *r) {
    char command[128];
    r->be->ops->close(r->be);
    linux_host_destroy(r->lh);
    snprintf(command, sizeof(command), "rm -rf %s", r->base);
    assert_int_equal(system(command), 0);
    free(r);
}

static int call(struct rig *r, struct share_req *q) {
    share_run(r->s, q);
    return q->status;
}

/* Most calls are made as the user that runs the test. */
static struct share_req request(enum share_op op, u64 node, const char *name) {
    return (struct share_req){
        .op = op, .node = node, .name = name, .uid = geteuid(), .gid = getegid()};
}

static int lookup(struct rig *r, u64 dir, const char *name, u64 *node) {
    struct share_req q = request(SHARE_LOOKUP, dir, name);
    int rc = call(r, &q);
    *node = q.entry.node;
    return rc;
}

static u64 known(struct rig *r, u64 dir, const char *name) {
    u64 node;
    assert_int_equal(lookup(r, dir, name, &node), 0);
    return node;
}

static void forget(struct rig *r, u64 node, u64 count) {
    const struct share_forget f = {node, count};
    struct share_req q = {.op = SHARE_FORGET, .forget = &f, .forget_count = 1};
    assert_int_equal(call(r, &q), 0);
}

static int open_node(struct rig *r, u64 node, int flags, u64 *handle) {
    struct share_req q = request(SHARE_OPEN, node, NULL);
    q.flags = (u32)flags;
    int rc = call(r, &q);
    *handle = q.new_handle;
    return rc;
}

static int create(struct rig *r, u64 dir, const char *name, u32 mode, u64 *node, u64 *handle) {
    struct share_req q = request(SHARE_CREATE, dir, name);
    q.flags = O_RDWR | O_CREAT;
    q.mode = S_IFREG | mode;
    int rc = call(r, &q);
    *node = q.entry.node;
    *handle = q.new_handle;
    return rc;
}

static int read_handle(struct rig *r, u64 handle, char *text, size_t size) {
    const struct iov iov = {text, size - 1};
    struct share_req q = {.op = SHARE_READ, .handle = handle, .iov = &iov, .iov_count = 1};
    int rc = call(r, &q);
    text[rc ? 0 : q.result] = 0;
    return rc;
}

static int write_handle(struct rig *r, u64 handle, u64 at, const char *text, bool append) {
    char copy[64];
    snprintf(copy, sizeof(copy), "%s", text);
    const struct iov iov = {copy, strlen(copy)};
    struct share_req q = {.op = SHARE_WRITE,
                          .handle = handle,
                          .offset = at,
                          .iov = &iov,
                          .iov_count = 1,
                          .append = append};
    int rc = call(r, &q);
    assert_true(rc || q.result == strlen(copy));
    return rc;
}

static int read_node(struct rig *r, u64 node, char *text, size_t size) {
    u64 handle;
    int rc = open_node(r, node, O_RDONLY, &handle);
    text[0] = 0;
    if (!rc) {
        rc = read_handle(r, handle, text, size);
        struct share_req q = {.op = SHARE_RELEASE, .handle = handle};
        assert_int_equal(call(r, &q), 0);
    }
    return rc;
}

static int name_call(struct rig *r, enum share_op op, u64 dir, const char *name) {
    struct share_req q = request(op, dir, name);
    q.mode = 0755;
    q.name2 = "/etc/passwd";
    return call(r, &q);
}

/* --- the boundary -------------------------------------------------------------------------------
 */

static void bad_names(void **state) {
    (void)state;
    struct rig *r = setup();
    char longest[SHARE_NAME_MAX + 2];
    static const char *const bad[] = {"",    ".",         "..",   "/",
                                      "a/b", "../canary", "sub/", "/etc/passwd"};
    static const enum share_op ops[] = {SHARE_LOOKUP, SHARE_MKDIR,   SHARE_MKNOD,  SHARE_UNLINK,
                                        SHARE_RMDIR,  SHARE_SYMLINK, SHARE_CREATE, SHARE_LINK};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        for (size_t k = 0; k < ARRAY_LEN(ops); k++) {
            assert_int_equal(name_call(r, ops[k], SHARE_ROOT, bad[i]), -EINVAL);
        }
        struct share_req q = request(SHARE_RENAME, SHARE_ROOT, "file");
        q.node2 = SHARE_ROOT;
        q.name2 = bad[i];
        assert_int_equal(call(r, &q), -EINVAL);
    }
    memset(longest, 'n', sizeof(longest));
    longest[SHARE_NAME_MAX + 1] = 0;
    assert_int_equal(name_call(r, SHARE_MKDIR, SHARE_ROOT, longest), -ENAMETOOLONG);
    longest[SHARE_NAME_MAX] = 0;
    assert_int_equal(name_call(r, SHARE_MKDIR, SHARE_ROOT, longest), 0);
    assert_true(exists(r, "canary"));
    teardown(r);
}

static void links_lead_nowhere(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 link, handle, node;
    char text[64] = "";
    char path[512];
    path_in(path, sizeof(path), r, "dir/link");
    assert_int_equal(symlink("..", path), 0);
    link = known(r, SHARE_ROOT, "link");
    assert_int_equal(lookup(r, link, "canary", &node), -ENOTDIR);
    assert_int_equal(open_node(r, link, O_RDONLY, &handle), -ELOOP);
    struct share_req q = request(SHARE_OPENDIR, link, NULL);
    assert_int_equal(call(r, &q), -ENOTDIR);
    assert_int_equal(name_call(r, SHARE_MKDIR, link, "new"), -ENOTDIR);
    q = request(SHARE_READLINK, link, NULL);
    q.buf = (u8 *)text;
    q.buf_size = sizeof(text);
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(q.result, 2);
    assert_string_equal(text, "..");
    /* a second name of the link itself, not of what it names */
    q = request(SHARE_LINK, SHARE_ROOT, "link2");
    q.node2 = link;
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(q.entry.node, link);
    assert_int_equal(q.entry.attr.mode & S_IFMT, S_IFLNK);
    /* attributes of a link are not those of its target */
    q = request(SHARE_SETATTR, link, NULL);
    q.valid = SHARE_SET_MODE;
    q.set.mode = 0777;
    assert_int_equal(call(r, &q), -EOPNOTSUPP);
    teardown(r);
}

static void special_files_are_not_opened(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 handle;
    char path[512];
    path_in(path, sizeof(path), r, "dir/fifo");
    assert_int_equal(mkfifo(path, 0666), 0);
    u64 fifo = known(r, SHARE_ROOT, "fifo");
    assert_int_equal(open_node(r, fifo, O_RDONLY, &handle), -ENXIO);
    assert_int_equal(open_node(r, fifo, O_WRONLY, &handle), -ENXIO);
    struct share_req q = request(SHARE_CREATE, SHARE_ROOT, "fifo");
    q.flags = O_WRONLY | O_CREAT;
    assert_int_equal(call(r, &q), -ENXIO);
    q = request(SHARE_SETATTR, fifo, NULL);
    q.valid = SHARE_SET_SIZE;
    assert_int_equal(call(r, &q), -ENXIO);
    static const u32 kinds[] = {S_IFCHR, S_IFBLK, S_IFDIR, S_IFLNK};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        q = request(SHARE_MKNOD, SHARE_ROOT, "device");
        q.mode = kinds[i] | 0666;
        assert_int_equal(call(r, &q), -EPERM);
        assert_false(exists(r, "dir/device"));
    }
    q = request(SHARE_MKNOD, SHARE_ROOT, "fifo2");
    q.mode = S_IFIFO | 0600;
    assert_int_equal(call(r, &q), 0);
    teardown(r);
}

static void moved_out(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 node;
    char text[64];
    u64 sub = known(r, SHARE_ROOT, "sub"), inner = known(r, sub, "inner");
    struct share_req q = request(SHARE_OPENDIR, sub, NULL);
    assert_int_equal(call(r, &q), 0);
    u64 list = q.new_handle;
    assert_int_equal(read_node(r, inner, text, sizeof(text)), 0);
    move(r, "dir/sub", "outside");
    put_file(r, "outside/secret", "must not be read");
    assert_int_equal(lookup(r, sub, "secret", &node), -ESTALE);
    assert_int_equal(lookup(r, sub, "inner", &node), -ESTALE);
    assert_int_equal(read_node(r, inner, text, sizeof(text)), -ESTALE);
    static const enum share_op ops[] = {SHARE_MKDIR,   SHARE_UNLINK, SHARE_RMDIR,
                                        SHARE_SYMLINK, SHARE_MKNOD,  SHARE_CREATE};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        assert_int_equal(name_call(r, ops[i], sub, "inner"), -ESTALE);
    }
    q = request(SHARE_OPENDIR, sub, NULL);
    assert_int_equal(call(r, &q), -ESTALE);
    q = request(SHARE_READDIR, sub, NULL);
    q.handle = list;
    q.length = 4096;
    assert_int_equal(call(r, &q), -ESTALE);
    q = request(SHARE_RENAME, SHARE_ROOT, "file");
    q.node2 = sub;
    q.name2 = "file";
    assert_int_equal(call(r, &q), -ESTALE);
    assert_true(exists(r, "outside/inner") && exists(r, "dir/file"));
    /* and back in */
    move(r, "outside", "dir/sub");
    assert_int_equal(read_node(r, inner, text, sizeof(text)), 0);
    assert_string_equal(text, "inside");
    teardown(r);
}

static void the_folder_moves_and_goes(void **state) {
    (void)state;
    struct rig *r = setup();
    char text[64];
    u64 file = known(r, SHARE_ROOT, "file"), node, handle;
    move(r, "dir", "elsewhere");
    put_dir(r, "dir");
    put_file(r, "dir/file", "another");
    assert_int_equal(read_node(r, file, text, sizeof(text)), 0);
    assert_string_equal(text, "content");
    assert_int_equal(read_node(r, known(r, SHARE_ROOT, "file"), text, sizeof(text)), 0);
    assert_string_equal(text, "content");
    assert_int_equal(open_node(r, file, O_RDONLY, &handle), 0);
    char command[160];
    snprintf(command, sizeof(command), "rm -rf %s/elsewhere", r->base);
    assert_int_equal(system(command), 0);
    assert_int_equal(lookup(r, SHARE_ROOT, "file", &node), -ENOENT);
    assert_int_equal(name_call(r, SHARE_MKDIR, SHARE_ROOT, "new"), -ENOENT);
    assert_int_equal(read_handle(r, handle, text, sizeof(text)), 0); /* still open */
    assert_string_equal(text, "content");
    struct share_req q = request(SHARE_GETATTR, SHARE_ROOT, NULL);
    assert_int_equal(call(r, &q), 0);
    teardown(r);
}

static void readonly(void **state) {
    (void)state;
    struct rig *r = setup_with(true);
    u64 file = known(r, SHARE_ROOT, "file"), handle;
    char text[64];
    static const enum share_op ops[] = {SHARE_MKDIR, SHARE_MKNOD,   SHARE_UNLINK,
                                        SHARE_RMDIR, SHARE_SYMLINK, SHARE_CREATE};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        assert_int_equal(name_call(r, ops[i], SHARE_ROOT, "new"), -EROFS);
    }
    assert_int_equal(open_node(r, file, O_WRONLY, &handle), -EROFS);
    assert_int_equal(open_node(r, file, O_RDWR, &handle), -EROFS);
    assert_int_equal(open_node(r, file, O_RDONLY | O_TRUNC, &handle), -EROFS);
    assert_int_equal(open_node(r, file, O_RDONLY, &handle), 0);
    static const enum share_op others[] = {SHARE_SETATTR, SHARE_LINK,     SHARE_WRITE,
                                           SHARE_COPY,    SHARE_SETXATTR, SHARE_REMOVEXATTR,
                                           SHARE_RENAME,  SHARE_FALLOCATE};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        struct share_req q = request(others[i], file, "user.x");
        q.node2 = SHARE_ROOT;
        q.name2 = "y";
        q.handle = q.handle2 = handle;
        q.valid = SHARE_SET_SIZE;
        assert_int_equal(call(r, &q), -EROFS);
    }
    assert_int_equal(read_handle(r, handle, text, sizeof(text)), 0);
    assert_string_equal(text, "content");
    teardown(r);
}

static void no_privileged_programs(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 node, handle;
    char path[512];
    struct stat st;
    path_in(path, sizeof(path), r, "dir/tool");
    assert_int_equal(create(r, SHARE_ROOT, "tool", 06755, &node, &handle), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    struct share_req q = request(SHARE_SETATTR, node, NULL);
    q.valid = SHARE_SET_MODE;
    q.set.mode = S_IFREG | 06711;
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(q.entry.attr.mode & 07777, 0711);
    /* one that the host made does not stay so when it may be changed */
    assert_int_equal(chmod(path, 04755), 0);
    assert_int_equal(open_node(r, node, O_WRONLY, &handle), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    teardown(r);
}

/* --- what works ----------------------------------------------------------------------------------
 */

static void files(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 node, handle, other;
    char text[64];
    assert_int_equal(create(r, SHARE_ROOT, "new", 0640, &node, &handle), 0);
    assert_int_equal(write_handle(r, handle, 0, "hello", false), 0);
    assert_int_equal(write_handle(r, handle, 0, " world", true), 0); /* at the end */
    assert_int_equal(write_handle(r, handle, 0, "J", false), 0);     /* where it says */
    assert_int_equal(read_handle(r, handle, text, sizeof(text)), 0);
    assert_string_equal(text, "Jello world");
    struct share_req q = request(SHARE_UNLINK, SHARE_ROOT, "new");
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(lookup(r, SHARE_ROOT, "new", &other), -ENOENT);
    assert_int_equal(read_handle(r, handle, text, sizeof(text)), 0);
    assert_string_equal(text, "Jello world");
    q = request(SHARE_GETATTR, node, NULL);
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(q.entry.attr.nlink, 0);
    assert_int_equal(q.entry.attr.size, 11);
    q = (struct share_req){.op = SHARE_RELEASE, .handle = handle};
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(call(r, &q), -EBADF);
    forget(r, node, 1);
    q = request(SHARE_GETATTR, node, NULL);
    assert_int_equal(call(r, &q), -ESTALE);
    assert_int_equal(r->s->handles, 0);
    teardown(r);
}

static void sizes_and_times(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 node = known(r, SHARE_ROOT, "file"), handle;
    struct share_req q = request(SHARE_SETATTR, node, NULL);
    q.valid = SHARE_SET_SIZE | SHARE_SET_MTIME | SHARE_SET_MODE;
    q.set = (struct share_attr){.size = 5ull << 30, .mtime = {1234567890, 42}, .mode = 0600};
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(q.entry.attr.size, 5ull << 30);
    assert_int_equal(q.entry.attr.mtime.sec, 1234567890);
    assert_int_equal(q.entry.attr.mtime.nsec, 42);
    assert_int_equal(q.entry.attr.mode & 07777, 0600);
    assert_true(q.entry.attr.blocks < 1000); /* a hole */
    assert_int_equal(open_node(r, node, O_RDWR, &handle), 0);
    assert_int_equal(write_handle(r, handle, 6ull << 30, "far", false), 0);
    q = (struct share_req){
        .op = SHARE_LSEEK, .handle = handle, .offset = 1 << 20, .flags = SEEK_DATA};
    assert_int_equal(call(r, &q), 0);
    assert_true(q.result > 1 << 20 && q.result <= 6ull << 30);
    q.flags = SEEK_END;
    assert_int_equal(call(r, &q), -EINVAL);
    q = request(SHARE_SETATTR, node, NULL);
    q.valid = SHARE_SET_SIZE;
    q.set.size = UINT64_MAX;
    assert_int_equal(call(r, &q), -EFBIG);
    q = request(SHARE_STATFS, SHARE_ROOT, NULL);
    assert_int_equal(call(r, &q), 0);
    assert_true(q.statfs.blocks && q.statfs.namelen >= 255);
    teardown(r);
}

static void names(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 sub = known(r, SHARE_ROOT, "sub"), file = known(r, SHARE_ROOT, "file"), node;
    struct share_req q = request(SHARE_RENAME, SHARE_ROOT, "file");
    q.node2 = sub;
    q.name2 = "moved";
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(known(r, sub, "moved"), file);
    q.node = sub;
    q.name = "moved";
    q.name2 = "inner";
    q.flags = RENAME_NOREPLACE;
    assert_int_equal(call(r, &q), -EEXIST);
    q.flags = RENAME_EXCHANGE;
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(known(r, sub, "inner"), file);
    q.flags = 4; /* whiteout */
    assert_int_equal(call(r, &q), -EINVAL);
    q = request(SHARE_LINK, SHARE_ROOT, "second");
    q.node2 = file;
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(q.entry.attr.nlink, 2);
    assert_int_equal(name_call(r, SHARE_RMDIR, SHARE_ROOT, "sub"), -ENOTEMPTY);
    assert_int_equal(name_call(r, SHARE_UNLINK, sub, "inner"), 0);
    assert_int_equal(name_call(r, SHARE_UNLINK, sub, "moved"), 0);
    assert_int_equal(name_call(r, SHARE_RMDIR, SHARE_ROOT, "sub"), 0);
    assert_int_equal(lookup(r, sub, "inner", &node), -ENOENT);
    teardown(r);
}

static void attributes(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 node = known(r, SHARE_ROOT, "file");
    u8 value[8] = "value", back[64];
    struct share_req q = request(SHARE_SETXATTR, node, "user.test");
    q.buf = value;
    q.buf_size = 5;
    int rc = call(r, &q);
    if (rc == -EOPNOTSUPP) {
        print_message("SKIPPED extended attributes: /tmp has none\n");
    } else {
        assert_int_equal(rc, 0);
        q = request(SHARE_GETXATTR, node, "user.test");
        q.buf = back;
        q.length = q.buf_size = sizeof(back);
        assert_int_equal(call(r, &q), 0);
        assert_int_equal(q.result, 5);
        assert_memory_equal(back, "value", 5);
        q = request(SHARE_LISTXATTR, node, NULL);
        q.buf = back;
        q.length = q.buf_size = sizeof(back);
        assert_int_equal(call(r, &q), 0);
        assert_int_equal(q.result, 10);
        q.length = q.buf_size = 3;
        assert_int_equal(call(r, &q), -ERANGE);
    }
    static const char *const hidden[] = {"security.capability", "trusted.x", "user.",
                                         "system.posix_acl_access"};
    for (size_t i = 0; i < ARRAY_LEN(hidden); i++) {
        for (int k = 0; k < 3; k++) {
            static const enum share_op ops[] = {SHARE_SETXATTR, SHARE_GETXATTR, SHARE_REMOVEXATTR};
            q = request(ops[k], node, hidden[i]);
            q.buf = back;
            assert_int_equal(call(r, &q), -EOPNOTSUPP);
        }
    }
    teardown(r);
}

/* --- directories
 * ----------------------------------------------------------------------------------- */

struct listing {
    struct share_req req; /* first */
    u32 seen, room, given;
    u64 last, nodes[64];
    bool inner;
};

static bool take(struct share_req *req, const struct share_dirent *d, const struct share_entry *e) {
    struct listing *l = (struct listing *)(void *)req;
    if (!l->room) {
        return false;
    }
    l->room--;
    l->seen++;
    l->last = d->offset;
    l->inner |= d->name_len == 5 && !memcmp(d->name, "inner", 5);
    if (e) {
        l->nodes[l->given++] = e->node;
    }
    return true;
}

static void listings(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 sub = known(r, SHARE_ROOT, "sub");
    char name[32];
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "dir/sub/n%d", i);
        put_file(r, name, "");
    }
    struct share_req q = request(SHARE_OPENDIR, sub, NULL);
    assert_int_equal(call(r, &q), 0);
    struct listing l = {.req = request(SHARE_READDIR, sub, NULL)};
    l.req.handle = q.new_handle;
    l.req.emit = take;
    l.req.length = 4096;
    do { /* five at a time, by offset */
        l.req.offset = l.last;
        l.room = 5;
        assert_int_equal(call(r, &l.req), 0);
    } while (!l.room);
    assert_int_equal(l.seen, 23);
    assert_true(l.inner);
    l.req.offset = l.last = l.seen = 0;
    l.req.plus = true;
    u32 before = r->s->nodes;
    l.room = 10; /* what did not fit is not given */
    assert_int_equal(call(r, &l.req), 0);
    assert_int_equal(l.seen, 10);
    assert_int_equal(r->s->nodes, before + l.given);
    for (u32 i = 0; i < l.given; i++) {
        forget(r, l.nodes[i], 1);
    }
    assert_int_equal(r->s->nodes, before);
    l.req.node = SHARE_ROOT; /* a handle of another directory */
    assert_int_equal(call(r, &l.req), -EBADF);
    teardown(r);
}

/* --- many files, little room
 * -------------------------------------------------------------------------- */

static void descriptors_are_bounded(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 node[200], sub = known(r, SHARE_ROOT, "sub"), deep[8], handle;
    char name[64], text[64];
    r->s->fds_max = 16;
    deep[0] = sub;
    for (u32 i = 1; i < 8; i++) {
        snprintf(name, sizeof(name), "d%u", i);
        assert_int_equal(name_call(r, SHARE_MKDIR, deep[i - 1], name), 0);
        deep[i] = known(r, deep[i - 1], name);
    }
    for (u32 i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        assert_int_equal(create(r, deep[7], name, 0644, &node[i], &handle), 0);
        assert_int_equal(write_handle(r, handle, 0, name, false), 0);
        struct share_req q = {.op = SHARE_RELEASE, .handle = handle};
        assert_int_equal(call(r, &q), 0);
        assert_true(r->s->fds <= 24);
    }
    for (u32 i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        assert_int_equal(read_node(r, node[i], text, sizeof(text)), 0);
        assert_string_equal(text, name);
    }
    /* the guest renames on the way: they are still found */
    struct share_req q = request(SHARE_RENAME, sub, "d1");
    q.node2 = SHARE_ROOT;
    q.name2 = "D";
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(read_node(r, node[3], text, sizeof(text)), 0);
    assert_string_equal(text, "f3");
    /* the host replaces one: it is not taken for the other */
    assert_int_equal(read_node(r, node[150], text, sizeof(text)), 0);
    put_file(r, "dir/other", "must not be read");
    move(r, "dir/other", "dir/D/d2/d3/d4/d5/d6/d7/f7");
    for (u32 i = 100; i < 150; i++) {
        assert_int_equal(read_node(r, node[i], text, sizeof(text)), 0);
    }
    assert_int_equal(read_node(r, node[7], text, sizeof(text)), -ESTALE);
    /* removed, and still wanted */
    assert_int_equal(name_call(r, SHARE_UNLINK, deep[7], "f9"), 0);
    for (u32 i = 100; i < 150; i++) {
        assert_int_equal(read_node(r, node[i], text, sizeof(text)), 0);
    }
    assert_int_equal(read_node(r, node[9], text, sizeof(text)), 0);
    assert_string_equal(text, "f9");
    teardown(r);
}

static void handles_are_bounded(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 node = known(r, SHARE_ROOT, "file"), handle;
    r->s->handles_max = 10;
    for (u32 i = 0; i < 10; i++) {
        assert_int_equal(open_node(r, node, O_RDONLY, &handle), 0);
    }
    assert_int_equal(open_node(r, node, O_RDONLY, &handle), -ENFILE);
    struct share_req q = {.op = SHARE_RESET};
    assert_int_equal(call(r, &q), 0);
    assert_int_equal(r->s->handles, 0);
    assert_int_equal(r->s->nodes, 1);
    teardown(r);
}

/* --- saving
 * -------------------------------------------------------------------------------------------- */

static u8 *saved(struct rig *r, size_t *len) {
    struct snap_writer w = {0};
    r->be->ops->save(r->be, &w);
    w = (struct snap_writer){.buf = malloc(w.len + 1), .cap = w.len};
    assert_non_null(w.buf);
    r->be->ops->save(r->be, &w);
    assert_false(w.failed);
    *len = w.len;
    return w.buf;
}

static int loaded(struct rig *r, const u8 *data, size_t len) {
    struct snap_reader reader = {.buf = data, .len = len};
    return r->be->ops->load(r->be, &reader);
}

static void save_and_load(void **state) {
    (void)state;
    struct rig *r = setup();
    size_t len, len2;
    char text[64];
    u64 sub = known(r, SHARE_ROOT, "sub"), inner = known(r, sub, "inner"), handle, gone, dead, node;
    u64 file = known(r, SHARE_ROOT, "file");
    assert_int_equal(open_node(r, inner, O_RDWR, &handle), 0);
    assert_int_equal(create(r, SHARE_ROOT, "gone", 0644, &gone, &dead), 0);
    assert_int_equal(name_call(r, SHARE_UNLINK, SHARE_ROOT, "gone"), 0);
    forget(r, sub, 1); /* only inner's parent now */
    u8 *a = saved(r, &len);
    r->be->ops->close(r->be);
    assert_int_equal(share_open(r->lh, r->dir, false, &r->be, NULL), 0);
    r->s = share_of(r->be);
    put_file(r, "other", "must not be read");
    move(r, "other", "dir/file");
    assert_int_equal(loaded(r, a, len), 0);
    u8 *b = saved(r, &len2);
    assert_int_equal(len, len2);
    assert_int_equal(read_handle(r, handle, text, sizeof(text)), 0);
    assert_string_equal(text, "inside");
    assert_int_equal(write_handle(r, handle, 0, "I", false), 0);
    assert_int_equal(read_node(r, inner, text, sizeof(text)), 0);
    assert_string_equal(text, "Inside");
    assert_int_equal(read_node(r, file, text, sizeof(text)), -ESTALE);
    assert_int_equal(read_handle(r, dead, text, sizeof(text)), -ESTALE);
    assert_int_equal(read_node(r, known(r, SHARE_ROOT, "file"), text, sizeof(text)), 0);
    assert_int_equal(create(r, SHARE_ROOT, "later", 0644, &node, &dead), 0);
    assert_true(node > gone && dead > handle);
    free(a);
    free(b);
    teardown(r);
}

/* Whatever the state says, nothing outside is reached and nothing breaks. */
static void hostile_state(void **state) {
    (void)state;
    struct rig *r = setup();
    size_t len;
    u64 sub = known(r, SHARE_ROOT, "sub"), inner = known(r, sub, "inner"), handle;
    known(r, SHARE_ROOT, "file");
    assert_int_equal(open_node(r, inner, O_RDWR, &handle), 0);
    u8 *a = saved(r, &len);
    for (size_t at = 0; at < len; at++) {
        for (u32 k = 0; k < 4; k++) {
            static const u8 values[] = {0, 1, 2, 255};
            u8 keep = a[at];
            char text[64];
            a[at] = values[k];
            if (!loaded(r, a, len)) {
                for (u64 id = 1; id < 8; id++) {
                    read_node(r, id, text, sizeof(text));
                    assert_string_not_equal(text, "must not be read");
                    read_handle(r, id, text, sizeof(text));
                }
            } else {
                assert_int_equal(r->s->handles, 0);
                assert_int_equal(r->s->nodes, 1);
            }
            a[at] = keep;
        }
    }
    for (size_t cut = 0; cut < len; cut++) {
        assert_int_not_equal(loaded(r, a, cut), 0);
    }
    assert_int_equal(loaded(r, a, len), 0);
    free(a);
    teardown(r);
}

static void messages(void **state) {
    (void)state;
    struct share_backend *be = NULL;
    struct linux_host *lh;
    struct err err = {0};
    assert_int_equal(linux_host_create(&lh, NULL), 0);
    assert_int_not_equal(share_open(lh, "/nonexistent/dir", false, &be, &err), 0);
    assert_non_null(strstr(err.text, "--share /nonexistent/dir: No such file or directory"));
    err = (struct err){0};
    assert_int_not_equal(share_open(lh, "/etc/passwd", false, &be, &err), 0);
    assert_non_null(strstr(err.text, "Not a directory"));
    err = (struct err){0};
    assert_int_not_equal(share_open(lh, "/proc", true, &be, &err), 0);
    assert_null(be);
    linux_host_destroy(lh);
}

/* Requests come back on their own threads. */
static void answered(struct share_req *req) {
    __atomic_fetch_add((u32 *)req->set.size, 1, __ATOMIC_SEQ_CST);
}

static void in_parallel(void **state) {
    (void)state;
    struct rig *r = setup();
    struct share_req q[64];
    u32 count = 0;
    u64 sub = known(r, SHARE_ROOT, "sub");
    for (u32 round = 0; round < 50; round++) {
        for (u32 i = 0; i < 64; i++) {
            static const enum share_op ops[] = {SHARE_LOOKUP, SHARE_GETATTR, SHARE_CREATE,
                                                SHARE_UNLINK, SHARE_STATFS,  SHARE_RENAME};
            q[i] = request(ops[i % ARRAY_LEN(ops)], i & 1 ? sub : SHARE_ROOT, i & 2 ? "a" : "b");
            q[i].name2 = i & 4 ? "a" : "b";
            q[i].node2 = i & 8 ? sub : SHARE_ROOT;
            q[i].flags = ops[i % ARRAY_LEN(ops)] == SHARE_RENAME ? 0 : O_RDWR;
            q[i].mode = 0644;
            q[i].set.size = (u64)(uintptr_t)&count;
            q[i].done = answered;
            r->be->ops->submit(r->be, &q[i]);
        }
        r->be->ops->drain(r->be);
        assert_int_equal(count, (round + 1) * 64);
        struct share_req reset = {.op = SHARE_RESET};
        assert_int_equal(call(r, &reset), 0);
        sub = known(r, SHARE_ROOT, "sub");
    }
    teardown(r);
}

/* Another process swaps a folder for a link to the outside, and carries it out of the shared folder
 * and back, while requests come that no guest's cache holds back. */
static void *swapper(void *arg) {
    struct rig *r = arg;
    for (u32 n = 0; !__atomic_load_n(&r->swapped, __ATOMIC_SEQ_CST); n++) {
        const char *away = n & 1 ? "away" : "dir/away";
        move(r, "dir/sub", away);
        move(r, "dir/evil", "dir/sub");
        move(r, "dir/sub", "dir/evil");
        move(r, away, "dir/sub");
    }
    return NULL;
}

static void swapped_for_links(void **state) {
    (void)state;
    struct rig *r = setup();
    char path[512];
    pthread_t thread;
    u32 found = 0;
    put_dir(r, "outside");
    put_file(r, "outside/inner", "must not be read");
    path_in(path, sizeof(path), r, "dir/evil");
    assert_int_equal(symlink("../outside", path), 0);
    assert_int_equal(pthread_create(&thread, NULL, swapper, r), 0);
    for (u32 n = 0; n < 2000 || (!found && n < 1000000); n++) {
        u64 sub, inner;
        char text[64] = "";
        if (!lookup(r, SHARE_ROOT, "sub", &sub)) {
            if (!lookup(r, sub, "inner", &inner)) {
                found += !read_node(r, inner, text, sizeof(text));
                assert_string_not_equal(text, "must not be read");
            }
            name_call(r, SHARE_MKNOD, sub, "made");
            name_call(r, SHARE_UNLINK, sub, "made");
            name_call(r, SHARE_MKDIR, sub, "made");
            name_call(r, SHARE_RMDIR, sub, "made");
        }
    }
    __atomic_store_n(&r->swapped, true, __ATOMIC_SEQ_CST);
    pthread_join(thread, NULL);
    assert_true(found > 0);
    assert_false(exists(r, "outside/made") || exists(r, "made"));
    teardown(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_names),
        cmocka_unit_test(links_lead_nowhere),
        cmocka_unit_test(special_files_are_not_opened),
        cmocka_unit_test(moved_out),
        cmocka_unit_test(the_folder_moves_and_goes),
        cmocka_unit_test(readonly),
        cmocka_unit_test(no_privileged_programs),
        cmocka_unit_test(files),
        cmocka_unit_test(sizes_and_times),
        cmocka_unit_test(names),
        cmocka_unit_test(attributes),
        cmocka_unit_test(listings),
        cmocka_unit_test(descriptors_are_bounded),
        cmocka_unit_test(handles_are_bounded),
        cmocka_unit_test(save_and_load),
        cmocka_unit_test(hostile_state),
        cmocka_unit_test(messages),
        cmocka_unit_test(in_parallel),
        cmocka_unit_test(swapped_for_links),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
