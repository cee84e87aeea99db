/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The software engine's engine_ops: machines, vCPUs, RAM, state in and out, injection, the guest's
 * clock, the dirty log. Calls on a vCPU are made by its thread; the machine's calls by any thread
 * while no vCPU is in them.
 */
#include "engines/soft/engine.h"

#include "core/cpu/cpuid.h"
#include "engines/soft/block.h"
#include "engines/soft/smc.h"
#include "engines/soft/tlb.h"
#include "engines/soft/tr.h"
#include "engines/soft/vec.h"
#include "engines/soft/verify.h"

/* --- the machine's clock -----------------------------------------------------------------------
 */

/* a * b >> 32 without losing upper bits */
static u64 scale(u64 a, u64 mult) {
    return (u64)((unsigned __int128)a * mult >> 32);
}

static u64 clock_now(const struct soft_vm *vm) {
    if (vm->tsc_native) {
        return __builtin_ia32_rdtsc();
    }
    return scale(host_now(vm->host), vm->tsc_mult);
}

static void clock_init(struct soft_vm *vm) {
    u64 host_hz = vm->host->ops->tsc_hz(vm->host), hz = vm->ev->tsc_hz ? vm->ev->tsc_hz : host_hz;
    vm->tsc_native = host_hz && host_hz == hz;
    /* hz * 2^32 / 10^9 in two steps of 64 bits */
    vm->tsc_mult = hz / NSEC_PER_SEC << 32;
    vm->tsc_mult += (hz % NSEC_PER_SEC << 32) / NSEC_PER_SEC;
    vm->tsc_start = clock_now(vm);
}

u64 soft_tsc(const struct soft_vcpu *c) {
    return clock_now(c->vm) - c->vm->tsc_start + c->tsc_offset;
}

void soft_tsc_set(struct soft_vcpu *c, u64 value) {
    c->tsc_offset += value - soft_tsc(c);
}

/* The vCPUs of a machine are loaded one after the other, but their counters ran in step when they
 * were saved: an offset within a second of the first vCPU's is taken to be the same. The first one
 * gets what it is given, also in a machine's first second. A state that was read and comes back
 * with the value that it was told sets nothing. Zero, the reset value: in step with the machine. */
static void tsc_load(struct soft_vcpu *c, u64 value, u64 told) {
    struct soft_vm *vm = c->vm;
    if (!value) {
        c->tsc_offset = 0;
        return;
    }
    if (value == told) {
        return;
    }
    u64 offset = value - (clock_now(vm) - vm->tsc_start);
    u64 hz = vm->ev->tsc_hz ? vm->ev->tsc_hz : NSEC_PER_SEC;
    if (c->ev->id == 0) {
        vm->tsc_first_offset = offset;
        vm->tsc_first_valid = true;
    } else if (vm->tsc_first_valid && offset - vm->tsc_first_offset + hz < 2 * hz) {
        offset = vm->tsc_first_offset;
    }
    c->tsc_offset = offset;
}

static u64 soft_tsc_get(struct engine_vcpu *ev) {
    return soft_tsc(soft_of(ev));
}

/* --- machines ----------------------------------------------------------------------------------
 */

static int soft_probe(struct host *host, struct engine_caps *caps, struct err *err) {
    static const char note[] = "software virtualisation (interpreter)";
    (void)host;
    (void)err;
    *caps = (struct engine_caps){.flags = ENGINE_CAP_DIRTY_LOG, .max_vcpus = SOFT_MAX_VCPUS};
    memcpy(caps->note, note, sizeof(note));
    return 0;
}

static void pages_release(struct soft_vm *vm) {
    if (vm->pages) {
        vm->host->ops->pages_free(vm->host, vm->pages, vm->page_count * sizeof(*vm->pages));
    }
    vm->pages = NULL;
    vm->page_count = 0;
}

