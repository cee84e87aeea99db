/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that another process fills page by page, as in Firecracker (docs/snapshotting/
 * handling-page-faults-on-snapshot-resume.md there): RAM is registered with a userfaultfd, which
 * goes to the handler's Unix socket together with a JSON array that says where each region is, how
 * long, and where it begins in the memory file. The handler answers faults with UFFDIO_COPY. When
 * it dies the guest stands still at its next fault.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "cmd/snapshot_int.h"
#include "core/vm/vm.h"

/* Faults of the kernel too: it reads and writes guest memory for KVM and for disks. */
static int uffd_open(struct err *err) {
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == EPERM) {
        int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        fd = dev < 0 ? -1 : ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        if (dev >= 0) {
            close(dev);
        }
    }
    if (fd < 0) {
        return ERR_SET(err, ERR_PERM,
                       "userfaultfd: %s; it needs CAP_SYS_PTRACE, access to /dev/userfaultfd or "
                       "vm.unprivileged_userfaultfd=1",
                       strerror(errno));
    }
    if (ioctl(fd, UFFDIO_API, &api)) {
        close(fd);
        return ERR_SET(err, ERR_UNSUPPORTED, "userfaultfd: this kernel's is too old");
    }
    return fd;
}

static int socket_connect(const char *path, struct err *err) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(at.sun_path)) {
        return ERR_SET(err, ERR_INVAL, "%s: name too long for a socket", path);
    }
    memcpy(at.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at))) {
        int rc = ERR_SET(err, ERR_IO, "page fault handler %s: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    return fd;
}

/* page_size_kib holds bytes, as in Firecracker. */
static void region_add(json_t *all, const struct host_ram *ram, u64 offset, u64 size) {
    u64 at = (u64)(uintptr_t)ram->hva + offset;
    json_array_append_new(all, json_pack("{s:I, s:I, s:I, s:i, s:i}", "base_host_virt_addr",
                                         (json_int_t)at, "size", (json_int_t)size, "offset",
                                         (json_int_t)offset, "page_size", (int)PAGE_SIZE,
                                         "page_size_kib", (int)PAGE_SIZE));
}

static char *layout(const struct host_ram *ram) {
    json_t *all = json_array();
    u64 low = MIN(ram->size, VM_LOW_RAM_MAX);
    region_add(all, ram, 0, low);
    if (ram->size > low) {
        region_add(all, ram, low, ram->size - low);
    }
    char *text = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    return text;
}

static int tell(int sock, int uffd, const char *text) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &uffd, sizeof(int));
    return sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)iov.iov_len ? 0 : -ERR_IO;
}

static int ram_register(int uffd, u64 size, struct host_ram *ram, struct err *err) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) {
        return ERR_SET(err, ERR_NOMEM, "the memory cannot be mapped");
    }
    struct uffdio_register reg = {.range = {.start = (u64)(uintptr_t)p, .len = size},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    madvise(p, size, MADV_DONTDUMP);
    madvise(p, size, MADV_NOHUGEPAGE); /* the handler answers by 4 KiB */
    *ram = (struct host_ram){.hva = p, .size = size, .fd = -1};
    return ioctl(uffd, UFFDIO_REGISTER, &reg)
               ? ERR_SET(err, ERR_IO, "userfaultfd: %s", strerror(errno))
               : 0;
}

static int hand_over(const char *path, int uffd, const struct host_ram *ram, int *sock,
                     struct err *err) {
    char *text = layout(ram);
    *sock = text ? socket_connect(path, err) : ERR_SET(err, ERR_NOMEM, "out of memory");
    int rc = *sock < 0 ? *sock : tell(*sock, uffd, text);
    free(text);
    return *sock < 0 || !rc
               ? rc
               : ERR_SET(err, ERR_IO, "page fault handler %s: %s", path, strerror(errno));
}

int restore_uffd(const char *path, u64 size, struct host_ram *ram, int keep[2], struct err *err) {
    int sock = -1, uffd = uffd_open(err);
    if (uffd < 0) {
        return uffd;
    }
    int rc = ram_register(uffd, size, ram, err);
    rc = rc ? rc : hand_over(path, uffd, ram, &sock, err);
    keep[0] = uffd;
    keep[1] = sock;
    return rc;
}
