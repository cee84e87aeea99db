/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 against the examples of FIPS 180-4 and between its two implementations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/base/sha256.h"

static void expect(const void *data, size_t size, const char *want) {
    u8 sum[SHA256_SIZE];
    char hex[2 * SHA256_SIZE + 1];
    sha256(data, size, sum);
    for (int i = 0; i < SHA256_SIZE; i++) {
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    }
    assert_string_equal(hex, want);
}

static void test_examples(void **state) {
    (void)state;
    expect("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    expect("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
           "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

/* All lengths around a block, in pieces of all sizes, with and without the instructions. */
static void test_pieces(void **state) {
    u8 data[200], once[SHA256_SIZE], parts[SHA256_SIZE];
    (void)state;
    for (u32 i = 0; i < sizeof(data); i++) {
        data[i] = (u8)(i * 37 + 11);
    }
    for (size_t len = 0; len <= sizeof(data); len++) {
        sha256(data, len, once);
        for (size_t piece = 1; piece < 70; piece += 7) {
            struct sha256 s;
            sha256_init(&s);
            s.fast = s.fast && piece % 2;
            for (size_t at = 0; at < len; at += piece) {
                sha256_update(&s, data + at, MIN(piece, len - at));
            }
            sha256_final(&s, parts);
            assert_memory_equal(once, parts, sizeof(once));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