static void dirty_release(struct soft_vm *vm) {
    if (vm->dirty) {
        vm->host->ops->pages_free(vm->host, vm->dirty, vm->dirty_size);
    }
    vm->dirty = NULL;
    vm->dirty_size = 0;
}

/* RAM changed: no vCPU runs. */
static int pages_renew(struct soft_vm *vm) {
    u64 count = ram_page_count(vm->ram);
    struct smc_page *pages = NULL;
    if (count) {
        pages = vm->host->ops->pages(vm->host, count * sizeof(*pages));
        if (!pages) {
            return -ERR_NOMEM;
        }
    }
    for (u32 i = 0; i < SOFT_MAX_VCPUS; i++) {
        if (vm->vcpu[i]) {
            soft_cache_reset(vm->vcpu[i]);
            soft_tlb_flush_all(vm->vcpu[i]);
        }
    }
    pages_release(vm);
    vm->pages = pages;
    vm->page_count = count;
    return 0;
}

static int soft_vm_create(struct engine_vm *ev, struct err *err) {
    struct soft_vm *vm = host_alloc(ev->host, sizeof(*vm));
    if (!vm) {
        return ERR_SET(err, ERR_NOMEM, "soft engine: no memory for the machine");
    }
    vm->ev = ev;
    vm->host = ev->host;
    vm->ram = ev->ram;
    clock_init(vm);
    int r = soft_vec_pool_create(ev->host, &vm->vec_pool);
    if (!r) {
        r = pages_renew(vm);
    }
    if (r) {
        soft_vec_pool_destroy(ev->host, vm->vec_pool);
        host_free(ev->host, vm, sizeof(*vm));
        return ERR_SET(err, (enum err_code) - r, "soft engine: cannot set up the machine: %s",
                       err_name(r));
    }
    ev->priv = vm;
    ev->ram->written_ctx = vm;
    ev->ram->written = smc_device_wrote;
    return 0;
}

static void soft_vm_destroy(struct engine_vm *ev) {
    struct soft_vm *vm = ev->priv;
    if (!vm) {
        return;
    }
    ev->ram->written = NULL;
    ev->ram->dirty = NULL;
    soft_vec_pool_destroy(vm->host, vm->vec_pool);
    dirty_release(vm);
    pages_release(vm);
    host_free(vm->host, vm, sizeof(*vm));
    ev->priv = NULL;
}

static int soft_ram_map(struct engine_vm *ev, u64 gpa, u64 size, void *hva, u32 flags) {
    (void)gpa;
    (void)size;
    (void)hva;
    (void)flags; /* struct ram has it all */
    return pages_renew(ev->priv);
}

static int soft_ram_unmap(struct engine_vm *ev, u64 gpa, u64 size) {
    (void)gpa;
    (void)size;
    return pages_renew(ev->priv);
}

/* --- dirty log ---------------------------------------------------------------------------------
 */

static int soft_dirty_log(struct engine_vm *ev, bool on) {
    struct soft_vm *vm = ev->priv;
    u64 size = ALIGN_UP(ALIGN_UP(vm->page_count, 64ull) / 8, PAGE_SIZE);
    if (!on) {
        /* Devices may still hold the pointer: the bitmap itself lives as long as the machine. */
        __atomic_store_n(&vm->ram->dirty, NULL, __ATOMIC_SEQ_CST);
        return 0;
    }
    if (vm->dirty_size != size) {
        dirty_release(vm);
        vm->dirty = vm->host->ops->pages(vm->host, size);
        if (!vm->dirty) {
            return -ERR_NOMEM;
        }
        vm->dirty_size = size;
    }
    memset(vm->dirty, 0, size);
    __atomic_store_n(&vm->ram->dirty, vm->dirty, __ATOMIC_SEQ_CST);
    smc_drop_all_writes(vm);
    return 0;
}

/* Bits are taken first and write translations dropped after: a page written through an old
 * translation in between is in the bits taken now, and its bytes are read after this returns. */
