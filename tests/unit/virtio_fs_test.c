/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio file system device: FUSE messages through its queues, with a real folder behind. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include "tests/unit/lib_share.h"

#include <cmocka.h>

#include "core/virtio/fs_int.h"
#include "tests/unit/lib_fuse_uapi.h"
#include "tests/unit/lib_virtio.h"

enum { HIPRIO, REQUESTS, ROOM = 65536 };

struct rig {
    struct vt vt;
    struct vd d;
    struct device *dev;
    struct lib_share *share;
    u64 out, in; /* guest memory for requests and replies */
    u32 used;    /* bytes that the device says it wrote */
    struct fuse_out_header *h;
    u8 *body;
};

static struct rig *setup_with(bool pci) {
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    vt_init(&r->vt);
    r->share = lib_share_create(false);
    struct virtio_device *vdev = virtio_fs_create(&r->vt.env, &r->share->be, "tag", NULL);
    assert_non_null(vdev);
    if (pci) {
        r->dev = virtio_pci_attach(&r->vt.host, vdev, 3, NULL);
        assert_int_equal(pci_host_firmware(&r->vt.host, NULL), 0);
        assert_true(vd_find_pci(&r->d, &r->vt, 3));
    } else {
        r->dev = virtio_mmio_attach(&r->vt.env, vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
        assert_true(vd_find_mmio(&r->d, &r->vt, VT_MMIO_BASE));
    }
    assert_true(vd_start(&r->d, VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC, 2));
    r->out = vt_alloc(&r->vt, ROOM, 4096);
    r->in = vt_alloc(&r->vt, ROOM, 4096);
    r->h = (struct fuse_out_header *)(void *)(r->vt.mem + r->in);
    r->body = r->vt.mem + r->in + sizeof(*r->h);
    return r;
}

static void teardown(struct rig *r) {
    r->dev->ops->remove(r->dev);
    assert_true(lib_share_sound(r->share));
    lib_share_destroy(r->share);
    vt_fini(&r->vt);
    free(r);
}

/* Puts a request with arguments and names (each with its zero byte) on a queue. */
static u64 last_unique;
static void send_on(struct rig *r, u32 queue, u32 opcode, u64 node, const void *args, size_t size,
                    const char *names, size_t names_size, u32 room) {
    u8 *at = r->vt.mem + r->out;
    struct fuse_in_header h = {.len = (u32)(sizeof(h) + size + names_size),
                               .opcode = opcode,
                               .unique = ++last_unique,
                               .nodeid = node,
                               .uid = geteuid(),
                               .gid = getegid()};
    const struct vd_seg seg[] = {{r->out, h.len, false}, {r->in, room, true}};
    memcpy(at, &h, sizeof(h));
    if (size) {
        memcpy(at + sizeof(h), args, size);
    }
    if (names_size) {
        memcpy(at + sizeof(h) + size, names, names_size);
    }
    memset(r->h, 0xee, sizeof(*r->h));
    vd_add(&r->d, queue, seg, room ? 2 : 1);
    vd_kick(&r->d, queue);
}

static s32 answer(struct rig *r, u32 queue) {
    lib_share_complete(r->share, UINT32_MAX);
    assert_true(vd_used(&r->d, queue, &r->used) >= 0);
    if (!r->used) {
        return 1;
    }
    assert_int_equal(r->h->len, r->used);
    assert_int_equal(r->h->unique, last_unique);
    return r->h->error;
}

static s32 ask(struct rig *r, u32 opcode, u64 node, const void *args, size_t size,
               const char *name) {
    send_on(r, REQUESTS, opcode, node, args, size, name, name ? strlen(name) + 1 : 0, ROOM);
    return answer(r, REQUESTS);
}

#define ASK(r, opcode, node, args, name) ask(r, opcode, node, &(args), sizeof(args), name)

static s32 init(struct rig *r) {
    struct fuse_init_in in = {.major = 7, .minor = 37, .max_readahead = 131072, .flags = ~0u};
    return ASK(r, FUSE_INIT, 0, in, NULL);
}

static struct rig *setup(void) {
    struct rig *r = setup_with(false);
    assert_int_equal(init(r), 0);
    return r;
}

static u64 lookup(struct rig *r, u64 dir, const char *name) {
    assert_int_equal(ask(r, FUSE_LOOKUP, dir, NULL, 0, name), 0);
    assert_int_equal(r->used, sizeof(*r->h) + sizeof(struct fuse_entry_out));
    return ((struct fuse_entry_out *)(void *)r->body)->nodeid;
}

static void wire(void **state) {
    (void)state;
#define SIZE(ours, theirs) {"size of " #theirs, sizeof(struct fuse_##ours)},
#define OPERATION(op)      {"number of " #op, FUSE_##op},
#define FLAG(flag)         {"flag " #flag, FUSE_##flag},
    /* clang-format off */
    const struct fuse_fact ours[] = {
        FUSE_STRUCTS(SIZE)
        FUSE_OPERATIONS(OPERATION)
        FUSE_INIT_FLAGS(FLAG)
        {0},
    };
    /* clang-format on */
    for (size_t i = 0; ours[i].name; i++) {
        assert_string_equal(ours[i].name, fuse_uapi[i].name);
        if (ours[i].value != fuse_uapi[i].value) {
            fail_msg("%s: %llu, not %llu", ours[i].name, ours[i].value, fuse_uapi[i].value);
        }
    }
}

static void configuration(void **state) {
    (void)state;
    for (int pci = 0; pci < 2; pci++) {
        struct rig *r = setup_with(pci);
        assert_int_equal(vd_config(&r->d, 0, 1), 't');
        assert_int_equal(vd_config(&r->d, 2, 1), 'g');
        assert_int_equal(vd_config(&r->d, 3, 1), 0);
        assert_int_equal(vd_config(&r->d, 36, 4), 1);
        assert_int_equal(init(r), 0);
        const struct fuse_init_out *o = (const void *)r->body;
        assert_int_equal(o->major, 7);
        assert_int_equal(o->minor, 37);
        assert_true(o->max_write == o->max_pages * 4096u);
        assert_true(o->flags & FUSE_MAX_PAGES);
        teardown(r);
    }
    struct err err = {0};
    struct vt vt;
    vt_init(&vt);
    assert_null(virtio_fs_create(&vt.env, NULL, "", &err));
    assert_null(virtio_fs_create(&vt.env, NULL, "a tag of more than thirty-six characters", &err));
    vt_fini(&vt);
}

static void session(void **state) {
    (void)state;
    struct rig *r = setup_with(false);
    struct fuse_init_in old = {.major = 7, .minor = 30}, future = {.major = 8};
    assert_int_equal(ask(r, FUSE_LOOKUP, 1, NULL, 0, "a"), -EIO);
    assert_int_equal(ASK(r, FUSE_INIT, 0, old, NULL), -EPROTO);
    assert_int_equal(ask(r, FUSE_LOOKUP, 1, NULL, 0, "a"), -EIO);
    assert_int_equal(ASK(r, FUSE_INIT, 0, future, NULL), 0);
    assert_int_equal(((const struct fuse_init_out *)(const void *)r->body)->major, 7);
    assert_int_equal(init(r), 0);
    lookup(r, 1, "a");
    assert_int_equal(ask(r, FUSE_DESTROY, 0, NULL, 0, NULL), 0);
    assert_int_equal(ask(r, FUSE_LOOKUP, 1, NULL, 0, "a"), -EIO);
    assert_int_equal(share_of(r->share->real)->nodes, 1);
    teardown(r);
}

static void wrong_messages(void **state) {
    (void)state;
    struct rig *r = setup();
    static const u32 unknown[] = {0, 7, 19, 25, 31, 34, 39, 48, 51, 52, 53, 4096, UINT32_MAX};
    char name[300];
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
        assert_int_equal(ask(r, unknown[i], 1, NULL, 0, NULL), -ENOSYS);
        assert_int_equal(r->used, sizeof(*r->h));
    }
    for (u32 op = 1; op < FUSE_OPCODES; op++) { /* without anything that belongs to them */
        s32 rc = ask(r, op, 77, NULL, 0, NULL);
        assert_true(rc != 0 || op == FUSE_SYNCFS || op == FUSE_DESTROY);
        if (op == FUSE_DESTROY) {
            init(r);
        }
    }
    memset(name, 'n', sizeof(name));
    name[299] = 0;
    assert_int_equal(ask(r, FUSE_LOOKUP, 1, NULL, 0, name), -ENAMETOOLONG);
    send_on(r, REQUESTS, FUSE_LOOKUP, 1, NULL, 0, name, 20, ROOM); /* without a zero byte */
    assert_int_equal(answer(r, REQUESTS), -EINVAL);
    assert_int_equal(ask(r, FUSE_LOOKUP, 1, NULL, 0, ".."), -EINVAL);
    assert_int_equal(ask(r, FUSE_LOOKUP, 1, NULL, 0, "../canary"), -EINVAL);
    assert_int_equal(ask(r, FUSE_LOOKUP, 0, NULL, 0, "a"), -ESTALE);
    /* no room for the answer, or for its header */
    send_on(r, REQUESTS, FUSE_LOOKUP, 1, NULL, 0, "a", 2, 100);
    assert_int_equal(answer(r, REQUESTS), -ERANGE);
    send_on(r, REQUESTS, FUSE_LOOKUP, 1, NULL, 0, "a", 2, 8);
    assert_int_equal(answer(r, REQUESTS), 1);
    struct fuse_rw_in big = {.size = UINT32_MAX};
    assert_int_equal(ASK(r, FUSE_READ, 1, big, NULL), -EINVAL);
    assert_int_equal(ASK(r, FUSE_WRITE, 1, big, NULL), -EINVAL);
    struct fuse_setxattr_in x = {.size = 100};
    assert_int_equal(ASK(r, FUSE_SETXATTR, 1, x, "user.x"), -EINVAL);
    assert_int_equal(vd_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET, 0);
    const struct vd_seg seg[] = {{r->out, 39, false}, {r->in, ROOM, true}};
    vd_add(&r->d, REQUESTS, seg, 2);
    vd_kick(&r->d, REQUESTS);
    assert_int_equal(vd_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET, VIRTIO_STATUS_NEEDS_RESET);
    teardown(r);
}

