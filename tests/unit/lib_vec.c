/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib_vec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines/soft/engine.h"
#include "hosts/fake/fake.h"
#include "tests/unit/lib_native.h"

enum { TABLES = 3 * 4096, LARGE_PAGE = 2 << 20, PTE_RW = 3, PTE_LARGE = 0x83 };

struct machine {
    struct engine_vm vm;
    struct engine_vcpu vcpu;
    struct engine_vcpu *vcpus[1];
    struct cpuid_policy policy;
    struct ram ram;
    struct fake_host *fake;
    u8 *tables; /* at guest-physical 0 */
};

static void die(const char *what, const struct err *err) {
    fprintf(stderr, "%s: %s\n", what, err->text);
    exit(1);
}

static void build_tables(struct machine *m, u64 ram_size) {
    u64 *pml4 = (u64 *)(void *)m->tables, *pdpt = pml4 + 512, *pd = pdpt + 512;
    pml4[0] = 4096 | PTE_RW;
    pdpt[NATIVE_RAM >> 30] = 2 * 4096 | PTE_RW;
    for (u64 at = 0; at < ram_size; at += LARGE_PAGE) {
        pd[(NATIVE_RAM + at) >> 21 & 511] = (NATIVE_RAM + at) | PTE_LARGE;
    }
}

static void segment_set(struct segment *s, u16 sel, u32 attr) {
    *s = (struct segment){.sel = sel, .limit = UINT32_MAX, .attr = attr};
}

static void long_mode(struct machine *m, struct cpu_state *s) {
    cpu_state_reset(s, true);
    s->cr0 = CR0_PE | CR0_MP | CR0_NE | CR0_WP | CR0_PG | CR0_ET;
    s->cr3 = 0;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    s->msr.efer = EFER_LME | EFER_LMA | EFER_SCE;
    s->xcr0 = m->policy.xcr0_allowed & (XCR0_X87 | XCR0_SSE | XCR0_AVX);
    segment_set(&s->seg[SEG_CS], 8, 0xa09b);
    for (u32 i = 0; i < SEG_COUNT; i++) {
        if (i != SEG_CS) {
            segment_set(&s->seg[i], 16, 0xc093);
        }
    }
    s->rip = native_rip();
}

struct soft_vcpu *test_vcpu_create(u64 ram_size) {
    struct machine *m = calloc(1, sizeof(*m));
    struct err err = {0};
    struct cpu_state s;
    m->fake = fake_host_create();
    m->tables = aligned_alloc(4096, TABLES);
    memset(m->tables, 0, TABLES);
    build_tables(m, ram_size);
    if (ram_add(&m->ram, 0, TABLES, m->tables, 0) ||
        ram_add(&m->ram, NATIVE_RAM, ram_size, (u8 *)NATIVE_RAM, 0) ||
        cpuid_policy_init(&m->policy, 2000000000, 1, &err)) {
        die("test machine", &err);
    }
    m->vcpus[0] = &m->vcpu;
    m->vm = (struct engine_vm){.ops = &soft_engine_ops,
                               .host = &m->fake->host,
                               .ram = &m->ram,
                               .cpuid = &m->policy,
                               .vcpu_count = 1,
                               .tsc_hz = 2000000000,
                               .vcpus = m->vcpus};
    const char *how = getenv("SOSIA_TEST_TRANSLATOR");
    if (how) {
        m->vm.translator = (struct engine_translator){
            .on = true, .heat = 1, .cache_mib = 1, .audit = true, .verify = !strcmp(how, "verify")};
    }
    m->vcpu.vm = &m->vm;
    if (soft_engine_ops.vm_create(&m->vm, &err) || soft_engine_ops.vcpu_create(&m->vcpu, &err)) {
        die("soft engine", &err);
    }
    memset(&s, 0, sizeof(s));
    long_mode(m, &s);
    if (soft_engine_ops.state_set(&m->vcpu, STATE_ALL, &s)) {
        die("state_set", &err);
    }
    return soft_of(&m->vcpu);
}

void test_vcpu_destroy(struct soft_vcpu *c) {
    struct machine *m = CONTAINER_OF(c->ev, struct machine, vcpu);
    soft_engine_ops.vcpu_destroy(&m->vcpu);
    soft_engine_ops.vm_destroy(&m->vm);
    fake_host_destroy(m->fake);
    free(m->tables);
    free(m);
}

static void uop_stop(struct soft_vcpu *c, const struct uop *u) {
    c->next_rip = c->block_rip + u->offset;
}

static void uop_fill(struct uop *u, const struct insn *insn, struct kept_insn *kept) {
    memset(u, 0, 2 * sizeof(*u));
    *kept = (struct kept_insn){.insn = *insn};
    u[0].insn = &kept->insn;
    u[0].spare = UOP_KEPT;
    u[0].len = insn->len;
    u[0].opsize = insn->opsize;
    u[0].disp = (s32)insn->mem.disp;
    u[0].base = insn->mem.base;
    u[0].index = insn->mem.index;
    u[0].scale_shift = (u8)(insn->mem.scale == 8 ? 3 : insn->mem.scale >> 1);
    u[0].seg = insn->mem.seg;
    u[0].addrsize = insn->addrsize;
    u[1].fn = uop_stop;
    u[1].offset = insn->len;
}

int test_exec(struct soft_vcpu *c, const u8 *code, u32 len) {
    struct insn insn;
    struct uop u[2];
    struct kept_insn kept;
    u8 padded[INSN_MAX_LEN + 1] = {0};
    memcpy(padded, code, len);
    if (insn_decode(&insn, padded, INSN_MAX_LEN, c->mode) != DECODE_OK) {
        return 0x100 | EXC_UD;
    }
    uop_fill(u, &insn, &kept);
    struct bind b = {.c = c, .insn = &insn, .uop = u};
    c->uop = u;
    c->block = NULL;
    c->leave = c->request = 0;
    c->block_rip = native_rip();
    soft_guest_enter(c);
    int r = 0;
    if (soft_setjmp(c->jump)) {
        r = 0x100 | c->fault_vector;
    } else if (bind_string(&b) || bind_vector(&b)) {
        u[0].fn(c, u);
    } else {
        r = -1;
    }
    soft_guest_leave(c);
    soft_vec_leave(c);
    return r;
}