static int soft_dirty_get(struct engine_vm *ev, u64 gpa, u64 size, u64 *bitmap) {
    struct soft_vm *vm = ev->priv;
    u64 *dirty = vm->ram->dirty;
    if (!dirty) {
        return -ERR_STATE;
    }
    for (u64 i = 0; i < size >> PAGE_SHIFT; i++) {
        u64 index = ram_page_index(vm->ram, gpa + (i << PAGE_SHIFT));
        if (index >= vm->page_count) {
            return -ERR_RANGE;
        }
        u64 bit = BIT(index % 64);
        if (__atomic_load_n(&dirty[index / 64], __ATOMIC_RELAXED) & bit) {
            __atomic_fetch_and(&dirty[index / 64], ~bit, __ATOMIC_SEQ_CST);
            bitmap[i / 64] |= BIT(i % 64);
        }
    }
    smc_drop_all_writes(vm);
    return 0;
}

/* --- vCPUs -------------------------------------------------------------------------------------
 */

static void soft_vcpu_destroy(struct engine_vcpu *ev) {
    struct soft_vcpu *c = soft_of(ev);
    if (!c) {
        return;
    }
    struct soft_vm *vm = c->vm;
    __atomic_store_n(&vm->vcpu[ev->id], NULL, __ATOMIC_RELEASE);
    if (c->vec) {
        soft_vec_destroy(c, vm->host);
    }
    soft_verify_destroy(c);
    soft_tr_destroy(c);
    soft_cache_destroy(c);
    vm->host->ops->pages_free(vm->host, c, SOFT_ROOM_SIZE);
    ev->priv = NULL;
}

static int vcpu_parts(struct soft_vcpu *c, struct soft_room *room) {
    soft_tlb_create(c, &room->tlb);
    int r = soft_cache_create(c);
    if (!r) {
        r = soft_vec_create(c, c->vm->host, c->vm->vec_pool);
    }
    if (!r && c->vm->ev->translator.on) {
        r = soft_tr_create(c, &room->tr);
    }
    if (!r && c->tr && c->vm->ev->translator.verify && c->vm->ev->vcpu_count == 1) {
        r = soft_verify_create(c);
    }
    return r;
}

static int soft_vcpu_create(struct engine_vcpu *ev, struct err *err) {
    struct soft_vm *vm = ev->vm->priv;
    if (ev->id >= SOFT_MAX_VCPUS) {
        return ERR_SET(err, ERR_RANGE, "soft engine: at most %d vCPUs", SOFT_MAX_VCPUS);
    }
    struct soft_room *room = vm->host->ops->pages(vm->host, SOFT_ROOM_SIZE);
    if (!room) {
        return ERR_SET(err, ERR_NOMEM, "soft engine: no memory for vCPU %u", ev->id);
    }
    struct soft_vcpu *c = &room->vcpu;
    c->ev = ev;
    c->vm = vm;
    c->purge_page = UINT64_MAX;
    ev->priv = c;
    int r = vcpu_parts(c, room);
    if (r) {
        soft_vcpu_destroy(ev);
        return ERR_SET(err, (enum err_code) - r, "soft engine: cannot create vCPU %u: %s", ev->id,
                       err_name(r));
    }
    cpu_state_reset(&c->s, ev->id == 0);
    c->aflags = c->s.rflags;
    c->next_rip = c->s.rip;
    c->uop = &c->cache->fetch;
    soft_vec_state_loaded(c);
    soft_mode_update(c);
    __atomic_store_n(&vm->vcpu[ev->id], c, __ATOMIC_RELEASE);
    return 0;
}

static int soft_vcpu_bind(struct engine_vcpu *ev) {
    (void)ev;
    return 0;
}

static void soft_kick(struct engine_vcpu *ev) {
    soft_request(soft_of(ev), SOFT_REQ_KICK);
}