static u64 create(struct rig *r, const char *name, u64 *node) {
    struct fuse_create_in in = {.flags = O_RDWR | O_CREAT, .mode = S_IFREG | 0640};
    assert_int_equal(ASK(r, FUSE_CREATE, 1, in, name), 0);
    assert_int_equal(r->used, 16 + 128 + 16);
    *node = ((struct fuse_entry_out *)(void *)r->body)->nodeid;
    return ((struct fuse_open_out *)(void *)(r->body + sizeof(struct fuse_entry_out)))->fh;
}

static void contents(void **state) {
    (void)state;
    struct rig *r = setup();
    u64 node, fh = create(r, "new", &node);
    struct fuse_rw_in rw = {.fh = fh, .offset = 3, .size = 5};
    send_on(r, REQUESTS, FUSE_WRITE, node, &rw, sizeof(rw), "hello", 5, ROOM);
    assert_int_equal(answer(r, REQUESTS), 0);
    assert_int_equal(((struct fuse_write_out *)(void *)r->body)->size, 5);
    rw = (struct fuse_rw_in){.fh = fh, .offset = 0, .size = 2, .flags = O_APPEND | O_RDWR};
    send_on(r, REQUESTS, FUSE_WRITE, node, &rw, sizeof(rw), "!!", 2, ROOM);
    assert_int_equal(answer(r, REQUESTS), 0);
    /* a page of the cache goes to its place, whatever the file was opened with */
    rw = (struct fuse_rw_in){
        .fh = fh, .size = 1, .rw_flags = FUSE_WRITE_CACHE, .flags = O_APPEND | O_RDWR};
    send_on(r, REQUESTS, FUSE_WRITE, node, &rw, sizeof(rw), "A", 1, ROOM);
    assert_int_equal(answer(r, REQUESTS), 0);
    rw = (struct fuse_rw_in){.fh = fh, .size = 100};
    u64 reported = r->vt.written;
    assert_int_equal(ASK(r, FUSE_READ, node, rw, NULL), 0);
    assert_int_equal(r->used, 16 + 10);
    assert_memory_equal(r->body, "A\0\0hello!!", 10);
    assert_true(r->vt.written - reported >= 26);
    struct fuse_getattr_in g = {0};
    assert_int_equal(ASK(r, FUSE_GETATTR, node, g, NULL), 0);
    assert_int_equal(((struct fuse_attr_out *)(void *)r->body)->attr.size, 10);
    struct fuse_lseek_in seek = {.fh = fh, .whence = SEEK_HOLE};
    assert_int_equal(ASK(r, FUSE_LSEEK, node, seek, NULL), 0);
    assert_int_equal(r->used, 24);
    struct fuse_copy_in copy = {.fh_in = fh, .fh_out = fh, .off_out = 4096, .len = 10};
    assert_int_equal(ASK(r, FUSE_COPY_FILE_RANGE, node, copy, NULL), 0);
    struct fuse_release_in release = {.fh = fh};
    assert_int_equal(ASK(r, FUSE_RELEASE, node, release, NULL), 0);
    assert_int_equal(ASK(r, FUSE_READ, node, rw, NULL), -EBADF);
    teardown(r);
}

