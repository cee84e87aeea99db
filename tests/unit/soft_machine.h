/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A one-vCPU machine of the software engine for tests of system instructions, with the descriptor
 * tables and page tables below. Included by one program at a time: it also defines the callouts.
 *
 *   01000 page tables (identity, 2 MiB pages)    05000 GDT        06000 IDT
 *   07000 TSS (mode's own), 07800 second TSS     08000 handlers: vector n at 8000 + 16 n, each HLT
 *   0c000 LDT   10000 code   20000 stack (down from 21000)   22000 RSP0/ESP0 top  24000 IST1 top
 *   30000 user stack top 31000                   40000 data
 */
#ifndef TESTS_UNIT_SOFT_MACHINE_H
#define TESTS_UNIT_SOFT_MACHINE_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cpu/cpuid.h"
#include "core/cpu/msr.h"
#include "core/cpu/state.h"
#include "core/if/callout.h"
#include "core/if/engine.h"
#include "core/mem/ram.h"
#include "engines/soft/engine.h"
#include "hosts/fake/fake.h"

enum {
    SM_RAM = 4 << 20,
    SM_PT = 0x1000,
    SM_GDT = 0x5000,
    SM_IDT = 0x6000,
    SM_TSS = 0x7000,
    SM_TSS2 = 0x7800,
    SM_HANDLER = 0x8000,
    SM_LDT = 0xc000,
    SM_CODE = 0x10000,
    SM_STACK = 0x21000,
    SM_RSP0 = 0x22000,
    SM_IST1 = 0x24000,
    SM_USTACK = 0x31000,
    SM_DATA = 0x40000,
};

/* Selectors in the GDT. SYSCALL base 0x08, SYSRET base 0x20 (cs32, ss, cs64). */
enum {
    SEL_CS64 = 0x08,
    SEL_DS = 0x10,
    SEL_CS32 = 0x18,
    SEL_UCS32 = 0x20,
    SEL_UDS = 0x28,
    SEL_UCS64 = 0x30,
    SEL_CS16 = 0x38,
    SEL_DS16 = 0x40,
    SEL_CONF = 0x48, /* conforming, DPL 0, the mode's code size */
    SEL_TSS = 0x50,  /* two slots */
    SEL_NP_DATA = 0x60,
    SEL_NP_CODE = 0x68,
    SEL_RO = 0x70,   /* read-only data */
    SEL_XO = 0x78,   /* execute-only code */
    SEL_LDT = 0x80,  /* two slots */
    SEL_GATE = 0x90, /* two slots, for call gates */
    SEL_TASKGATE = 0xa0,
    SEL_TSS2 = 0xa8,  /* 32-bit TSS at SM_TSS2 */
    SEL_DS1 = 0xb0,   /* data, DPL 1 */
    SEL_DOWN = 0xb8,  /* expand-down data, limit 0xfff, 32 bit */
    SEL_CS1 = 0xc0,   /* code 32, DPL 1 */
    SEL_UCONF = 0xc8, /* conforming, DPL 3 */
    SM_GDT_LIMIT = 0xff,
};

enum sm_mode { SM_REAL, SM_PROT16, SM_PROT32, SM_LONG, SM_COMPAT, SM_V86 };

struct sm {
    struct fake_host *fake;
    struct host_ram hram;
    struct ram ram;
    struct cpuid_policy policy;
    struct engine_vm vm;
    struct engine_vcpu vcpu;
    struct engine_vcpu *vcpus[1];
    struct cpu_state s;
    struct vm_exit exit;
    u64 cr8;
    u64 msr_deadline;
    u32 tsc_changes;
};

/* --- callouts: ports echo, MMIO is empty -------------------------------------------------------
 */

u32 callout_pio_read(struct engine_vcpu *vcpu, u16 port, u32 size) {
    (void)vcpu, (void)size;
    return port;
}
void callout_pio_write(struct engine_vcpu *vcpu, u16 port, u32 size, u32 value) {
    (void)vcpu, (void)port, (void)size, (void)value;
}
u64 callout_mmio_read(struct engine_vcpu *vcpu, u64 gpa, u32 size) {
    (void)vcpu, (void)gpa, (void)size;
    return UINT64_MAX;
}
void callout_mmio_write(struct engine_vcpu *vcpu, u64 gpa, u32 size, u64 value) {
    (void)vcpu, (void)gpa, (void)size, (void)value;
}
static inline struct sm *sm_of(struct engine_vcpu *vcpu) {
    return CONTAINER_OF(vcpu, struct sm, vcpu);
}
int callout_rdmsr(struct engine_vcpu *vcpu, u32 index, u64 *value) {
    *value = sm_of(vcpu)->msr_deadline;
    return index == MSR_TSC_DEADLINE ? 0 : -ERR_INVAL;
}
int callout_wrmsr(struct engine_vcpu *vcpu, u32 index, u64 value) {
    sm_of(vcpu)->msr_deadline = value;
    return index == MSR_TSC_DEADLINE ? 0 : -ERR_INVAL;
}
u64 callout_cr8_read(struct engine_vcpu *vcpu) {
    return sm_of(vcpu)->cr8;
}
void callout_cr8_write(struct engine_vcpu *vcpu, u64 value) {
    sm_of(vcpu)->cr8 = value;
}
void callout_tsc_changed(struct engine_vcpu *vcpu) {
    sm_of(vcpu)->tsc_changes++;
}

/* --- memory ------------------------------------------------------------------------------------
 */

static inline u64 sm_get(struct sm *m, u64 at, u32 size) {
    u64 v = 0;
    memcpy(&v, m->hram.hva + at, size);
    return v;
}
static inline void sm_put(struct sm *m, u64 at, u32 size, u64 v) {
    memcpy(m->hram.hva + at, &v, size);
    ram_written(&m->ram, at, size);
}
static inline void sm_bytes(struct sm *m, u64 at, const void *p, size_t n) {
    memcpy(m->hram.hva + at, p, n);
    ram_written(&m->ram, at, n);
}

/* Hex digits, spaces ignored; returns the bytes written. */
static inline u32 sm_hex(struct sm *m, u64 at, const char *hex) {
    u8 buf[256];
    u32 n = 0, half = 0, v = 0;
    for (; *hex && n < sizeof(buf); hex++) {
        if (*hex == ' ') {
            continue;
        }
        v = v << 4 | (u32)(*hex <= '9' ? *hex - '0' : (*hex | 32) - 'a' + 10);
        if (++half == 2) {
            buf[n++] = (u8)v;
            half = v = 0;
        }
    }
    sm_bytes(m, at, buf, n);
    return n;
}

/* access: the byte with P, DPL, S, type; flags: G, D, L, AVL as the upper nibble. */
static inline u64 sm_desc(u32 base, u32 limit, u32 access, u32 flags) {
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
           (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}
static inline void sm_gdt(struct sm *m, u16 sel, u64 desc) {
    sm_put(m, SM_GDT + (sel & ~7u), 8, desc);
}

/* A gate; in long mode 16 bytes are written (table entries of 16 bytes). */
static inline void sm_gate(struct sm *m, u64 at, u16 sel, u64 offset, u32 access, u32 low,
                           bool wide) {
    sm_put(m, at, 8,
           (offset & 0xffff) | (u64)sel << 16 | (u64)low << 32 | (u64)access << 40 |
               (offset >> 16 & 0xffff) << 48);
    if (wide) {
        sm_put(m, at + 8, 8, offset >> 32);
    }
}
static inline void sm_idt(struct sm *m, u8 vector, u16 sel, u64 offset, u32 access, u32 ist) {
    bool wide = m->s.msr.efer & EFER_LMA;
    sm_gate(m, SM_IDT + (u64)vector * (wide ? 16 : 8), sel, offset, access, ist, wide);
}

/* --- life --------------------------------------------------------------------------------------
 */

static inline void sm_fail(const char *what) {
    fprintf(stderr, "soft machine: %s\n", what);
    exit(99);
}

/*
 * cmocka puts its own handlers in place of the host's before each test, and tests their own. keep:
 * once, when the engine's are in place. use, drop: around running translated code.
 */
enum sm_signals { SM_SIGNALS_KEEP, SM_SIGNALS_USE, SM_SIGNALS_DROP };

static inline void sm_signals(enum sm_signals what) {
    static const int number[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    static struct sigaction kept[ARRAY_LEN(number)], other[ARRAY_LEN(number)];
    static bool have;
    for (size_t i = 0; i < ARRAY_LEN(number); i++) {
        if (what == SM_SIGNALS_KEEP && !have) {
            sigaction(number[i], NULL, &kept[i]);
        } else if (what == SM_SIGNALS_USE) {
            sigaction(number[i], &kept[i], &other[i]);
        } else if (what == SM_SIGNALS_DROP) {
            sigaction(number[i], &other[i], NULL);
        }
    }
    have = true;
}

/* With SOSIA_TEST_TRANSLATOR in the environment all code is translated at once; when it is
 * "verify", in lock-step with the interpreter. */
static inline struct engine_translator sm_translator(void) {
    const char *how = getenv("SOSIA_TEST_TRANSLATOR");
    u32 verify = how && !strcmp(how, "verify");
    return (struct engine_translator){
        .on = how != NULL, .heat = 1, .cache_mib = 1, .verify = verify, .audit = true};
}

static inline struct sm *sm_create(void) {
    struct sm *m = calloc(1, sizeof(*m));
    struct err err = {0};
    if (!m) {
        exit(99);
    }
    m->fake = fake_host_create();
    if (!m->fake || m->fake->host.ops->ram_alloc(&m->fake->host, SM_RAM, &m->hram) ||
        ram_add(&m->ram, 0, SM_RAM, m->hram.hva, 0)) {
        sm_fail("no memory");
    }
    if (cpuid_policy_init(&m->policy, 2000000000ull, 1, &err)) {
        sm_fail(err.text);
    }
    m->vcpus[0] = &m->vcpu;
    m->vm = (struct engine_vm){.ops = &soft_engine_ops,
                               .host = &m->fake->host,
                               .ram = &m->ram,
                               .cpuid = &m->policy,
                               .vcpu_count = 1,
                               .tsc_hz = 2000000000ull,
                               .vcpus = m->vcpus,
                               .translator = sm_translator()};
    m->vcpu.vm = &m->vm;
    if (m->vm.ops->vm_create(&m->vm, &err) ||
        m->vm.ops->ram_map(&m->vm, 0, SM_RAM, m->hram.hva, 0) ||
        m->vm.ops->vcpu_create(&m->vcpu, &err) || m->vm.ops->vcpu_bind(&m->vcpu)) {
        sm_fail(err.text);
    }
    sm_signals(SM_SIGNALS_KEEP);
    return m;
}

/* Protection keys, whether the host has them or not. */
static inline void sm_offer_pku(struct sm *m) {
    const struct cpu_template t = {.count = 1,
                                   .modifier = {{.leaf = 7, .reg = 2, .mask = 8, .value = 8}}};
    cpuid_policy_emulate(&m->policy, m->vm.ops->cpuid_emulates, &t, NULL);
    if (!cpuid_policy_has(&m->policy, "pku")) {
        sm_fail("no protection keys");
    }
}

static inline void sm_destroy(struct sm *m) {
    m->vm.ops->vcpu_destroy(&m->vcpu);
    m->vm.ops->vm_destroy(&m->vm);
    m->fake->host.ops->ram_free(&m->fake->host, &m->hram);
    fake_host_destroy(m->fake);
    free(m);
}

/* --- set-up of the modes -----------------------------------------------------------------------
 */

static inline void sm_seg(struct sm *m, u8 seg, u16 sel, u32 attr, u32 limit) {
    m->s.seg[seg] = (struct segment){.sel = sel, .attr = attr, .limit = limit};
}

static inline void sm_tables(struct sm *m, bool wide) {
    u32 d = wide ? 2 : 4; /* L or D for the mode's own code */
    memset(m->hram.hva, 0, SM_RAM);
    ram_written(&m->ram, 0, SM_RAM);
    sm_put(m, SM_PT, 8, (SM_PT + 0x1000) | 7);
    sm_put(m, SM_PT + 0x1000, 8, (SM_PT + 0x2000) | 7);
    sm_put(m, SM_PT + 0x2000, 8, 0x87);
    sm_put(m, SM_PT + 0x2008, 8, 0x200087);
    sm_gdt(m, SEL_CS64, sm_desc(0, 0xfffff, 0x9b, 0xa));
    sm_gdt(m, SEL_DS, sm_desc(0, 0xfffff, 0x93, 0xc));
    sm_gdt(m, SEL_CS32, sm_desc(0, 0xfffff, 0x9b, 0xc));
    sm_gdt(m, SEL_UCS32, sm_desc(0, 0xfffff, 0xfb, 0xc));
    sm_gdt(m, SEL_UDS, sm_desc(0, 0xfffff, 0xf3, 0xc));
    sm_gdt(m, SEL_UCS64, sm_desc(0, 0xfffff, 0xfb, 0xa));
    sm_gdt(m, SEL_CS16, sm_desc(0, 0xfffff, 0x9b, 0x8));
    sm_gdt(m, SEL_DS16, sm_desc(0, 0xfffff, 0x93, 0x8));
    sm_gdt(m, SEL_CONF, sm_desc(0, 0xfffff, 0x9f, 0x8 | d));
    sm_gdt(m, SEL_UCONF, sm_desc(0, 0xfffff, 0xff, 0x8 | d));
    sm_gdt(m, SEL_TSS, sm_desc(SM_TSS, 0x67, 0x8b, 0));
    sm_gdt(m, SEL_NP_DATA, sm_desc(0, 0xfffff, 0x13, 0xc));
    sm_gdt(m, SEL_NP_CODE, sm_desc(0, 0xfffff, 0x1b, 0x8 | d));
    sm_gdt(m, SEL_RO, sm_desc(0, 0xfffff, 0x91, 0xc));
    sm_gdt(m, SEL_XO, sm_desc(0, 0xfffff, 0x99, 0x8 | d));
    sm_gdt(m, SEL_LDT, sm_desc(SM_LDT, 0x7f, 0x82, 0));
    sm_gdt(m, SEL_TSS2, sm_desc(SM_TSS2, 0x67, 0x89, 0));
    sm_gdt(m, SEL_DS1, sm_desc(0, 0xfffff, 0xb3, 0xc));
    sm_gdt(m, SEL_DOWN, sm_desc(0, 0xfff, 0x97, 0x4));
    sm_gdt(m, SEL_CS1, sm_desc(0, 0xfffff, 0xbb, 0x8 | d));
    memset(m->hram.hva + SM_HANDLER, 0xf4, 0x1000);
    if (wide) {
        sm_put(m, SM_TSS + 4, 8, SM_RSP0);
        sm_put(m, SM_TSS + 12, 8, SM_RSP0 + 0x800);
        sm_put(m, SM_TSS + 36, 8, SM_IST1);
    } else {
        sm_put(m, SM_TSS + 4, 4, SM_RSP0);
        sm_put(m, SM_TSS + 8, 4, SEL_DS);
        sm_put(m, SM_TSS + 12, 4, SM_RSP0 + 0x800);
        sm_put(m, SM_TSS + 16, 4, SEL_DS1 | 1);
    }
    sm_put(m, SM_TSS + 102, 2, 104);
}

static inline void sm_vectors(struct sm *m, enum sm_mode mode) {
    bool wide = mode == SM_LONG || mode == SM_COMPAT;
    for (u32 v = 0; v < 256; v++) {
        u64 at = SM_HANDLER + v * 16;
        if (mode == SM_REAL) {
            sm_put(m, v * 4, 4, (at & 0xffff) | (at >> 4 & 0xf000) << 16);
        } else {
            sm_idt(m, (u8)v, wide ? SEL_CS64 : SEL_CS32, at, 0x8e, 0);
        }
    }
}

/* Page-table addresses collide with nothing; real mode's vectors are at 0. */
static inline void sm_setup(struct sm *m, enum sm_mode mode, u32 cpl) {
    bool wide = mode == SM_LONG || mode == SM_COMPAT;
    struct cpu_state *s = &m->s;
    memset(s, 0, sizeof(*s));
    cpu_state_reset(s, true);
    sm_tables(m, wide);
    u32 dpl = cpl << 5;
    s->cr0 = CR0_ET | CR0_NE | CR0_MP;
    s->rflags = 2;
    s->rip = SM_CODE;
    s->gpr[GPR_RSP] = cpl ? SM_USTACK : SM_STACK;
    s->gdtr = (struct desc_table){SM_GDT, SM_GDT_LIMIT};
    s->idtr = (struct desc_table){SM_IDT, wide ? 0xfff : 0x7ff};
    s->msr.efer = EFER_NXE;
    if (mode == SM_REAL) {
        s->idtr = (struct desc_table){0, 0x3ff};
        for (u32 i = 0; i < SEG_COUNT; i++) {
            sm_seg(m, (u8)i, 0, 0x93, 0xffff);
        }
        s->seg[SEG_CS].base = SM_CODE;
        s->seg[SEG_CS].sel = SM_CODE >> 4;
        s->seg[SEG_SS].base = 0x20000;
        s->seg[SEG_SS].sel = 0x2000;
        s->rip = 0;
        s->gpr[GPR_RSP] = 0x1000;
    } else {
        s->cr0 |= CR0_PE;
        u16 ds = cpl ? SEL_UDS | 3 : SEL_DS;
        for (u32 i = 0; i < SEG_COUNT; i++) {
            sm_seg(m, (u8)i, ds, 0xc093 | dpl, 0xffffffff);
        }
        s->tr = (struct segment){.sel = SEL_TSS, .base = SM_TSS, .limit = 0x67, .attr = 0x8b};
        s->ldtr = (struct segment){.sel = SEL_LDT, .base = SM_LDT, .limit = 0x7f, .attr = 0x82};
        if (mode == SM_PROT32 || mode == SM_COMPAT) {
            sm_seg(m, SEG_CS, cpl ? SEL_UCS32 | 3 : SEL_CS32, 0xc09b | dpl, 0xffffffff);
        } else if (mode == SM_PROT16) {
            sm_seg(m, SEG_CS, SEL_CS16, 0x809b, 0xffffffff);
            sm_seg(m, SEG_SS, SEL_DS16, 0x8093, 0xffffffff);
            s->gpr[GPR_RSP] = 0x3000;
        } else if (mode == SM_LONG) {
            sm_seg(m, SEG_CS, cpl ? SEL_UCS64 | 3 : SEL_CS64, 0xa09b | dpl, 0xffffffff);
        }
    }
    if (mode == SM_V86) {
        for (u32 i = 0; i < SEG_COUNT; i++) {
            sm_seg(m, (u8)i, 0, 0xf3, 0xffff);
        }
        s->seg[SEG_CS].base = SM_CODE;
        s->seg[SEG_CS].sel = SM_CODE >> 4;
        s->seg[SEG_SS].base = 0x30000;
        s->seg[SEG_SS].sel = 0x3000;
        s->rip = 0;
        s->gpr[GPR_RSP] = 0x1000;
        s->rflags = 2 | FLAG_VM;
    }
    if (wide) {
        s->cr0 |= CR0_PG | CR0_WP;
        s->cr4 = CR4_PAE | CR4_OSFXSR;
        s->cr3 = SM_PT;
        s->msr.efer |= EFER_LME | EFER_LMA | EFER_SCE;
    }
    sm_vectors(m, mode);
}

/* Runs from m->s until something happens; m->s is then the state after it. */
/* Goes on from where the vCPU stands. */
static inline enum exit_kind sm_more(struct sm *m) {
    bool swap = m->vm.translator.on;
    if (swap) {
        sm_signals(SM_SIGNALS_USE);
    }
    int rc = m->vm.ops->run(&m->vcpu, &m->exit);
    if (swap) {
        sm_signals(SM_SIGNALS_DROP);
    }
    if (rc || m->vm.ops->state_get(&m->vcpu, STATE_ALL, &m->s)) {
        sm_fail("run failed");
    }
    if (m->exit.kind == EXIT_ERROR) { /* lock-step found a difference */
        fputs(m->fake->log, stderr);
        sm_fail(m->exit.error.text);
    }
    return m->exit.kind;
}

static inline enum exit_kind sm_run(struct sm *m) {
    if (m->vm.ops->state_set(&m->vcpu, STATE_ALL, &m->s)) {
        sm_fail("state_set refused the state");
    }
    memset(&m->exit, 0xcc, sizeof(m->exit));
    return sm_more(m);
}

/* Which handler stopped the machine; -1: none. */
static inline int sm_vector(const struct sm *m) {
    u64 rip = m->s.rip - 1;
    if (m->exit.kind != EXIT_HLT || m->s.seg[SEG_CS].base || rip < SM_HANDLER ||
        rip >= SM_HANDLER + 0x1000) {
        return -1;
    }
    return (int)((rip - SM_HANDLER) / 16);
}

/* Puts words of size bytes on the stack before the machine runs. */
static inline void sm_push_frame(struct sm *m, u32 size, const u64 *words, u32 count) {
    m->s.gpr[GPR_RSP] -= (u64)size * count;
    for (u32 i = 0; i < count; i++) {
        sm_put(m, m->s.seg[SEG_SS].base + m->s.gpr[GPR_RSP] + i * size, size, words[i]);
    }
}

/* Word n (0: top) of the stack, in frames of size bytes. */
static inline u64 sm_frame(struct sm *m, u32 n, u32 size) {
    return sm_get(m, m->s.seg[SEG_SS].base + m->s.gpr[GPR_RSP] + n * size, size);
}

#endif
