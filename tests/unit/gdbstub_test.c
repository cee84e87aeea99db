/* SPDX-License-Identifier: Apache-2.0 */
/* The debugger's stub against the mock engine: framing, registers, memory, breakpoints, threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/vm/gdbstub.h"
#include "hosts/fake/fake.h"
#include "tests/unit/lib_mock.h"

struct fixture {
    struct fake_host *fake;
    struct vm *vm;
    struct gdbstub *g;
    struct err err;
    char out[65536];
    size_t len;
};

static void on_send(void *ctx, const u8 *data, size_t len) {
    struct fixture *f = ctx;
    assert_true(f->len + len < sizeof(f->out));
    memcpy(f->out + f->len, data, len);
    f->len += len;
    f->out[f->len] = 0;
}

static struct fixture *begin(u32 vcpus, mock_script script) {
    struct fixture *f = calloc(1, sizeof(*f));
    mock = (struct mock_setup){.script = script};
    f->fake = fake_host_create();
    struct vm_params p = {
        .host = &f->fake->host, .engine = &mock_engine_ops, .vcpus = vcpus, .memory = 4 * MIB};
    assert_int_equal(vm_create(&p, &f->vm, &f->err), 0);
    for (u32 i = 0; i < vcpus; i++) { /* all run from the start, flat and without paging */
        struct cpu_state s;
        cpu_state_reset(&s, true);
        s.gpr[GPR_RBX] = 0x1122334455667788 + i;
        s.rip = 0x1000;
        memset(s.xsave + 512, 0, 8); /* x87, SSE and AVX in their initial state */
        assert_int_equal(vcpu_state_set(&f->vm->vcpus[i], STATE_ALL, &s), 0);
    }
    assert_int_equal(gdbstub_create(f->vm, on_send, f, &f->g, &f->err), 0);
    return f;
}

static void end(struct fixture *f) {
    gdbstub_destroy(f->g);
    vm_destroy(f->vm);
    fake_run_posted(f->fake);
    assert_int_equal(f->fake->allocated, 0);
    fake_host_destroy(f->fake);
    free(f);
}

/* Sends a packet and returns the reply's payload ("" when none came). */
static const char *ask(struct fixture *f, const char *payload) {
    static char packet[40000], answer[65536];
    u8 sum = 0;
    for (const char *p = payload; *p; p++) {
        sum = (u8)(sum + (u8)*p);
    }
    int n = snprintf(packet, sizeof(packet), "$%s#%02x", payload, sum);
    f->len = 0;
    f->out[0] = 0;
    gdbstub_input(f->g, (const u8 *)packet, (size_t)n);
    const char *start = strchr(f->out, '$'), *stop = start ? strchr(start, '#') : NULL;
    if (!stop) {
        return "";
    }
    memcpy(answer, start + 1, (size_t)(stop - start - 1));
    answer[stop - start - 1] = 0;
    return answer;
}

static void test_framing(void **state) {
    struct fixture *f = begin(1, NULL);
    (void)state;
    gdbstub_connected(f->g);
    assert_string_equal(ask(f, "?"), "T05thread:1;");
    assert_int_equal(f->out[0], '+');
    f->len = 0;
    gdbstub_input(f->g, (const u8 *)"$?#00", 5);
    assert_string_equal(f->out, "-");
    f->len = 0;
    gdbstub_input(f->g, (const u8 *)"-", 1); /* again, please */
    assert_memory_equal(f->out, "$T05thread:1;#", 14);
    assert_string_equal(ask(f, "QStartNoAckMode"), "OK");
    ask(f, "?");
    assert_int_equal(f->out[0], '$');
    assert_string_equal(ask(f, "vMustReplyEmpty"), "");
    assert_non_null(strstr(f->out, "$#00"));
    assert_non_null(strstr(ask(f, "qSupported:multiprocess+"), "PacketSize=3ffc"));
    end(f);
}

static void test_target(void **state) {
    struct fixture *f = begin(1, NULL);
    char xml[20000], request[64];
    size_t n = 0, regs = 0;
    (void)state;
    gdbstub_connected(f->g);
    for (;;) {
        snprintf(request, sizeof(request), "qXfer:features:read:target.xml:%zx,3e0", n);
        const char *part = ask(f, request);
        assert_true(part[0] == 'm' || part[0] == 'l');
        strcpy(xml + n, part + 1);
        n += strlen(part + 1);
        if (part[0] == 'l') {
            break;
        }
    }
    assert_non_null(strstr(xml, "<reg name=\"rax\""));
    assert_non_null(strstr(xml, "<reg name=\"ymm15h\""));
    assert_non_null(strstr(xml, "</feature></target>"));
    for (const char *p = xml; (p = strstr(p, "<reg ")); p++) {
        regs++;
    }
    assert_int_equal(regs, 16 + 1 + 1 + 6 + 8 + 8 + 16 + 1 + 1 + 2 + 16 + 7);
    assert_string_equal(ask(f, "qXfer:features:read:target.xml:ffffffffffffffff,10"), "l");
    assert_string_equal(ask(f, "qXfer:features:read:other.xml:0,10"), "E01");
    end(f);
}

