/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: fstest posix|model|storm|prowl|own DIR [ARGUMENT...]
 * What a guest does with a shared folder, checking itself. Prints "COMMAND: ok", or where it
 * failed. posix              what POSIX and Linux promise of a file system, one by one model SEED
 * COUNT   random operations on a few files, compared with a model in memory storm SECONDS processes
 * that rename, link, make and remove the same names prowl SECONDS      reads and writes whatever is
 * to be found below swap/, and looks for a canary
 *   own UID            makes files as that user, who then owns them
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("line %d: %s: %s\n", __LINE__, #condition, strerror(errno));                    \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define FAILS(call, error) CHECK((call) == -1 && errno == (error))

static void put(const char *name, const char *text) {
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static int has(const char *name, const char *text) {
    char buf[256] = "";
    int fd = open(name, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
    close(fd);
    return n == (ssize_t)strlen(text) && !strcmp(buf, text);
}

/* --- posix ---------------------------------------------------------------------------------------
 */

static void names(void) {
    char longest[NAME_MAX + 2];
    struct stat st;
    memset(longest, 'n', sizeof(longest));
    longest[NAME_MAX + 1] = 0;
    FAILS(open(longest, O_CREAT | O_RDWR, 0600), ENAMETOOLONG);
    longest[NAME_MAX] = 0;
    put(longest, "long");
    CHECK(has(longest, "long") && !unlink(longest));
    put("with\nnewline \xff\xfe", "odd");
    CHECK(has("with\nnewline \xff\xfe", "odd") && !unlink("with\nnewline \xff\xfe"));
    CHECK(open("x", O_CREAT | O_EXCL | O_RDWR, 0600) >= 0);
    FAILS(open("x", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
    FAILS(mkdir("x", 0755), EEXIST);
    FAILS(open("x/y", O_RDONLY), ENOTDIR);
    FAILS(rmdir("x"), ENOTDIR);
    FAILS(open("nothing", O_RDONLY), ENOENT);
    CHECK(!mkdir("d", 0755) && !mkdir("d/e", 0700));
    FAILS(unlink("d"), EISDIR);
    FAILS(rmdir("d"), ENOTEMPTY);
    FAILS(rename("d", "d/e/f"), EINVAL);
    CHECK(!rename("d/e", "e") && !stat("e", &st) && (st.st_mode & 07777) == 0700);
    CHECK(!rmdir("e") && !rmdir("d") && !unlink("x"));
    CHECK(!mkfifo("fifo", 0600) && !lstat("fifo", &st) && S_ISFIFO(st.st_mode) && !unlink("fifo"));
    FAILS(mknod("null", S_IFCHR | 0666, 0x103), EPERM);
}

static void links(void) {
    char text[64] = "";
    struct stat st;
    put("a", "one");
    CHECK(!link("a", "b") && !stat("b", &st) && st.st_nlink == 2);
    CHECK(!symlink("a", "s") && readlink("s", text, sizeof(text)) == 1 && text[0] == 'a');
    CHECK(has("s", "one") && !lstat("s", &st) && S_ISLNK(st.st_mode));
    FAILS(open("s", O_RDONLY | O_NOFOLLOW), ELOOP);
    put("c", "two");
    CHECK(!rename("c", "a") && has("a", "two") && has("b", "one") && !stat("b", &st));
    CHECK(st.st_nlink == 1);
    CHECK(!renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE) && has("a", "one"));
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    CHECK(!symlink("loop", "loop"));
    FAILS(open("loop", O_RDONLY), ELOOP);
    CHECK(!symlink("../../../../../../etc/passwd", "up") && !unlink("up"));
    CHECK(!unlink("a") && !unlink("b") && !unlink("s") && !unlink("loop"));
}

static void open_files(void) {
    struct stat st;
    char buf[16] = "";
    int fd = open("gone", O_CREAT | O_RDWR, 0600), two;
    CHECK(fd >= 0 && write(fd, "still here", 10) == 10 && !unlink("gone"));
    CHECK(pread(fd, buf, 10, 0) == 10 && !memcmp(buf, "still here", 10));
    CHECK(!fstat(fd, &st) && st.st_nlink == 0 && st.st_size == 10);
    CHECK(!ftruncate(fd, 5) && !fchmod(fd, 0640) && !fstat(fd, &st) && st.st_size == 5);
    CHECK((st.st_mode & 07777) == 0640);
    CHECK(!close(fd));
    put("log", "");
    fd = open("log", O_WRONLY | O_APPEND);
    two = open("log", O_WRONLY | O_APPEND);
    CHECK(write(fd, "1", 1) == 1 && write(two, "2", 1) == 1 && write(fd, "3", 1) == 1);
    CHECK(has("log", "123"));
    CHECK(!flock(fd, LOCK_EX | LOCK_NB));
    FAILS(flock(two, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    struct flock l = {.l_type = F_WRLCK};
    CHECK(!fcntl(fd, F_SETLK, &l));
    close(fd);
    close(two);
    fd = open("log", O_RDWR | O_TRUNC);
    CHECK(fd >= 0 && !fstat(fd, &st) && st.st_size == 0 && !close(fd) && !unlink("log"));
}

static void sizes(void) {
    struct stat st;
    char byte = 0;
    const off_t far = 5ll << 30;
    int fd = open("big", O_CREAT | O_RDWR, 0600);
    CHECK(pwrite(fd, "x", 1, far) == 1 && !fstat(fd, &st) && st.st_size == far + 1);
    CHECK(pread(fd, &byte, 1, far) == 1 && byte == 'x');
    CHECK(pread(fd, &byte, 1, far - 1000000) == 1 && byte == 0);
    CHECK(!fsync(fd) && !fstat(fd, &st) && st.st_blocks < 100000);
    CHECK(lseek(fd, 0, SEEK_DATA) > 0 && lseek(fd, 0, SEEK_HOLE) == 0);
    CHECK(!ftruncate(fd, 100) && !fstat(fd, &st) && st.st_size == 100);
    CHECK(pread(fd, &byte, 1, 100) == 0);
    CHECK(!fallocate(fd, 0, 0, 65536) && !fstat(fd, &st) && st.st_size == 65536);
    CHECK(!close(fd) && !truncate("big", 0) && !stat("big", &st) && !st.st_size && !unlink("big"));
}

static void attributes(void) {
    struct stat st;
    struct statfs fs;
    char value[16] = "";
    put("f", "text");
    CHECK(!chmod("f", 01751) && !stat("f", &st) && (st.st_mode & 07777) == 01751);
    struct timespec t[2] = {{1000000000, 5}, {1234567890, 987654321}};
    CHECK(!utimensat(AT_FDCWD, "f", t, 0) && !stat("f", &st));
    CHECK(st.st_mtim.tv_sec == 1234567890 && st.st_mtim.tv_nsec == 987654321);
    CHECK(st.st_atim.tv_sec == 1000000000);
    CHECK(!statfs(".", &fs) && fs.f_blocks > fs.f_bfree && fs.f_namelen == 255);
    if (!setxattr("f", "user.name", "value", 5, 0)) {
        CHECK(getxattr("f", "user.name", value, sizeof(value)) == 5 && !memcmp(value, "value", 5));
        CHECK(listxattr("f", value, sizeof(value)) == 10 && !removexattr("f", "user.name"));
        FAILS(getxattr("f", "user.name", value, sizeof(value)), ENODATA);
    } else {
        CHECK(errno == EOPNOTSUPP);
    }
    FAILS(setxattr("f", "trusted.x", "v", 1, 0), EOPNOTSUPP);
    CHECK(!chmod("f", 06755) && !stat("f", &st));
    CHECK(!unlink("f"));
}

static void directories(void) {
    enum { COUNT = 3000 };
    static char seen[COUNT];
    char name[64];
    int n = 0;
    CHECK(!mkdir("list", 0755));
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof(name), "list/entry with a name %d", i);
        CHECK(!mknod(name, S_IFREG | 0600, 0));
    }
    DIR *d = opendir("list");
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] != '.') {
            int i = atoi(e->d_name + strlen("entry with a name "));
            CHECK(i >= 0 && i < COUNT && !seen[i]);
            seen[i] = 1;
            n++;
        }
    }
    CHECK(n == COUNT);
    rewinddir(d);
    for (n = 0; readdir(d);) {
        n++;
    }
    CHECK(n == COUNT + 2);
    closedir(d);
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof(name), "list/entry with a name %d", i);
        CHECK(!unlink(name));
    }
    CHECK(!rmdir("list"));
}