static void soft_stats(struct engine_vcpu *ev, struct engine_stats *stats) {
    *stats = soft_of(ev)->stats;
    soft_tr_stats(soft_of(ev), &stats->tr);
    stats->instructions += stats->tr.counted.instructions;
    if (soft_of(ev)->verify) {
        stats->verify = soft_of(ev)->verify->stats;
    }
}

/* --- state -------------------------------------------------------------------------------------
 */

static void copy_sregs(struct cpu_state *to, const struct cpu_state *from) {
    memcpy(to->seg, from->seg, sizeof(to->seg));
    to->ldtr = from->ldtr;
    to->tr = from->tr;
    to->gdtr = from->gdtr;
    to->idtr = from->idtr;
    to->cr0 = from->cr0;
    to->cr2 = from->cr2;
    to->cr3 = from->cr3;
    to->cr4 = from->cr4;
    to->cr8 = from->cr8;
    to->msr.efer = from->msr.efer;
    to->msr.apic_base = from->msr.apic_base;
}

static void copy_groups(struct cpu_state *to, const struct cpu_state *from, u64 mask) {
    if (mask & STATE_MSR) {
        to->msr = from->msr;
    }
    if (mask & STATE_GPR) {
        memcpy(to->gpr, from->gpr, sizeof(to->gpr));
        to->rip = from->rip;
        to->rflags = from->rflags;
    }
    if (mask & STATE_SREG) {
        copy_sregs(to, from);
    }
    if (mask & STATE_DEBUG) {
        memcpy(to->dr, from->dr, sizeof(to->dr));
        to->dr6 = from->dr6;
        to->dr7 = from->dr7;
    }
    if (mask & STATE_XSAVE) {
        to->xcr0 = from->xcr0;
        memcpy(to->xsave, from->xsave, sizeof(to->xsave));
    }
    if (mask & STATE_EVENTS) {
        to->events = from->events;
        to->mp_state = from->mp_state;
    }
}

static int soft_state_get(struct engine_vcpu *ev, u64 mask, struct cpu_state *state) {
    struct soft_vcpu *c = soft_of(ev);
    if (mask & STATE_XSAVE) {
        soft_vec_state_store(c);
    }
    c->s.rflags = soft_rflags(c) | 2;
    c->s.msr.tsc = soft_tsc(c);
    copy_groups(state, &c->s, mask);
    return 0;
}

static bool cr_valid(const struct cpu_state *s) {
    const u64 cr4_known = BIT(23) - 1;
    u64 efer = s->msr.efer;
    bool paging = s->cr0 & CR0_PG, lma = efer & EFER_LMA;
    if (s->cr0 >> 32 || (s->cr4 & ~cr4_known) || (s->cr4 & CR4_LA57)) {
        return false;
    }
    if (paging && !(s->cr0 & CR0_PE)) {
        return false;
    }
    if (lma != (paging && (efer & EFER_LME)) || (lma && !(s->cr4 & CR4_PAE))) {
        return false;
    }
    return !(efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)) && s->cr8 < 16;
}

static bool state_valid(const struct soft_vcpu *c, const struct cpu_state *s, u64 mask) {
    bool lma = s->msr.efer & EFER_LMA;
    const u32 cs = s->seg[SEG_CS].attr, both = SEG_ATTR_L | SEG_ATTR_DB;
    if (!cr_valid(s) || (lma && ((cs & both) == both || (s->rflags & FLAG_VM)))) {
        return false;
    }
    if (s->mp_state > MP_INIT_RECEIVED || s->events.exception_vector > 31) {
        return false;
    }
    return !(mask & STATE_XSAVE) || soft_vec_state_check(c, s->xsave, s->xcr0) == 0;
}

