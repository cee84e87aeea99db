/* SPDX-License-Identifier: Apache-2.0 */
/* The register of running machines: names, claims, what the dead leave, what does not belong there.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/registry.h"

static char base[64];

static int setup(void **state) {
    (void)state;
    snprintf(base, sizeof(base), "/tmp/registry_test.XXXXXX");
    assert_non_null(mkdtemp(base));
    setenv("XDG_RUNTIME_DIR", base, 1);
    return 0;
}

static int teardown(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", base);
    return system(command);
}

static char *in_dir(const char *file) {
    static char path[160];
    snprintf(path, sizeof(path), "%s/sosia/%s", base, file);
    return path;
}

static struct registration *claim(const char *name, bool unique) {
    struct registration *reg = NULL;
    struct err err = {0};
    int rc = registry_claim(name, unique, &reg, &err);
    if (rc) {
        print_message("%s\n", err.text);
    }
    assert_int_equal(rc, 0);
    return reg;
}

static int collect(void *ctx, const char *name, long pid) {
    char *text = ctx;
    (void)pid;
    strcat(strcat(text, name), " ");
    return 0;
}

static void assert_machines(const char *expected) {
    char text[1024] = "";
    assert_int_equal(registry_walk(collect, text, NULL), 0);
    assert_string_equal(text, expected);
}

static void test_names(void **state) {
    char out[REGISTRY_NAME_MAX + 1];
    (void)state;
    assert_true(registry_name_valid("a"));
    assert_true(registry_name_valid("web-1.example_x"));
    assert_false(registry_name_valid(""));
    assert_false(registry_name_valid(".hidden"));
    assert_false(registry_name_valid("-option"));
    assert_false(registry_name_valid("../x"));
    assert_false(registry_name_valid("a b"));
    assert_false(registry_name_valid("a\n"));
    assert_true(registry_name_valid("123456789012345678901234567890123456789012345678"));
    assert_false(registry_name_valid("1234567890123456789012345678901234567890123456789"));
    registry_name_derive("/x/Debian 12.qcow2", out);
    assert_string_equal(out, "Debian-12");
    registry_name_derive("vmlinuz", out);
    assert_string_equal(out, "vmlinuz");
    registry_name_derive("/dir/", out);
    assert_string_equal(out, "machine");
    registry_name_derive("/a/..", out);
    assert_string_equal(out, "machine");
    registry_name_derive("/a/\xff\xfe##..x", out);
    assert_true(registry_name_valid(out));
    registry_name_derive("/a/0123456789012345678901234567890123456789012345678901234567890", out);
    assert_int_equal(strlen(out), 32);
}

static void test_claim(void **state) {
    struct registration *second;
    struct err err = {0};
    (void)state;
    struct registration *a = claim("one", false);
    assert_string_equal(registry_name(a), "one");
    assert_int_equal(registry_claim("one", false, &second, &err), -ERR_EXISTS);
    assert_non_null(strstr(err.text, "one"));
    struct registration *b = claim("one", true), *c = claim("one", true);
    assert_string_equal(registry_name(b), "one-2");
    assert_string_equal(registry_name(c), "one-3");
    assert_machines("one one-2 one-3 ");
    registry_release(b);
    assert_machines("one one-3 ");
    registry_release(a);
    registry_release(c);
    assert_machines("");
    assert_int_equal(access(in_dir("one.ctl"), F_OK), -1);
    assert_int_equal(access(in_dir("one.lock"), F_OK), -1);
    assert_int_equal(registry_claim("a/b", false, &second, NULL), -ERR_INVAL);
}

/* A process that takes a name and dies without giving it back. */
static void leave_dead(const char *name) {
    pid_t child = fork();
    if (!child) {
        struct registration *reg;
        _exit(registry_claim(name, false, &reg, NULL) ? 1 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void test_dead(void **state) {
    (void)state;
    leave_dead("gone");
    assert_int_equal(access(in_dir("gone.ctl"), F_OK), 0);
    assert_int_equal(registry_connect("gone", NULL), -ERR_NOTFOUND);
    assert_int_equal(access(in_dir("gone.ctl"), F_OK), -1);
    leave_dead("gone");
    assert_machines("");
    assert_int_equal(access(in_dir("gone.lock"), F_OK), -1);
    leave_dead("gone");
    registry_release(claim("gone", false)); /* its name is free */
}

static void test_connect(void **state) {
    char pid[32];
    (void)state;
    struct registration *a = claim("one", false);
    assert_int_equal(registry_connect("one", NULL), -ERR_AGAIN); /* does not listen yet */
    assert_int_equal(listen(registry_socket(a), 4), 0);
    int fd = registry_connect("one", NULL);
    assert_true(fd >= 0);
    close(fd);
    snprintf(pid, sizeof(pid), "%ld", (long)getpid());
    fd = registry_connect(pid, NULL);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(registry_connect("two", NULL), -ERR_NOTFOUND);
    assert_int_equal(registry_connect("../one", NULL), -ERR_INVAL);
    registry_release(a);
}

/* Links, folders and other files in the directory: not followed, not believed, no harm. */
static void test_strange_files(void **state) {
    struct registration *reg;
    char victim[128];
    (void)state;
    registry_release(claim("x", false)); /* makes the directory */
    snprintf(victim, sizeof(victim), "%s/victim", base);
    close(open(victim, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(symlink(victim, in_dir("link.lock")), 0);
    assert_int_equal(mkdir(in_dir("folder.lock"), 0700), 0);
    assert_int_equal(mkfifo(in_dir("pipe.lock"), 0600), 0);
    assert_int_equal(mkfifo(in_dir("..lock"), 0600), 0);
    assert_machines("");
    assert_int_equal(registry_claim("link", false, &reg, NULL), -ERR_IO);
    assert_int_equal(registry_claim("folder", false, &reg, NULL), -ERR_IO);
    assert_int_equal(registry_claim("pipe", false, &reg, NULL), -ERR_IO);
    assert_int_equal(registry_connect("link", NULL), -ERR_NOTFOUND);
    assert_int_equal(access(victim, F_OK), 0);
    struct registration *a = claim("plain", false);
    unlink(in_dir("plain.ctl"));
    assert_int_equal(symlink(victim, in_dir("plain.ctl")), 0);
    assert_int_equal(registry_connect("plain", NULL), -ERR_NOTFOUND);
    registry_release(a);
    assert_int_equal(access(victim, F_OK), 0);
}

static void test_bad_directory(void **state) {
    struct registration *reg;
    char path[128];
    (void)state;
    snprintf(path, sizeof(path), "%s/sosia", base);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(chmod(path, 0777), 0); /* others could put things there */
    assert_int_equal(registry_claim("one", false, &reg, NULL), -ERR_PERM);
    assert_int_equal(registry_connect("one", NULL), -ERR_PERM);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink(base, path), 0);
    assert_int_equal(registry_claim("one", false, &reg, NULL), -ERR_PERM);
}

/* The directory's name is longer than a socket's address can be. */
static void test_long_directory(void **state) {
    char path[512];
    (void)state;
    snprintf(path, sizeof(path), "%s/%0150d", base, 7);
    assert_int_equal(mkdir(path, 0700), 0);
    setenv("XDG_RUNTIME_DIR", path, 1);
    struct registration *a = claim("one", false);
    assert_int_equal(listen(registry_socket(a), 4), 0);
    int fd = registry_connect("one", NULL);
    assert_true(fd >= 0);
    close(fd);
    registry_release(a);
}

/* --- records of the end ------------------------------------------------------------------------
 */

static void end_one(const char *name, int status) {
    struct registration *reg = claim(name, false);
    registry_record(reg);
    if (status >= 0) {
        registry_ended(reg, status);
    }
    registry_release(reg);
}

static void test_records(void **state) {
    char name[16];
    int status = -1, kept = 0;
    (void)state;
    assert_int_not_equal(registry_status("a", &status), 0);
    end_one("a", 3);
    assert_int_equal(registry_status("a", &status), 0);
    assert_int_equal(status, 3);
    end_one("a", -1); /* the next one of that name died */
    assert_int_not_equal(registry_status("a", &status), 0);
    assert_int_not_equal(access(in_dir("a.end"), F_OK), 0);
    for (int i = 0; i < 70; i++) {
        snprintf(name, sizeof(name), "m%d", i);
        end_one(name, i);
    }
    registry_prune();
    for (int i = 0; i < 70; i++) {
        snprintf(name, sizeof(name), "m%d", i);
        kept += !registry_status(name, &status);
    }
    assert_int_equal(kept, 64);
}

/* What lies there is not followed and not believed. */
static void test_strange_records(void **state) {
    static const char *const texts[] = {
        "", "3", "256\n", "-1\n", "x\n", "1 \n", "00000000000000001\n"};
    int status = 77;
    (void)state;
    end_one("a", 0);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        FILE *f = fopen(in_dir("b.end"), "w");
        assert_non_null(f);
        fputs(texts[i], f);
        fclose(f);
        assert_int_not_equal(registry_status("b", &status), 0);
    }
    unlink(in_dir("b.end"));
    char target[160];
    snprintf(target, sizeof(target), "%s", in_dir("a.end"));
    assert_int_equal(symlink(target, in_dir("b.end")), 0);
    assert_int_not_equal(registry_status("b", &status), 0);
    assert_int_not_equal(registry_status("../sosia/a", &status), 0);
    assert_int_equal(status, 77);
    assert_int_equal(registry_status("a", &status), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_claim, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strange_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_records, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strange_records, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
