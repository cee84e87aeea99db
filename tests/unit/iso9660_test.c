/* SPDX-License-Identifier: Apache-2.0 */
/* The ISO 9660 writer: read back by the standard's structures; a guest mounts one in tests/devices.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image/iso9660.h"

static u32 le32(const u8 *p) {
    return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

/* A number in both orders (7.3.3). */
static u32 both32(const u8 *p) {
    u32 v = le32(p);
    assert_int_equal(p[4], v >> 24);
    assert_int_equal(p[5], (u8)(v >> 16));
    assert_int_equal(p[6], (u8)(v >> 8));
    assert_int_equal(p[7], (u8)v);
    return v;
}

/* Finds name (as stored) in the folder that the descriptor names; its data. */
static const u8 *lookup(const u8 *disk, u64 size, u32 descriptor, const char *name, u32 len,
                        u32 *bytes) {
    const u8 *d = disk + (size_t)descriptor * ISO_SECTOR;
    u32 folder = both32(d + 156 + 2);
    assert_memory_equal(d + 1, "CD001", 5);
    assert_int_equal(both32(d + 80) * (u64)ISO_SECTOR, size);
    const u8 *p = disk + (size_t)folder * ISO_SECTOR, *end = p + ISO_SECTOR;
    while (p < end && p[0]) {
        assert_true(p[0] >= 33u + p[32] && p + p[0] <= end && p[0] % 2 == 0);
        if (p[32] == len && !memcmp(p + 33, name, len)) {
            u32 at = both32(p + 2);
            *bytes = both32(p + 10);
            assert_true((u64)at * ISO_SECTOR + *bytes <= size);
            return disk + (size_t)at * ISO_SECTOR;
        }
        p += p[0];
    }
    return NULL;
}

static void test_files(void **state) {
    (void)state;
    static u8 big[5000];
    memset(big, 'b', sizeof(big));
    const struct iso_file files[] = {{"user-data", big, sizeof(big)},
                                     {"meta-data", "instance-id: x\n", 15},
                                     {"a.txt", "", 0},
                                     {"network-config", big, 2048}};
    u64 size = iso_size("CIDATA", files, 4);
    u32 bytes = 0;
    assert_int_equal(size, (25 + 3 + 1 + 0 + 1) * 2048);
    u8 *disk = calloc(1, size);
    iso_write("CIDATA", files, 4, disk);
    assert_memory_equal(disk + 16 * 2048 + 40, "CIDATA                          ", 32);
    assert_int_equal(disk[18 * 2048], 255);
    const u8 *p = lookup(disk, size, 16, "USER-DATA.;1", 12, &bytes);
    assert_non_null(p);
    assert_int_equal(bytes, sizeof(big));
    assert_memory_equal(p, big, sizeof(big));
    p = lookup(disk, size, 17, "\0m\0e\0t\0a\0-\0d\0a\0t\0a", 18, &bytes);
    assert_non_null(p);
    assert_int_equal(bytes, 15);
    assert_memory_equal(p, "instance-id: x\n", 15);
    assert_non_null(lookup(disk, size, 16, "A.TXT;1", 7, &bytes));
    assert_int_equal(bytes, 0);
    assert_null(lookup(disk, size, 16, "B.TXT;1", 7, &bytes));
    free(disk);
}

static void test_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "", "A", "a/b", "..", ".a", "a.", "a.b.c", "a b", "abcdefghijklmnopqrstuvwxy"};
    struct iso_file f = {"abcdefghijklmnopqrstuvwx", "", 0}, many[ISO_FILES_MAX + 1];
    assert_int_not_equal(iso_size("X", &f, 1), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        f.name = bad[i];
        assert_int_equal(iso_size("X", &f, 1), 0);
    }
    f = (struct iso_file){"a", NULL, 1u << 30};
    assert_int_equal(iso_size("X", &f, 1), 0);
    for (u32 i = 0; i < ARRAY_LEN(many); i++) {
        many[i] = (struct iso_file){"a", "", 0};
    }
    assert_int_equal(iso_size("X", many, ARRAY_LEN(many)), 0);
    assert_int_equal(iso_size("12345678901234567", many, 1), 0);
    assert_int_not_equal(iso_size("1234567890123456", many, 0), 0);
}

/* The most of everything fits the folder's sector. */
static void test_full(void **state) {
    (void)state;
    static char name[ISO_FILES_MAX][ISO_NAME_MAX + 1];
    struct iso_file files[ISO_FILES_MAX];
    u32 bytes = 0;
    for (u32 i = 0; i < ISO_FILES_MAX; i++) {
        memset(name[i], 'z' - (int)i, ISO_NAME_MAX);
        files[i] = (struct iso_file){name[i], &name[i], 4};
    }
    u64 size = iso_size("FULL", files, ISO_FILES_MAX);
    u8 *disk = calloc(1, size);
    iso_write("FULL", files, ISO_FILES_MAX, disk);
    for (u32 i = 0; i < ISO_FILES_MAX; i++) {
        char stored[ISO_NAME_MAX + 3];
        memset(stored, 'Z' - (int)i, ISO_NAME_MAX);
        memcpy(stored + ISO_NAME_MAX, ".;1", 3);
        const u8 *p = lookup(disk, size, 16, stored, sizeof(stored), &bytes);
        assert_non_null(p);
        assert_memory_equal(p, name[i], 4);
    }
    free(disk);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
