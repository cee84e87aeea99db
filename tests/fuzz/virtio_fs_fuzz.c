/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the virtio file system device and the service behind it on a real folder: rings,
 * registers, messages of FUSE made from the input, completions in any number, save and load. At the
 * end the canary beside the folder must be as it was.
 */
#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>

#include "tests/fuzz/virtio_fuzz.h"

#include "core/virtio/fs_int.h"
#include "tests/unit/lib_share.h"

struct fs_fuzz {
    struct virtio_fuzz f; /* first */
    struct lib_share *share;
};

static u8 *put_name(u8 *at, u32 which) {
    static const char *const names[] = {"a",   "b",    "sub", "link",   "..",
                                        ".",   "",     "a/b", "user.x", "../canary",
                                        "new", "new2", "/",   "dir",    "canary"};
    char longest[300];
    const char *name = names[which % ARRAY_LEN(names)];
    if (which >= 250) {
        memset(longest, 'x', sizeof(longest));
        longest[which] = 0;
        name = longest;
    }
    size_t len = strlen(name) + 1;
    memcpy(at, name, len);
    return at + len;
}

/* A message that is well formed but for what the input makes of it. */
static void message(struct fs_fuzz *z, struct fuzz_input *in) {
    struct virtio_fuzz *f = &z->f;
    u8 *begin = f->vt.mem + f->area, *at = begin + sizeof(struct fuse_in_header);
    struct fuse_in_header h = {.opcode = fuzz8(in) % (FUSE_OPCODES + 3), .nodeid = fuzz8(in) & 15};
    u32 shape = fuzz8(in), raw = fuzz8(in) & 127, names = shape & 3;
    h.uid = h.gid = shape & 128 ? 1000 : 0;
    if (h.opcode == FUSE_INIT) {
        struct fuse_init_in init = {.major = 7, .minor = 31 + (shape & 7), .flags = ~0u};
        memcpy(at, &init, sizeof(init));
        at += sizeof(init);
    } else if (shape & 4) {
        u64 number = fuzz8(in) & 31; /* a handle, or a node, comes first in most */
        memcpy(at, &number, sizeof(number));
        at += sizeof(number);
    }
    for (u32 i = 0; i < raw; i++) {
        *at++ = fuzz8(in);
    }
    for (u32 i = 0; i < names; i++) {
        at = put_name(at, fuzz8(in));
    }
    h.len = (u32)(at - begin);
    memcpy(begin, &h, sizeof(h));
    const struct vd_seg seg[] = {{f->area, h.len, false},
                                 {f->area + 8192, shape & 16 ? 64u : 16384u, true}};
    if (f->d.q[shape >> 3 & 1].free_count >= 4) {
        vd_add(&f->d, shape >> 3 & 1, seg, 2);
        vd_kick(&f->d, shape >> 3 & 1);
    }
}

static void event(void *ctx, struct fuzz_input *in) {
    struct fs_fuzz *z = ctx;
    u32 what = fuzz8(in);
    if (what & 1) {
        message(z, in);
    }
    if (what & 2 || !in->size) {
        lib_share_complete(z->share, 1 + (what >> 4));
    }
}

static struct lib_share *share;

static void cleanup(void) {
    lib_share_destroy(share);
}

/* One folder for all inputs, as new for each. */
static void folder_fresh(void) {
    if (!share) {
        struct rlimit size = {.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};
        struct rlimit now;
        getrlimit(RLIMIT_FSIZE, &now);
        size.rlim_max = now.rlim_max;
        signal(SIGXFSZ, SIG_IGN);
        share = lib_share_create(false);
        atexit(cleanup);
        setrlimit(RLIMIT_FSIZE, &size);
        return;
    }
    struct share_req reset = {.op = SHARE_RESET};
    share_run(share_of(share->real), &reset);
    share_of(share->real)->next_id = SHARE_ROOT; /* inputs name nodes by small numbers */
    if (nftw(share->dir, lib_share_clear, 16, FTW_DEPTH | FTW_PHYS) || chmod(share->dir, 0755)) {
        abort();
    }
    lib_share_fill(share);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct fs_fuzz z;
    struct fuzz_input in = {data, size};
    memset(&z, 0, sizeof(z));
    folder_fresh();
    share_of(share->real)->fds_max = 8; /* so that descriptors are closed and opened again */
    z.share = share;
    vt_init(&z.f.vt);
    struct virtio_device *vdev = virtio_fs_create(&z.f.vt.env, &share->be, "fuzz", NULL);
    z.f.dev = virtio_mmio_attach(&z.f.vt.env, vdev, VT_MMIO_BASE, VT_MMIO_GSI, NULL);
    z.f.queues = 2;
    z.f.features = vdev->offered;
    z.f.event = event;
    z.f.ctx = &z;
    fuzz_run(&z.f, &in);
    vt_fini(&z.f.vt);
    if (!lib_share_sound(share)) {
        abort();
    }
    return 0;
}
