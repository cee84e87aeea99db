/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions in generated code reach the engine's hook, which says where to go on; exceptions from
 * elsewhere go to whoever handled them before. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/lib_host.h"

static struct real_host h;
static struct host_code code;
static struct host_fault seen;
static u32 calls;
static bool refuse;

/* Every piece of code below ends here: ret. */
static bool hook(struct host_fault *f) {
    seen = *f;
    calls++;
    f->rip = (u64)(uintptr_t)code.rx + 1000;
    f->gpr[0] = 0x1234567890abcdef;
    return !refuse;
}

static int setup(void **state) {
    (void)state;
    real_host_setup(&h, false);
    assert_int_equal(h.host->ops->code_alloc(h.host, 4096, &code), 0);
    memset(code.rw, 0xcc, 4096);
    code.rw[1000] = 0xc3;
    calls = 0;
    refuse = false;
    return 0;
}

/* In the test and not in its setup: cmocka puts its own handlers in between. */
static void hook_set(void) {
    assert_int_equal(h.host->ops->fault_hook(h.host, code.rx, code.size, hook), 0);
    h.host->ops->thread_fault_ctx(h.host, &code);
}

static int teardown(void **state) {
    (void)state;
    h.host->ops->fault_unhook(h.host, code.rx);
    h.host->ops->code_free(h.host, &code);
    real_host_teardown(&h);
    return 0;
}

static u64 run_code(const void *bytes, size_t len, u64 arg) {
    u64 (*fn)(u64);
    memcpy(code.rw, bytes, len);
    void *p = code.rx;
    memcpy(&fn, &p, sizeof(fn));
    return fn(arg);
}

static void expect(u32 vector) {
    assert_int_equal(calls, 1);
    assert_int_equal(seen.vector, vector);
    assert_ptr_equal(seen.ctx, &code);
    assert_non_null(seen.fpregs);
}

static void test_no_fault(void **state) {
    (void)state;
    hook_set();
    static const u8 twice[] = {0x48, 0x8d, 0x04, 0x3f, 0xc3}; /* lea rax, [rdi+rdi]; ret */
    assert_int_equal(run_code(twice, sizeof(twice), 21), 42);
    assert_int_equal(calls, 0);
}

static void test_page_fault(void **state) {
    (void)state;
    hook_set();
    static const u8 load[] = {0x90, 0x48, 0x8b, 0x07}; /* nop; mov rax, [rdi] */
    assert_true(run_code(load, sizeof(load), 0x1008) == 0x1234567890abcdef);
    expect(14);
    assert_int_equal(seen.addr, 0x1008);
    assert_int_equal(seen.gpr[7], 0x1008); /* rdi */
    assert_ptr_equal(seen.rip, code.rx + 1);
    assert_int_equal(seen.error & 2, 0);
    static const u8 store[] = {0x48, 0x89, 0x37}; /* mov [rdi], rsi */
    calls = 0;
    run_code(store, sizeof(store), 0x2000);
    expect(14);
    assert_int_equal(seen.error & 2, 2); /* a write */
}

static void test_general_protection(void **state) {
    (void)state;
    hook_set();
    static const u8 load[] = {0x48, 0x8b, 0x07};
    run_code(load, sizeof(load), 0x8000000000000000); /* not canonical */
    expect(13);
    assert_int_equal(seen.addr, 0);
}

static void test_others(void **state) {
    (void)state;
    hook_set();
    static const u8 divide[] = {0x31, 0xd2, 0x48, 0xf7, 0xf7}; /* xor edx, edx; div rdi */
    run_code(divide, sizeof(divide), 0);
    expect(0);
    static const u8 ud2[] = {0x0f, 0x0b};
    calls = 0;
    run_code(ud2, sizeof(ud2), 0);
    expect(6);
    static const u8 hlt[] = {0xf4};
    calls = 0;
    run_code(hlt, sizeof(hlt), 0);
    expect(13);
}

/* The stack pointer of generated code may be anything: the handler has its own stack. */
static void test_bad_stack(void **state) {
    (void)state;
    hook_set();
    /* mov rdx, rsp; mov rsp, rdi; ud2 -- and at the landing: mov rsp, rdx; ret */
    static const u8 swap[] = {0x48, 0x89, 0xe2, 0x48, 0x89, 0xfc, 0x0f, 0x0b};
    static const u8 landing[] = {0x48, 0x89, 0xd4, 0xc3};
    memcpy(code.rw + 1000, landing, sizeof(landing));
    assert_true(run_code(swap, sizeof(swap), 0x10) == 0x1234567890abcdef);
    expect(6);
    assert_int_equal(seen.gpr[4], 0x10);
}

static void thread_fn(void *ctx) {
    static const u8 ud2[] = {0x0f, 0x0b};
    h.host->ops->thread_fault_ctx(h.host, ctx);
    run_code(ud2, sizeof(ud2), 0);
}

static void test_thread(void **state) {
    (void)state;
    hook_set();
    int mine;
    struct host_thread *t = h.host->ops->thread_start(h.host, "fault", thread_fn, &mine);
    assert_non_null(t);
    h.host->ops->thread_join(h.host, t);
    assert_int_equal(calls, 1);
    assert_ptr_equal(seen.ctx, &mine);
}

/* --- what is not ours: in children, since it is deadly -------------------------------------------
 */

static int child_status(void (*fn)(void)) {
    int status = 0;
    pid_t pid = fork();
    if (!pid) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        fn();
        _exit(77);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void plain_crash(void) {
    __asm__ volatile("ud2");
}

static void refused_crash(void) {
    static const u8 ud2[] = {0x0f, 0x0b};
    refuse = true;
    run_code(ud2, sizeof(ud2), 0);
}

static void unhooked_crash(void) {
    static const u8 ud2[] = {0x0f, 0x0b};
    h.host->ops->fault_unhook(h.host, code.rx);
    run_code(ud2, sizeof(ud2), 0);
}

static bool died(int status) {
    return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 77);
}

static void test_crashes(void **state) {
    (void)state;
    signal(SIGILL, SIG_DFL);
    hook_set();
    assert_true(died(child_status(plain_crash)));
    assert_true(died(child_status(refused_crash)));
    assert_true(died(child_status(unhooked_crash)));
}

/* Somebody's handler that was there before the hook gets what is not ours. */
static volatile sig_atomic_t passed;
static sigjmp_buf back;

static void earlier(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    (void)context;
    passed = passed + 1;
    siglongjmp(back, 1);
}

static void test_passed_on(void **state) {
    (void)state;
    struct sigaction sa = {.sa_sigaction = earlier, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGILL, &sa, NULL);
    hook_set();
    passed = 0;
    if (!sigsetjmp(back, 1)) {
        __asm__ volatile("ud2");
    }
    assert_int_equal(passed, 1);
    assert_int_equal(calls, 0);
}

static void test_many_ranges(void **state) {
    (void)state;
    hook_set();
    u32 hooked = 0;
    static u8 area[4096];
    while (hooked < sizeof(area) && !h.host->ops->fault_hook(h.host, area + hooked, 1, hook)) {
        hooked++;
    }
    assert_in_range(hooked, 100, 300); /* bounded, and an error instead of silence */
    for (u32 i = 0; i < hooked; i++) {
        h.host->ops->fault_unhook(h.host, area + i);
    }
    static const u8 ud2[] = {0x0f, 0x0b};
    run_code(ud2, sizeof(ud2), 0);
    expect(6);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_no_fault), T(test_page_fault), T(test_general_protection),
        T(test_others),   T(test_bad_stack),  T(test_thread),
        T(test_crashes),  T(test_passed_on),  T(test_many_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