static void test_registers(void **state) {
    struct fixture *f = begin(2, NULL);
    (void)state;
    gdbstub_connected(f->g);
    assert_string_equal(ask(f, "p1"), "8877665544332211");
    assert_string_equal(ask(f, "Hg2"), "OK");
    assert_string_equal(ask(f, "p1"), "8977665544332211");
    assert_int_equal(strlen(ask(f, "g")),
                     2 * (17 * 8 + 4 * 7 + 80 + 32 + 256 + 4 + 8 + 16 + 256 + 56));
    assert_string_equal(ask(f, "P0=efcdab8967452301"), "OK");
    assert_int_equal(mock_of(&f->vm->vcpus[1].engine)->s.gpr[GPR_RAX], 0x0123456789abcdef);
    assert_string_equal(ask(f, "p20"), "7f030000"); /* fctrl */
    assert_string_equal(ask(f, "p22"), "ffff0000"); /* ftag: all empty */
    assert_string_equal(ask(f, "p28"), "00000000000000000000000000000000");
    assert_string_equal(ask(f, "P28=000102030405060708090a0b0c0d0e0f"), "OK");
    assert_string_equal(ask(f, "p28"), "000102030405060708090a0b0c0d0e0f");
    assert_string_equal(ask(f, "p20"), "7f030000");
    assert_string_equal(ask(f, "P0=12"), "E16");
    assert_string_equal(ask(f, "p999"), "E16");
    assert_string_equal(ask(f, "pzz"), "E16");
    assert_string_equal(ask(f, "G11"), "E16");
    end(f);
}

static void test_memory(void **state) {
    struct fixture *f = begin(1, NULL);
    (void)state;
    gdbstub_connected(f->g);
    assert_string_equal(ask(f, "M2000,4:deadbeef"), "OK");
    assert_string_equal(ask(f, "m1ffe,8"), "0000deadbeef0000");
    assert_string_equal(ask(f, "X2000,2:a}\x03"), "OK"); /* } escapes # */
    assert_string_equal(ask(f, "m2000,2"), "6123");
    assert_string_equal(ask(f, "X2000,0:"), "OK");
    assert_string_equal(ask(f, "m400000,4"), "E0e");
    assert_string_equal(ask(f, "m3ffffe,4"), "0000");
    assert_string_equal(ask(f, "Mfffffffffffffffe,4:00000000"), "E0e");
    assert_string_equal(ask(f, "M2000,4:de"), "E01");
    assert_string_equal(ask(f, "M2000,2:zzzz"), "E0e");
    assert_string_equal(ask(f, "m2000"), "E01");
    assert_int_equal(strlen(ask(f, "m0,ffffffffffffffff")), 16384);
    end(f);
}

static void test_breakpoints(void **state) {
    struct fixture *f = begin(2, NULL);
    (void)state;
    gdbstub_connected(f->g);
    u8 *code = ram_ptr(&f->vm->ram, 0x1000, 16);
    memset(code, 0x90, 16);
    assert_string_equal(ask(f, "Z0,1004,1"), "OK");
    assert_int_equal(code[4], 0xcc);
    assert_string_equal(ask(f, "m1003,3"), "909090"); /* hidden */
    assert_string_equal(ask(f, "M1004,1:f4"), "OK");
    assert_int_equal(code[4], 0xcc);
    assert_string_equal(ask(f, "z0,1004,1"), "OK");
    assert_int_equal(code[4], 0xf4);
    assert_string_equal(ask(f, "Z0,ffff0000,1"), "E16");

    assert_string_equal(ask(f, "Z2,2000,8"), "OK");
    assert_string_equal(ask(f, "Z1,3000,1"), "OK");
    assert_string_equal(ask(f, "Z4,4004,4"), "OK");
    assert_string_equal(ask(f, "Z3,5000,2"), "OK");
    assert_string_equal(ask(f, "Z1,6000,1"), "E16"); /* there are four */
    assert_string_equal(ask(f, "z1,3000,1"), "OK");
    assert_string_equal(ask(f, "Z2,2001,2"), "E16"); /* not aligned */
    assert_string_equal(ask(f, "Z9,1,1"), "");
    assert_string_equal(ask(f, "vCont;s:2"), "");
    const struct engine_debug *d = &mock_of(&f->vm->vcpus[1].engine)->debug;
    assert_true(d->enabled && d->single_step);
    assert_int_equal(d->dr[0], 0x2000);
    assert_int_equal(d->dr7, 0x2 | 0x20 | 0x80 | 0x9ull << 16 | 0xfull << 24 | 0x7ull << 28);
    assert_false(mock_of(&f->vm->vcpus[0].engine)->debug.single_step);
    assert_true(f->vm->vcpus[0].hold);
    gdbstub_disconnected(f->g);
    assert_false(mock_of(&f->vm->vcpus[1].engine)->debug.enabled);
    assert_false(f->vm->vcpus[0].hold);
    end(f);
}