static void forgets(void **state) {
    (void)state;
    struct rig *r = setup();
    struct share *s = share_of(r->share->real);
    u64 a = lookup(r, 1, "a"), sub = lookup(r, 1, "sub");
    lookup(r, 1, "a");
    struct fuse_forget_in one = {.nlookup = 1};
    send_on(r, HIPRIO, FUSE_FORGET, a, &one, sizeof(one), NULL, 0, 0);
    assert_int_equal(answer(r, HIPRIO), 1);
    assert_int_equal(s->nodes, 3);
    struct {
        struct fuse_batch_forget_in h;
        struct share_forget f[2];
    } batch = {{.count = 1000}, {{a, 1}, {sub, 99}}};
    send_on(r, HIPRIO, FUSE_BATCH_FORGET, 0, &batch, sizeof(batch), NULL, 0, 0);
    assert_int_equal(answer(r, HIPRIO), 1);
    assert_int_equal(s->nodes, 1);
    u64 unique = 0;
    send_on(r, HIPRIO, FUSE_INTERRUPT, 0, &unique, sizeof(unique), NULL, 0, 0);
    assert_int_equal(answer(r, HIPRIO), 1);
    teardown(r);
}

static void listing(void **state) {
    (void)state;
    struct rig *r = setup();
    struct fuse_open_in open_in = {0};
    assert_int_equal(ASK(r, FUSE_OPENDIR, 1, open_in, NULL), 0);
    struct fuse_rw_in rw = {.fh = ((struct fuse_open_out *)(void *)r->body)->fh, .size = 4096};
    u32 seen = 0, nodes = 0;
    assert_int_equal(ASK(r, FUSE_READDIRPLUS, 1, rw, NULL), 0);
    for (u32 at = 0; at + 16 < r->used; seen++) {
        const struct fuse_entry_out *e = (const void *)(r->body + at);
        const struct fuse_dirent *d = (const void *)(r->body + at + sizeof(*e));
        nodes += e->nodeid != 0;
        at += (u32)ALIGN_UP(sizeof(*e) + sizeof(*d) + d->namelen, 8ull);
    }
    assert_int_equal(seen, 5); /* ".", "..", "a", "sub", "link" */
    assert_int_equal(nodes, 3);
    rw.size = 64; /* one entry at a time */
    for (seen = 0; ASK(r, FUSE_READDIR, 1, rw, NULL) == 0 && r->used > 16 && seen < 9; seen++) {
        rw.offset = ((const struct fuse_dirent *)(const void *)r->body)->off;
    }
    assert_true(seen >= 3 && seen <= 5);
    teardown(r);
}