static int soft_state_set(struct engine_vcpu *ev, u64 mask, const struct cpu_state *state) {
    const u64 rflags_known = FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT |
                             FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    struct soft_vcpu *c = soft_of(ev);
    struct cpu_state next;
    const u64 tsc_told = c->s.msr.tsc;
    c->s.rflags = soft_rflags(c);
    memcpy(&next, &c->s, sizeof(next));
    copy_groups(&next, state, mask);
    if (!state_valid(c, &next, mask)) {
        return -ERR_INVAL;
    }
    soft_vec_leave(c);
    copy_groups(&c->s, state, mask);
    c->s.rflags = (c->s.rflags & rflags_known) | 2;
    c->aflags = c->s.rflags;
    c->next_rip = c->s.rip;
    if (mask & STATE_XSAVE) {
        soft_vec_state_loaded(c);
    }
    if (mask & STATE_MSR) {
        tsc_load(c, c->s.msr.tsc, tsc_told);
    }
    if (mask & STATE_EVENTS) { /* traps that the old state had earned */
        c->dr6_pending = c->watch_pending = 0;
        c->shadow_fresh = c->step_armed = false;
    }
    soft_mode_update(c);
    if (mask & (STATE_SREG | STATE_MSR | STATE_XSAVE)) {
        soft_tlb_flush_all(c);
    }
    return 0;
}

/* --- events ------------------------------------------------------------------------------------
 */

static bool soft_can_interrupt(struct engine_vcpu *ev) {
    const struct soft_vcpu *c = soft_of(ev);
    const struct cpu_events *e = &c->s.events;
    return (c->s.rflags & FLAG_IF) && !e->shadow && !e->exception_pending && !e->interrupt_pending;
}

static void soft_intr_window(struct engine_vcpu *ev, bool want) {
    soft_of(ev)->window_wanted = want;
}

static void soft_inject_interrupt(struct engine_vcpu *ev, u8 vector) {
    struct cpu_events *e = &soft_of(ev)->s.events;
    e->interrupt_pending = true;
    e->interrupt_soft = false;
    e->interrupt_vector = vector;
}

static void soft_inject_nmi(struct engine_vcpu *ev) {
    soft_of(ev)->s.events.nmi_pending = true;
}

static int soft_inject_exception(struct engine_vcpu *ev, u8 vector, bool has_error, u32 error) {
    struct soft_vcpu *c = soft_of(ev);
    struct cpu_events *e = &c->s.events;
    if (vector > 31) {
        return -ERR_INVAL;
    }
    e->exception_pending = true;
    e->exception_vector = vector;
    e->exception_has_error = has_error;
    e->exception_error = error;
    e->exception_cr2 = c->s.cr2;
    if (vector == EXC_BP) {
        c->s.rip++; /* a trap: the handler returns behind the int3 */
    }
    return 0;
}

static int soft_debug_set(struct engine_vcpu *ev, const struct engine_debug *debug) {
    struct soft_vcpu *c = soft_of(ev);
    c->debug = *debug;
    soft_mode_update(c);
    return 0;
}

const struct engine_ops soft_engine_ops = {
    .name = "soft",
    .probe = soft_probe,
    .cpuid_emulates = BIT(FEATURE_PKU), /* XSAVE images and page walks are the engine's own */
    .vm_create = soft_vm_create,
    .vm_destroy = soft_vm_destroy,
    .ram_map = soft_ram_map,
    .ram_unmap = soft_ram_unmap,
    .dirty_log = soft_dirty_log,
    .dirty_get = soft_dirty_get,
    .vcpu_create = soft_vcpu_create,
    .vcpu_destroy = soft_vcpu_destroy,
    .vcpu_bind = soft_vcpu_bind,
    .run = soft_run,
    .kick = soft_kick,
    .state_get = soft_state_get,
    .state_set = soft_state_set,
    .tsc_get = soft_tsc_get,
    .can_interrupt = soft_can_interrupt,
    .intr_window = soft_intr_window,
    .inject_interrupt = soft_inject_interrupt,
    .inject_nmi = soft_inject_nmi,
    .inject_exception = soft_inject_exception,
    .debug_set = soft_debug_set,
    .stats = soft_stats,
    .idle = soft_idle,
};