static void posix(void) {
    names();
    links();
    open_files();
    sizes();
    attributes();
    directories();
}

/* --- model
 * ---------------------------------------------------------------------------------------- */

enum { FILES = 4, LIMIT = 300000 };

static struct {
    char name[32];
    int fd;
    size_t size;
    unsigned char data[LIMIT];
} model[FILES];
static unsigned char scratch[LIMIT];
static uint64_t state;

static uint32_t rnd(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

static void verify(int f) {
    struct stat st;
    CHECK(!fstat(model[f].fd, &st) && (size_t)st.st_size == model[f].size);
    CHECK(pread(model[f].fd, scratch, LIMIT, 0) == (ssize_t)model[f].size);
    for (size_t i = 0; i < model[f].size; i++) {
        if (scratch[i] != model[f].data[i]) {
            printf("%s: byte %zu of %zu: %02x, not %02x\n", model[f].name, i, model[f].size,
                   scratch[i], model[f].data[i]);
            exit(1);
        }
    }
}

static void random_bytes(unsigned char *p, size_t n) {
    unsigned char seed = (unsigned char)rnd(256);
    for (size_t i = 0; i < n; i++) {
        p[i] = (unsigned char)(seed + i * 7 + (i >> 8));
    }
}

static void model_write(int f) {
    size_t at = rnd(LIMIT - 1), n = 1 + rnd(rnd(4) ? 5000 : 100000);
    n = n > LIMIT - at ? LIMIT - at : n;
    random_bytes(model[f].data + at, n);
    CHECK(pwrite(model[f].fd, model[f].data + at, n, (off_t)at) == (ssize_t)n);
    if (at + n > model[f].size) {
        model[f].size = at + n;
    }
}

static void model_append(int f) {
    size_t n = 1 + rnd(3000);
    if (n > LIMIT - model[f].size) {
        return;
    }
    int fd = open(model[f].name, O_WRONLY | O_APPEND);
    random_bytes(model[f].data + model[f].size, n);
    CHECK(fd >= 0 && write(fd, model[f].data + model[f].size, n) == (ssize_t)n && !close(fd));
    model[f].size += n;
}

static void model_truncate(int f) {
    size_t size = rnd(LIMIT);
    CHECK(!ftruncate(model[f].fd, (off_t)size));
    if (size < model[f].size) {
        memset(model[f].data + size, 0, model[f].size - size);
    }
    model[f].size = size;
}

/* Through the page cache. */
static void model_map(int f) {
    if (model[f].size < 100) {
        return;
    }
    unsigned char *p =
        mmap(NULL, model[f].size, PROT_READ | PROT_WRITE, MAP_SHARED, model[f].fd, 0);
    size_t at = rnd((uint32_t)model[f].size - 50);
    CHECK(p != MAP_FAILED && !memcmp(p, model[f].data, model[f].size));
    random_bytes(model[f].data + at, 50);
    memcpy(p + at, model[f].data + at, 50);
    if (rnd(2)) {
        CHECK(!msync(p, model[f].size, MS_SYNC));
    }
    CHECK(!munmap(p, model[f].size));
}

static void model_punch(int f) {
    size_t at = rnd(LIMIT), n = 1 + rnd(20000);
    if (fallocate(model[f].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n)) {
        CHECK(errno == EOPNOTSUPP);
        return;
    }
    if (at < model[f].size) {
        n = n > model[f].size - at ? model[f].size - at : n;
        memset(model[f].data + at, 0, n);
    }
}

static void model_rename(int f) {
    char name[32];
    snprintf(name, sizeof(name), "m%d-%u", f, rnd(1000000));
    CHECK(!rename(model[f].name, name));
    memcpy(model[f].name, name, sizeof(name));
}

static void model_reopen(int f) {
    CHECK(!close(model[f].fd));
    model[f].fd = open(model[f].name, O_RDWR | (rnd(8) ? 0 : O_SYNC));
    CHECK(model[f].fd >= 0);
}

static void run_model(uint64_t seed, int count) {
    static void (*const steps[])(int) = {model_write, model_write, model_append, model_truncate,
                                         model_map,   model_punch, model_rename, model_reopen,
                                         verify,      model_write};
    state = seed * 0x9e3779b97f4a7c15ull + 1;
    for (int f = 0; f < FILES; f++) {
        snprintf(model[f].name, sizeof(model[f].name), "m%d", f);
        model[f].fd = open(model[f].name, O_RDWR | O_CREAT | O_TRUNC, 0644);
        CHECK(model[f].fd >= 0);
    }
    for (int i = 0; i < count; i++) {
        steps[rnd(sizeof(steps) / sizeof(steps[0]))]((int)rnd(FILES));
    }
    for (int f = 0; f < FILES; f++) {
        model_reopen(f);
        verify(f);
        CHECK(!close(model[f].fd));
        CHECK(!unlink(model[f].name));
    }
}

/* --- storm
 * ---------------------------------------------------------------------------------------- */

static int expected(int error) {
    static const int errors[] = {ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL,
                                 ESTALE, EBUSY,  ELOOP,   EMLINK, EPERM};
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        if (error == errors[i]) {
            return 1;
        }
    }
    return 0;
}