/* More requests than the device takes at once: the others wait in the ring. */
static void many_at_once(void **state) {
    (void)state;
    struct rig *r = setup();
    struct fuse_in_header *h = (void *)(r->vt.mem + r->out);
    u32 sent = 0, got = 0;
    *h = (struct fuse_in_header){.len = 42, .opcode = FUSE_LOOKUP, .nodeid = 1};
    memcpy(h + 1, "a", 2);
    vd_no_interrupt(&r->d, REQUESTS, true);
    for (u32 round = 0; round < 12; round++) {
        for (u32 i = 0; i < 12; i++) {
            const struct vd_seg seg[] = {{r->out, 42, false},
                                         {r->in + (round % 2 * 12 + i) * 256, 256, true}};
            sent += vd_add(&r->d, REQUESTS, seg, 2) >= 0;
        }
        vd_kick(&r->d, REQUESTS);
        lib_share_complete(r->share, 5);
        while (vd_used(&r->d, REQUESTS, NULL) >= 0) {
            got++;
        }
    }
    lib_share_complete(r->share, UINT32_MAX);
    while (vd_used(&r->d, REQUESTS, NULL) >= 0) {
        got++;
    }
    assert_int_equal(sent, got);
    assert_true(sent > 60);
    teardown(r);
}

static void reset_in_flight(void **state) {
    (void)state;
    struct rig *r = setup_with(true);
    assert_int_equal(init(r), 0);
    send_on(r, REQUESTS, FUSE_LOOKUP, 1, NULL, 0, "a", 2, ROOM);
    assert_int_equal(r->share->queued, 1);
    vd_set_status(&r->d, 0);
    assert_int_not_equal(vd_status(&r->d), 0);
    memset(r->h, 0, sizeof(*r->h));
    lib_share_complete(r->share, UINT32_MAX);
    assert_int_equal(vd_status(&r->d), 0);
    assert_int_equal(r->h->len,
                     0); /* no reply came into memory that is not the device's any more */
    assert_true(vd_start(&r->d, 0, 2));
    assert_int_equal(ask(r, FUSE_LOOKUP, 1, NULL, 0, "a"), -EIO);
    assert_int_equal(init(r), 0);
    assert_int_equal(share_of(r->share->real)->nodes, 1);
    lookup(r, 1, "a");
    teardown(r);
}

