/* SPDX-License-Identifier: Apache-2.0 */
/* ext2, ext3 and ext4 made by mke2fs, in partitions of every kind: every file reads as it was put
 * in. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hosts/fake/fake.h"
#include "image/ext4.h"
#include "tests/unit/lib_memfile.h"

enum { FILES = 60 };

static char dir[64];

static void shell(const char *fmt, ...) {
    char command[1000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof(command), fmt, ap);
    va_end(ap);
    if (system(command)) {
        fail_msg("%s", command);
    }
}

static void file_put(const char *name, u64 size, u64 hole) {
    char path[200];
    snprintf(path, sizeof(path), "%s/root/%s", dir, name);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    for (u64 at = 0; at < size; at += 4096) {
        u8 buf[4096];
        for (u32 i = 0; i < sizeof(buf); i++) {
            buf[i] = (u8)(at / 4096 * 7 + i + size);
        }
        u64 n = MIN(size - at, (u64)sizeof(buf));
        assert_int_equal(pwrite(fd, buf, n, (off_t)(at + hole)), (ssize_t)n);
    }
    close(fd);
}

static void tree_make(void) {
    strcpy(dir, "/tmp/ext4_test.XXXXXX");
    assert_non_null(mkdtemp(dir));
    shell("mkdir -p %s/root/boot/deep/er %s/root/many", dir, dir);
    file_put("boot/vmlinuz-6.1", 3000000, 0);
    file_put("boot/deep/er/small", 10, 0);
    file_put("boot/holes", 500000, 9000000);
    for (u32 i = 0; i < FILES; i++) {
        char name[200];
        snprintf(name, sizeof(name), "many/file-with-a-long-name-%060u", i);
        file_put(name, 100 + i * 333, 0);
    }
    shell("cd %s/root && ln -s boot/vmlinuz-6.1 vmlinuz && ln -s ../boot/deep/er/small many/up && "
          "ln -s loop loop && ln -s /boot/deep/../deep/er boot/abs && ln -s nowhere dangling",
          dir);
}

static struct memfile *file_load(const char *name) {
    struct memfile *m = memfile_create();
    char path[200];
    static u8 buf[1 << 20];
    u64 at = 0;
    ssize_t n;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_RDONLY);
    while ((n = read(fd, buf, sizeof(buf))) > 0) {
        assert_int_equal(file_write(&m->file, at, buf, (size_t)n), 0);
        at += (u64)n;
    }
    close(fd);
    m->file.size = at;
    return m;
}

static void same(const struct ext4 *fs, const char *path) {
    struct ext4_file f;
    char real[300];
    assert_int_equal(ext4_find(fs, path, &f), 0);
    assert_true(ext4_is_file(&f));
    snprintf(real, sizeof(real), "%s/root/%s", dir, path);
    int fd = open(real, O_RDONLY);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(f.size, st.st_size);
    u8 *a = malloc((size_t)f.size), *b = malloc((size_t)f.size);
    assert_int_equal(read(fd, a, (size_t)f.size), f.size);
    assert_int_equal(ext4_read(fs, &f, 0, b, (size_t)f.size), 0);
    assert_memory_equal(a, b, f.size);
    assert_int_equal(ext4_read(fs, &f, f.size, b, 1), -ERR_RANGE);
    free(a);
    free(b);
    close(fd);
}

static void files_check(struct image *im, const struct partition *p) {
    struct ext4 fs;
    struct ext4_file f;
    assert_int_equal(ext4_open(im, p, &fs), 0);
    same(&fs, "boot/vmlinuz-6.1");
    same(&fs, "//boot//deep/er/small");
    same(&fs, "boot/holes");
    same(&fs, "vmlinuz");
    same(&fs, "many/up");
    for (u32 i = 0; i < FILES; i++) {
        char name[200];
        snprintf(name, sizeof(name), "many/file-with-a-long-name-%060u", i);
        same(&fs, name);
    }
    assert_int_equal(ext4_find(&fs, "/boot/abs/small", &f), 0);
    assert_int_equal(f.size, 10);
    assert_int_equal(ext4_find(&fs, "/boot/none", &f), -ERR_NOTFOUND);
    assert_int_equal(ext4_find(&fs, "/dangling", &f), -ERR_NOTFOUND);
    assert_int_equal(ext4_find(&fs, "/loop", &f), -ERR_FORMAT);
    assert_int_equal(ext4_find(&fs, "/boot/holes/x", &f), -ERR_FORMAT);
}

static void one(const char *options, u64 start, const char *table) {
    struct fake_host *fake = fake_host_create();
    struct partition p[PARTITIONS_MAX];
    struct image *im = NULL;
    shell("cd %s && rm -f fs disk && mke2fs -q -F %s -d root fs 40M && truncate -s 60M disk && "
          "dd if=fs of=disk bs=512 seek=%llu conv=notrunc,sparse status=none",
          dir, options, (unsigned long long)start);
    if (table) {
        shell("cd %s && echo '%s' | sfdisk -q disk >/dev/null 2>&1", dir, table);
    }
    struct memfile *m = file_load("disk");
    assert_int_equal(raw_image_open(&fake->host, &m->file, true, &im, NULL), 0);
    u32 count = partitions_find(im, p), i = 0;
    while (i < count && p[i].start != start * 512) {
        i++;
    }
    assert_true(i < count);
    files_check(im, &p[i]);
    im->ops->close(im);
    memfile_destroy(m);
    assert_int_equal(fake->allocated, 0);
    fake_host_destroy(fake);
}

static void test_file_systems(void **state) {
    (void)state;
    tree_make();
    one("-t ext4", 0, NULL);
    one("-t ext4 -b 1024 -O ^64bit", 2048, "label: gpt\nstart=2048,size=100000");
    one("-t ext4 -b 4096 -I 256", 4096, "label: dos\nstart=2048,size=2048\nstart=4096");
    one("-t ext3 -b 1024", 0, NULL);
    one("-t ext2 -b 2048", 8192, "label: dos\nstart=2048,size=100000,type=5\nstart=8192,type=83");
    shell("rm -rf %s", dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_file_systems)};
    if (system("PATH=$PATH:/sbin:/usr/sbin; command -v mke2fs >/dev/null && command -v sfdisk "
               ">/dev/null")) {
        puts("mke2fs or sfdisk is not there");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