static void storm_one(time_t end, uint64_t seed) {
    char a[32], b[32];
    state = seed * 0x9e3779b97f4a7c15ull + 1;
    while (time(NULL) < end) {
        int rc = 0, fd;
        snprintf(a, sizeof(a), rnd(2) ? "s%u" : "s%u/t", rnd(6));
        snprintf(b, sizeof(b), rnd(2) ? "s%u" : "s%u/t", rnd(6));
        errno = 0;
        switch (rnd(7)) {
        case 0:
            rc = mkdir(a, 0755);
            break;
        case 1:
            rc = rename(a, b);
            break;
        case 2:
            rc = link(a, b);
            break;
        case 3:
            rc = rnd(2) ? unlink(a) : rmdir(a);
            break;
        case 4:
            fd = open(a, O_CREAT | O_RDWR | O_NOFOLLOW, 0644);
            rc = fd < 0 ? -1 : close(fd);
            break;
        case 5:
            rc = symlink(b, a);
            break;
        default:
            rc = renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
            break;
        }
        CHECK(!rc || expected(errno));
    }
}

static void storm(int seconds) {
    enum { PROCESSES = 4 };
    time_t end = time(NULL) + seconds;
    for (int i = 0; i < PROCESSES; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (!pid) {
            storm_one(end, (uint64_t)i + 1);
            exit(0);
        }
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status = 0;
        CHECK(wait(&status) > 0 && status == 0);
    }
}

