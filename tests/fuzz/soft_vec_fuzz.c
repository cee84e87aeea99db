/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random instructions on random vector, x87 and general register state, in every mode of the
 * software engine, one at a time: stubs, strings and XSAVE areas must never reach outside guest RAM
 * nor leave the monitor's own state changed.
 *
 *   byte 0 mode | 1 flags: 1 CPL 3, 2 exceptions unmasked, 4 DF, 8 TS, 0x10 registers from input,
 *   0x20 XSAVE area from input, 0x40 no AVX | 64 bytes of code | state
 */
#include "engines/soft/vec.h"
#include "tests/unit/soft_machine.h"

enum { STEPS = 96, CODE_BYTES = 64 };

struct input {
    const u8 *p;
    size_t left;
};

static void part(struct input *in, void *dst, size_t n) {
    size_t take = n < in->left ? n : in->left;
    memcpy(dst, in->p, take);
    in->p += take;
    in->left -= take;
}

static struct sm *machine;

/* Addresses in RAM, at the ends of pages, at the end of RAM, and elsewhere. */
static void set_pointers(struct sm *m, struct input *in, bool random) {
    static const u64 places[] = {SM_DATA,     SM_DATA + 0xff8, SM_DATA + 0x1ff1, SM_RAM - 16,
                                 SM_RAM - 64, SM_CODE + 8,     SM_DATA + 64,     0x7ffffffffff8};
    u8 choice[GPR_COUNT] = {0};
    part(in, choice, sizeof(choice));
    for (u32 i = 0; i < GPR_COUNT; i++) {
        if (i != GPR_RSP) {
            m->s.gpr[i] = places[choice[i] % ARRAY_LEN(places)] + (choice[i] >> 5);
        }
    }
    m->s.gpr[GPR_RCX] = choice[GPR_RCX] * 37u;
    if (random) {
        part(in, m->s.gpr, sizeof(m->s.gpr));
    }
}

static void set_vectors(struct sm *m, struct input *in, u8 flags) {
    u8 *x = m->s.xsave;
    u64 allowed = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    m->s.xcr0 = m->policy.xcr0_allowed & (flags & 0x40 ? XCR0_X87 | XCR0_SSE : allowed);
    part(in, x, XS_MXCSR);
    part(in, x + XS_ST, 64);
    part(in, x + XS_XMM, 64);
    put32(x + XS_MXCSR, flags & 2 ? 0 : MXCSR_DEFAULT);
    if (!(flags & 2)) {
        put16(x + XS_FCW, FCW_DEFAULT);
    }
    put64(x + XS_BV, 7);
    put64(x + XS_XCOMP, 0);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
    struct engine_debug debug = {.enabled = true, .single_step = true};
    struct input in = {data + 2, size - 2};
    u8 code[CODE_BYTES] = {0}, area[640] = {0};
    if (size < 3) {
        return 0;
    }
    struct sm *m = machine = machine ? machine : sm_create();
    enum sm_mode mode = (enum sm_mode)(data[0] % 6);
    u8 flags = data[1];
    sm_setup(m, mode, mode == SM_V86 || ((flags & 1) && mode > SM_PROT16) ? 3 : 0);
    part(&in, code, sizeof(code));
    sm_bytes(m, SM_CODE, code, sizeof(code));
    m->s.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    m->s.cr0 |= flags & 8 ? CR0_TS : 0;
    m->s.rflags |= flags & 4 ? FLAG_DF : 0;
    set_pointers(m, &in, flags & 0x10);
    set_vectors(m, &in, flags);
    if (flags & 0x20) {
        part(&in, area, sizeof(area));
        sm_bytes(m, SM_DATA, area, sizeof(area));
    }
    if (m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s)) {
        return 0;
    }
    m->vm.ops->debug_set(&m->vcpu, &debug);
    for (u32 i = 0; i < STEPS; i++) {
        if (m->vm.ops->run(&m->vcpu, &m->exit) || m->exit.kind != EXIT_DEBUG) {
            break;
        }
    }
    if (m->vm.ops->state_get(&m->vcpu, STATE_ALL, &m->s)) {
        abort();
    }
    return 0;
}
