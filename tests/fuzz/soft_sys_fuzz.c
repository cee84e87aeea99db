/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random code, descriptor tables, task state segments and stacks in every mode of the software
 * engine, for a bounded number of instructions: whatever the guest does, the monitor goes on.
 *
 *   byte 0 mode (6 and 7: long mode with bytes of the state itself replaced) | byte 1 what follows:
 * 1 CPL 3, 2 GDT, 4 IDT, 8 TSS, 0x10 stack, 0x20 page tables, 0x40 RFLAGS, 0x80 control registers |
 * up to 256 bytes of code | 256 bytes for each part
 */
#include "tests/unit/soft_machine.h"

enum { STEPS = 400, PART = 256 };

static struct sm *machine; /* made once; each input starts from sm_setup */

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

static void overlay(struct sm *m, struct input *in, u64 at, u32 n) {
    u8 buf[PART];
    memcpy(buf, m->hram.hva + at, n);
    part(in, buf, n);
    sm_bytes(m, at, buf, n);
}

static void set_registers(struct sm *m, struct input *in, u8 what) {
    u64 v;
    if (what & 0x40) {
        v = 0;
        part(in, &v, 4);
        m->s.rflags = ((v & 0x3f7fd5) | 2) & ~(u64)FLAG_VM;
        if (m->s.seg[SEG_CS].attr == 0xf3) {
            m->s.rflags |= FLAG_VM;
        }
    }
    if (what & 0x80) {
        v = 0;
        part(in, &v, 4);
        m->s.cr0 |= v & (CR0_WP | CR0_AM | CR0_TS | CR0_EM | CR0_MP);
        m->s.cr4 |= v & (CR4_DE | CR4_PSE | CR4_PGE | CR4_TSD | CR4_OSFXSR);
        m->s.dr7 |= v >> 16 & 0xff;
        part(in, m->s.dr, 8);
        part(in, m->s.gpr, 7 * 8 > in->left ? in->left : 7 * 8);
        m->s.gpr[GPR_RSP] = SM_STACK;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
    struct engine_debug debug = {.enabled = true, .single_step = true};
    struct input in = {data + 2, size - 2};
    if (size < 3) {
        return 0;
    }
    struct sm *m = machine = machine ? machine : sm_create();
    bool broken = data[0] % 8 >= 6; /* the state that a damaged snapshot would bring */
    enum sm_mode mode = broken ? SM_LONG : (enum sm_mode)(data[0] % 8);
    u8 what = data[1];
    bool user = (what & 1) && mode != SM_REAL && mode != SM_PROT16;
    sm_setup(m, mode, user || mode == SM_V86 ? 3 : 0);
    overlay(m, &in, SM_CODE, PART);
    static const struct {
        u8 bit;
        u32 at;
    } parts[] = {{2, SM_GDT}, {4, SM_IDT}, {8, SM_TSS}, {0x10, SM_STACK - 128}, {0x20, SM_PT}};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (what & parts[i].bit) {
            overlay(m, &in, parts[i].at, PART);
        }
    }
    set_registers(m, &in, what);
    if (broken) {
        u16 at = 0;
        part(&in, &at, 2);
        part(&in, (u8 *)&m->s + at % (sizeof(m->s) - PART), PART);
    }
    if (m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s)) {
        return 0;
    }
    m->vm.ops->debug_set(&m->vcpu, &debug);
    for (u32 i = 0; i < STEPS; i++) {
        if (m->vm.ops->run(&m->vcpu, &m->exit) || m->exit.kind == EXIT_SHUTDOWN ||
            m->exit.kind == EXIT_ERROR) {
            break;
        }
        if (i % 16 == 15 && m->vm.ops->can_interrupt(&m->vcpu)) {
            m->vm.ops->inject_interrupt(&m->vcpu, (u8)(i * 7));
        }
        if (m->exit.kind == EXIT_DEBUG && m->exit.debug.int3) {
            break;
        }
    }
    return 0;
}