/* Meets an int3 at 0x1004 once, then idles. */
static int script_int3(struct engine_vcpu *vcpu, struct mock_vcpu *m, struct vm_exit *exit) {
    if (vcpu->id == 1 && MOCK_BUMP(m->step) == 0) {
        exit->kind = EXIT_DEBUG;
        exit->debug.rip = 0x1004;
        exit->debug.int3 = true;
        return 0;
    }
    return mock_idle(vcpu, m, exit);
}

static void wait_for_stop(struct fixture *f) {
    for (u32 n = 0; !strchr(f->out, '#') && n < 5000000; n++) {
        fake_run_posted(f->fake);
        sched_yield();
    }
}

static void test_run(void **state) {
    struct fixture *f = begin(3, script_int3);
    (void)state;
    gdbstub_connected(f->g);
    assert_int_equal(vm_start(f->vm, &f->err), 0);
    assert_string_equal(ask(f, "QStartNoAckMode"), "OK");
    assert_string_equal(ask(f, "Z0,1004,1"), "OK");
    assert_string_equal(ask(f, "vCont;c"), "");
    wait_for_stop(f);
    assert_memory_equal(f->out, "$T05thread:2;swbreak:;#", 23);
    for (u32 i = 0; i < 3; i++) {
        assert_int_equal(f->vm->vcpus[i].state, VCPU_PARKED);
    }
    assert_string_equal(ask(f, "qC"), "QC2");
    assert_string_equal(ask(f, "c"), "");
    assert_string_equal(ask(f, "g"), ""); /* not while it runs */
    f->len = 0;
    gdbstub_input(f->g, (const u8 *)"\x03", 1);
    assert_memory_equal(f->out, "$T02thread:2;#", 14);
    assert_string_equal(ask(f, "s"), "");
    assert_int_equal(f->vm->vcpus[0].hold, 1);
    gdbstub_input(f->g, (const u8 *)"\x03", 1);
    assert_string_equal(ask(f, "D"), "OK");
    assert_int_equal(f->vm->pause_count, 0);
    gdbstub_connected(f->g);
    assert_string_equal(ask(f, "c"), "");
    vm_stop(f->vm, STOP_POWEROFF, 0, "off");
    assert_true(vm_wait(f->vm, HOST_FOREVER));
    f->len = 0;
    gdbstub_exited(f->g, 0);
    assert_non_null(strstr(f->out, "$W00#"));
    assert_string_equal(ask(f, "c"), "W00");
    end(f);
}

static void test_threads(void **state) {
    struct fixture *f = begin(40, NULL);
    (void)state;
    gdbstub_connected(f->g);
    assert_memory_equal(ask(f, "qfThreadInfo"), "m1,2,3,4,5,6,7,8,9,a,b", 22);
    assert_string_equal(ask(f, "qsThreadInfo"), "m21,22,23,24,25,26,27,28");
    assert_string_equal(ask(f, "qsThreadInfo"), "l");
    assert_string_equal(ask(f, "T28"), "OK");
    assert_string_equal(ask(f, "T29"), "E16");
    assert_string_equal(ask(f, "Hc-1"), "OK");
    assert_string_equal(ask(f, "Hg99"), "E16");
    assert_string_equal(ask(f, "Hgp1.2"), "OK");
    assert_string_equal(ask(f, "qC"), "QC2");
    /* "CPU#0 [running]" */
    assert_string_equal(ask(f, "qThreadExtraInfo,1"), "4350552330205b72756e6e696e675d");
    assert_string_equal(ask(f, "vCont?"), "vCont;c;C;s;S");
    assert_string_equal(ask(f, "vCont;x"), "E01");
    assert_string_equal(ask(f, "vCont"), "E01");
    assert_string_equal(ask(f, "k"), "");
    assert_int_equal(vm_stop_get(f->vm).reason, STOP_USER);
    end(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_framing),     cmocka_unit_test(test_target),
        cmocka_unit_test(test_registers),   cmocka_unit_test(test_memory),
        cmocka_unit_test(test_breakpoints), cmocka_unit_test(test_run),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