static void save_and_load(void **state) {
    (void)state;
    struct rig *r = setup();
    size_t len, len2;
    u64 node, fh = create(r, "new", &node), a = lookup(r, 1, "a");
    send_on(r, REQUESTS, FUSE_LOOKUP, 1, NULL, 0, "sub", 4, ROOM);
    r->dev->ops->pause(r->dev); /* waits for what is on its way */
    assert_int_equal(answer(r, REQUESTS), 0);
    u8 *s = vt_save(r->dev, &len);
    assert_int_equal(vt_load(r->dev, s, len), 0);
    r->dev->ops->resume(r->dev);
    struct fuse_rw_in rw = {.fh = fh, .size = 5};
    send_on(r, REQUESTS, FUSE_WRITE, node, &rw, sizeof(rw), "later", 5, ROOM);
    assert_int_equal(answer(r, REQUESTS), 0);
    struct fuse_getattr_in g = {0};
    assert_int_equal(ASK(r, FUSE_GETATTR, a, g, NULL), 0);
    assert_int_equal(((struct fuse_attr_out *)(void *)r->body)->attr.size, 12);
    u8 *again = vt_save(r->dev, &len2);
    assert_int_equal(len, len2);
    for (size_t cut = 0; cut < len; cut += 7) {
        assert_int_not_equal(vt_load(r->dev, s, cut), 0);
    }
    free(s);
    free(again);
    teardown(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wire),
        cmocka_unit_test(configuration),
        cmocka_unit_test(session),
        cmocka_unit_test(wrong_messages),
        cmocka_unit_test(contents),
        cmocka_unit_test(forgets),
        cmocka_unit_test(listing),
        cmocka_unit_test(many_at_once),
        cmocka_unit_test(reset_in_flight),
        cmocka_unit_test(save_and_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
