/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: share DIR [MIB [FILES]]
 * What programs do with a shared folder: one large file, many small ones. Prints "row NAME VALUE
 * UNIT". The guest's caches are dropped before each row that reads, so that the folder itself is
 * measured.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char buf[1 << 20];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void drop(void) {
    int fd = getenv("DROP") ? open("/proc/sys/vm/drop_caches", O_WRONLY) : -1;
    if (fd >= 0) {
        if (write(fd, "3", 1) != 1) {
            perror("drop_caches");
        }
        close(fd);
    }
}

static void row(const char *name, double amount, double begin, const char *unit) {
    printf("row %s %.1f %s\n", name, amount / (now() - begin), unit);
    fflush(stdout);
}

static void large(int mib) {
    drop();
    double begin = now();
    int fd = open("large", O_CREAT | O_TRUNC | O_RDWR, 0644);
    for (int i = 0; i < mib; i++) {
        if (write(fd, buf, sizeof(buf)) != sizeof(buf)) {
            die("write");
        }
    }
    row("write", mib, begin, "MiB/s");
    drop();
    begin = now();
    for (int i = 0; i < mib; i++) {
        if (pread(fd, buf, sizeof(buf), (off_t)i << 20) != sizeof(buf)) {
            die("read");
        }
    }
    row("read", mib, begin, "MiB/s");
    drop();
    begin = now();
    for (int i = 0; i < 2000; i++) {
        off_t page = (off_t)((unsigned)i * 2654435761u % ((unsigned)mib << 8));
        if (pread(fd, buf, 4096, page << 12) != 4096) {
            die("read");
        }
    }
    row("read-4k-random", 2000, begin, "/s");
    close(fd);
    unlink("large");
}

static void small(int files) {
    char name[32];
    struct stat st;
    int n = 0;
    if (mkdir("many", 0755) || chdir("many")) {
        die("mkdir");
    }
    drop();
    double begin = now();
    for (int i = 0; i < files; i++) {
        snprintf(name, sizeof(name), "file%d", i);
        int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || write(fd, name, 8) != 8 || close(fd)) {
            die("create");
        }
    }
    row("create", files, begin, "/s");
    drop();
    begin = now();
    for (int i = 0; i < files; i++) {
        snprintf(name, sizeof(name), "file%d", i);
        if (stat(name, &st)) {
            die("stat");
        }
    }
    row("stat", files, begin, "/s");
    drop();
    begin = now();
    DIR *d = opendir(".");
    for (struct dirent *e; (e = readdir(d));) {
        n += !stat(e->d_name, &st);
    }
    closedir(d);
    row("list", n, begin, "/s");
    drop();
    begin = now();
    for (int i = 0; i < files; i++) {
        snprintf(name, sizeof(name), "file%d", i);
        int fd = open(name, O_RDONLY);
        if (fd < 0 || read(fd, buf, sizeof(buf)) != 8 || close(fd)) {
            die("open");
        }
    }
    row("open-read", files, begin, "/s");
    begin = now();
    for (int i = 0; i < files; i++) {
        snprintf(name, sizeof(name), "file%d", i);
        if (unlink(name)) {
            die("unlink");
        }
    }
    row("unlink", files, begin, "/s");
    if (chdir("..") || rmdir("many")) {
        die("rmdir");
    }
}

int main(int argc, char **argv) {
    if (argc < 2 || chdir(argv[1])) {
        fprintf(stderr, "usage: share DIR [MIB [FILES]]\n");
        return 2;
    }
    memset(buf, 0x5a, sizeof(buf));
    large(argc > 2 ? atoi(argv[2]) : 256);
    small(argc > 3 ? atoi(argv[3]) : 10000);
    return 0;
}