/* --- prowl
 * ---------------------------------------------------------------------------------------- */

/* Folder number k, which may be a link to the outside at this moment; true when a file was read. */
static int prowl_one(unsigned k, unsigned tried) {
    static const char *const names[] = {"swap%u/secret", "swap%u/in/secret", "swap%u/../secret",
                                        "swap%u/in/../../swap%u/secret"};
    char name[64], other[64], buf[64];
    snprintf(name, sizeof(name), names[tried % 4], k, k);
    int fd = open(name, tried % 3 ? O_RDONLY : O_RDWR);
    ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);
    buf[n > 0 ? n : 0] = 0;
    CHECK(!strstr(buf, "canary"));
    if (fd >= 0) {
        CHECK(tried % 3 || pwrite(fd, "harmless", 8, 0) == 8 || errno == ESTALE);
        close(fd);
    }
    snprintf(name, sizeof(name), "swap%u/made", k);
    snprintf(other, sizeof(other), "swap%u/in/made", k);
    fd = open(name, O_CREAT | O_WRONLY, 0644);
    if (fd >= 0) {
        close(fd);
    }
    rename(name, other);
    unlink(other);
    snprintf(name, sizeof(name), "swap%u", k);
    DIR *d = opendir(name);
    for (struct dirent *e; d && (e = readdir(d));) {
        CHECK(strncmp(e->d_name, "canary", 6) != 0);
    }
    if (d) {
        closedir(d);
    }
    return n > 0;
}

static void prowl(int seconds) {
    time_t end = time(NULL) + seconds;
    unsigned found = 0, tried = 0;
    while (time(NULL) < end) {
        tried++;
        found += (unsigned)prowl_one(tried % 7, tried / 7);
    }
    printf("%u tries, %u times something was found\n", tried, found);
    CHECK(found > 0 && !access("link", F_OK) == 0);
}

/* --- own
 * ------------------------------------------------------------------------------------------ */

static void own(int id) {
    struct stat st;
    CHECK(!setgid((gid_t)id) && !setuid((uid_t)id));
    put("owned", "mine");
    CHECK(has("owned", "mine") && !mkdir("owned folder", 0750) && !symlink("x", "owned link"));
    static const char *const names[] = {"owned", "owned folder", "owned link"};
    for (int i = 0; i < 3; i++) {
        CHECK(!lstat(names[i], &st) && st.st_uid == (uid_t)id && st.st_gid == (gid_t)id);
    }
    put("owned folder/inner", "mine, too");
    FAILS(chown("owned", 0, 0), EPERM);
}

int main(int argc, char **argv) {
    if (argc < 3 || chdir(argv[2])) {
        fprintf(stderr, "usage: fstest posix|model|storm|prowl|own DIR [ARGUMENT...]\n");
        return 2;
    }
    umask(022);
    int number = argc > 3 ? atoi(argv[3]) : 1;
    if (!strcmp(argv[1], "posix")) {
        posix();
    } else if (!strcmp(argv[1], "model")) {
        run_model((uint64_t)number, argc > 4 ? atoi(argv[4]) : 1000);
    } else if (!strcmp(argv[1], "storm")) {
        storm(number);
    } else if (!strcmp(argv[1], "own")) {
        own(number);
    } else {
        prowl(number);
    }
    printf("%s: ok\n", argv[1]);
    return 0;
}
