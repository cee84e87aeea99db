/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads and stores, the slow path: page crossings, registers in memory, code pages, watchpoints,
 * alignment checks; segment arithmetic; stacks; locked operations. The fast path is mem.h.
 *
 * An access is resolved first, both pages when it crosses one: that raises all faults. Only then
 * anything is read or written.
 * Intel SDM volume 3, sections 5.3 (limits), 5.4 (types), 6.15 (#AC); volume 1, section 3.3.7
 * (canonical addresses).
 */
#include "engines/soft/mem.h"

#include "core/if/callout.h"
#include "engines/soft/block.h"
#include "engines/soft/smc.h"
#include "engines/soft/verify.h"

static bool is_canonical(u64 a) {
    return (u64)((s64)(a << 16) >> 16) == a;
}

/* --- resolving ---------------------------------------------------------------------------------
 */

static void resolve(struct soft_vcpu *c, u64 linear, u32 size, enum access access,
                    enum mmu_index mmu, struct mem_at *at) {
    u64 phys;
    struct tlb_entry *e = soft_tlb_get(c, linear, access, mmu, &phys);
    bool write = access != ACCESS_READ;
    at->gpa = (phys & ~PAGE_MASK) | (linear & PAGE_MASK);
    at->host = phys & PHYS_MMIO ? NULL : (u8 *)(uintptr_t)(linear + e->addend);
    at->size = size;
    at->rom = phys & PHYS_ROM;
    at->slow = write && (e->write & TLB_SLOW);
    at->entry = e;
    if (UNLIKELY(c->verify)) {
        soft_verify_access(c, write, at);
    }
}

/* Intel SDM volume 3, table 6-7. 10 bytes: x87; 14, 94 and 28, 108: its environment and state. */
static void check_alignment(struct soft_vcpu *c, u64 linear, u32 size) {
    u32 align = size <= 8                   ? size
                : size == 10                ? 8
                : size == 28 || size == 108 ? 4
                : size == 14 || size == 94  ? 2
                                            : 1;
    if (linear & (align - 1)) {
        soft_fault(c, EXC_AC, true, 0);
    }
}

/* Raises what the access would raise; does not count as one for watchpoints. */
static void probe_span(struct soft_vcpu *c, u64 linear, u32 size, enum access access,
                       enum mmu_index mmu, struct mem_span *span) {
    u32 room = (u32)(PAGE_SIZE - (linear & PAGE_MASK));
    if (UNLIKELY(c->align_check) && mmu == MMU_USER) {
        check_alignment(c, linear, size);
    }
    if (UNLIKELY(!is_canonical(linear) || !is_canonical(linear + size - 1))) {
        soft_gp(c, 0);
    }
    span->count = size > room ? 2 : 1;
    resolve(c, linear, MIN(size, room), access, mmu, &span->at[0]);
    if (span->count == 2) {
        u64 next = linear + room;
        if (linear <= UINT32_MAX) { /* compatibility mode still has its tables above 4 GiB */
            next &= c->addr_mask;
        }
        resolve(c, next, size - room, access, mmu, &span->at[1]);
    }
}

static void resolve_span(struct soft_vcpu *c, u64 linear, u32 size, enum access access,
                         enum mmu_index mmu, struct mem_span *span) {
    probe_span(c, linear, size, access, mmu, span);
    if (UNLIKELY(c->watch)) {
        soft_watch(c, linear, size, access != ACCESS_READ);
        if (access == ACCESS_RMW) {
            soft_watch(c, linear, size, false);
        }
    }
}

/* --- bytes -------------------------------------------------------------------------------------
 */

static u64 mmio_read(struct soft_vcpu *c, u64 gpa, u32 size) {
    soft_guest_leave(c);
    u64 v = callout_mmio_read(c->ev, gpa, size);
    soft_guest_enter(c);
    return v;
}

static void mmio_write(struct soft_vcpu *c, u64 gpa, u32 size, u64 value) {
    soft_guest_leave(c);
    callout_mmio_write(c->ev, gpa, size, value);
    soft_guest_enter(c);
}

GUEST_RAM static u64 host_load(const u8 *p, u32 size) {
    switch (size) {
    case 1:
        return RAM_AT(u8, p);
    case 2:
        return RAM_AT(u16, p);
    case 4:
        return RAM_AT(u32, p);
    case 8:
        return RAM_AT(u64, p);
    default: {
        u64 v = 0;
        for (u32 i = 0; i < size; i++) {
            v |= (u64)RAM_AT(u8, p + i) << (8 * i);
        }
        return v;
    }
    }
}

GUEST_RAM static void host_store(u8 *p, u32 size, u64 v) {
    switch (size) {
    case 1:
        RAM_AT(u8, p) = (u8)v;
        break;
    case 2:
        RAM_AT(u16, p) = (u16)v;
        break;
    case 4:
        RAM_AT(u32, p) = (u32)v;
        break;
    case 8:
        RAM_AT(u64, p) = v;
        break;
    default:
        for (u32 i = 0; i < size; i++) {
            RAM_AT(u8, p + i) = (u8)(v >> (8 * i));
        }
    }
}

GUEST_RAM static void host_copy(u8 *dst, const u8 *src, u32 n) {
    while (n >= 8) {
        RAM_AT(u64, dst) = RAM_AT(u64, src);
        dst += 8, src += 8, n -= 8;
    }
    while (n--) {
        RAM_AT(u8, dst++) = RAM_AT(u8, src++);
    }
}

/* at->size is 1..8 */
static u64 at_load(struct soft_vcpu *c, const struct mem_at *at) {
    return at->host ? host_load(at->host, at->size) : mmio_read(c, at->gpa, at->size);
}

/* After bytes at `at` were written. */
static void at_written(struct soft_vcpu *c, const struct mem_at *at) {
    if (at->slow && smc_written(c, at->gpa, at->size)) {
        at->entry->write = TLB_NONE; /* free again: the next store makes a fast translation */
    }
}

static void at_store(struct soft_vcpu *c, const struct mem_at *at, u64 v) {
    if (!at->host) {
        mmio_write(c, at->gpa, at->size, v);
    } else if (!at->rom) {
        host_store(at->host, at->size, v);
        at_written(c, at);
    }
}

/* Any size: registers are reached 8 bytes at a time. */
static void at_read(struct soft_vcpu *c, const struct mem_at *at, u8 *buf) {
    if (at->host) {
        host_copy(buf, at->host, at->size);
        return;
    }
    for (u32 done = 0; done < at->size;) {
        u32 n = MIN(8u - (u32)((at->gpa + done) & 7), at->size - done);
        u64 v = mmio_read(c, at->gpa + done, n);
        memcpy(buf + done, &v, n);
        done += n;
    }
}

static void at_write(struct soft_vcpu *c, const struct mem_at *at, const u8 *buf) {
    if (at->host) {
        if (!at->rom) {
            host_copy(at->host, buf, at->size);
            at_written(c, at);
        }
        return;
    }
    for (u32 done = 0; done < at->size;) {
        u32 n = MIN(8u - (u32)((at->gpa + done) & 7), at->size - done);
        u64 v = 0;
        memcpy(&v, buf + done, n);
        mmio_write(c, at->gpa + done, n, v);
        done += n;
    }
}

/* After a write by a span that was resolved before guest mode was left: meanwhile code may have
 * been decoded there, and the dirty log read. */
static void span_written_late(struct soft_vcpu *c, const struct mem_span *span) {
    for (u32 i = 0; i < span->count; i++) {
        if (span->at[i].host && !span->at[i].rom) {
            ram_written(c->vm->ram, span->at[i].gpa, span->at[i].size);
        }
    }
}

static bool span_has_registers(const struct mem_span *span) {
    return !span->at[0].host || (span->count == 2 && !span->at[1].host);
}

/* --- linear memory -----------------------------------------------------------------------------
 */

static u64 span_load(struct soft_vcpu *c, const struct mem_span *span) {
    u64 v = at_load(c, &span->at[0]);
    if (span->count == 2) {
        v |= at_load(c, &span->at[1]) << (8 * span->at[0].size);
    }
    return v;
}

u64 soft_lin_load(struct soft_vcpu *c, u64 linear, u32 size, enum mmu_index mmu) {
    struct mem_span span;
    resolve_span(c, linear, size, ACCESS_READ, mmu, &span);
    return span_load(c, &span);
}

void soft_lin_store(struct soft_vcpu *c, u64 linear, u32 size, u64 value, enum mmu_index mmu) {
    struct mem_span span;
    resolve_span(c, linear, size, ACCESS_WRITE, mmu, &span);
    at_store(c, &span.at[0], value);
    if (span.count == 2) {
        at_store(c, &span.at[1], value >> (8 * span.at[0].size));
        if (UNLIKELY(span_has_registers(&span))) {
            span_written_late(c, &span);
        }
    }
}

void soft_lin_read(struct soft_vcpu *c, u64 linear, void *buf, u32 size, enum mmu_index mmu) {
    struct mem_span span;
    if (!size) {
        return;
    }
    resolve_span(c, linear, size, ACCESS_READ, mmu, &span);
    at_read(c, &span.at[0], buf);
    if (span.count == 2) {
        at_read(c, &span.at[1], (u8 *)buf + span.at[0].size);
    }
}

void soft_lin_write(struct soft_vcpu *c, u64 linear, const void *buf, u32 size,
                    enum mmu_index mmu) {
    struct mem_span span;
    if (!size) {
        return;
    }
    resolve_span(c, linear, size, ACCESS_WRITE, mmu, &span);
    at_write(c, &span.at[0], buf);
    if (span.count == 2) {
        at_write(c, &span.at[1], (const u8 *)buf + span.at[0].size);
        if (UNLIKELY(span_has_registers(&span))) {
            span_written_late(c, &span);
        }
    }
}

void soft_lin_probe(struct soft_vcpu *c, u64 linear, u32 size, enum access access,
                    enum mmu_index mmu) {
    struct mem_span span;
    probe_span(c, linear, size, access, mmu, &span);
}

void *soft_lin_ptr(struct soft_vcpu *c, u64 linear, u32 size, enum access access,
                   enum mmu_index mmu) {
    if (size > PAGE_SIZE - (linear & PAGE_MASK)) {
        return NULL;
    }
    struct tlb_entry *e = tlb_slot(c->tlb->now->set[mmu].e, linear);
    u64 tag = access == ACCESS_READ ? e->read : access == ACCESS_EXEC ? e->exec : e->write;
    if (LIKELY(tag == (linear & ~PAGE_MASK)) && LIKELY(!c->align_check) &&
        LIKELY(!soft_verify_shadow(c))) {
        return (void *)(uintptr_t)(linear + e->addend);
    }
    struct mem_span span;
    resolve_span(c, linear, size, access, mmu, &span);
    return span.at[0].slow || span.at[0].rom ? NULL : span.at[0].host;
}

/* --- segments ----------------------------------------------------------------------------------
 */

static _Noreturn void segment_fault(struct soft_vcpu *c, u8 seg) {
    soft_fault(c, seg == SEG_SS ? EXC_SS : EXC_GP, true, 0);
}

/* Of an operand that begins below the hole and ends in it, the processor looks at the alignment
 * first. */
static _Noreturn void not_canonical(struct soft_vcpu *c, u8 seg, u64 linear, u32 size) {
    if (c->align_check && is_canonical(linear)) {
        check_alignment(c, linear, size);
    }
    segment_fault(c, seg);
}

static u64 linear_64(struct soft_vcpu *c, u8 seg, u64 offset, u32 size) {
    u64 a = seg == SEG_FS || seg == SEG_GS ? c->s.seg[seg].base + offset : offset;
    if (UNLIKELY(!is_canonical(a) || !is_canonical(a + size - 1))) {
        not_canonical(c, seg, a, size);
    }
    return a;
}

static bool type_allows(const struct soft_vcpu *c, const struct segment *s, enum access access) {
    if (!(c->s.cr0 & CR0_PE) || (c->s.rflags & FLAG_VM)) {
        return true;
    }
    if (s->attr & SEG_ATTR_UNUSABLE) {
        return false;
    }
    bool code = s->attr & 8, bit1 = s->attr & 2; /* readable code, writable data */
    return access == ACCESS_READ ? !code || bit1 : access == ACCESS_EXEC ? code : !code && bit1;
}

static bool limit_allows(const struct segment *s, u64 offset, u32 size) {
    u64 last = offset + size - 1;
    if ((s->attr & 0xc) == 4) { /* data, expands down */
        u64 top = s->attr & SEG_ATTR_DB ? UINT32_MAX : UINT16_MAX;
        return offset > s->limit && last <= top;
    }
    return last <= s->limit || s->limit == UINT32_MAX;
}

u64 soft_linear(struct soft_vcpu *c, u8 seg, u64 offset, u32 size, enum access access) {
    size = size ? size : 1;
    if (c->mode == 64) {
        return linear_64(c, seg, offset, size);
    }
    const struct segment *s = &c->s.seg[seg];
    if (UNLIKELY(!type_allows(c, s, access) || !limit_allows(s, offset, size))) {
        segment_fault(c, seg);
    }
    return (u32)(s->base + offset);
}

u64 soft_ea(struct soft_vcpu *c, const struct uop *u) {
    u64 a = (u64)(s64)u->disp;
    if (u->base == MEM_RIP) {
        a += c->block_rip + u->offset + u->len;
    } else if (u->base != MEM_NONE) {
        a += c->s.gpr[u->base & 15];
    }
    if (u->index != MEM_NONE) {
        a += c->s.gpr[u->index & 15] << u->scale_shift;
    }
    return u->addrsize == 8 ? a : u->addrsize == 4 ? (u32)a : (u16)a;
}

u64 soft_load(struct soft_vcpu *c, const struct uop *u, u32 size) {
    u64 a = soft_linear(c, u->seg, soft_ea(c, u), size, ACCESS_READ);
    const struct tlb_entry *e = tlb_slot(c->dtlb, a);
    if (LIKELY(e->read == TAG_OF(a, size))) {
        return host_load((const u8 *)(uintptr_t)(a + e->addend), size);
    }
    return soft_lin_load(c, a, size, c->mmu);
}

void soft_store(struct soft_vcpu *c, const struct uop *u, u32 size, u64 value) {
    u64 a = soft_linear(c, u->seg, soft_ea(c, u), size, ACCESS_WRITE);
    const struct tlb_entry *e = tlb_slot(c->dtlb, a);
    if (LIKELY(e->write == TAG_OF(a, size))) {
        host_store((u8 *)(uintptr_t)(a + e->addend), size, value);
    } else {
        soft_lin_store(c, a, size, value, c->mmu);
    }
}

/* Computes the operand's linear address with all checks of its segment for the micro-op behind,
 * which does the access. opsize: bytes; spare: enum access, UOP_MOFFS: its offset is in imm. */
void uop_linear(struct soft_vcpu *c, const struct uop *u) {
    u64 offset = u->spare & UOP_MOFFS ? u->imm : soft_ea(c, u);
    if (u->addrsize != 8) {
        offset &= u->addrsize == 4 ? UINT32_MAX : UINT16_MAX;
    }
    c->linear = soft_linear(c, u->seg, offset, u->opsize, (enum access)(u->spare & 0xff));
    NEXT(c, u);
}

/* --- slow paths of integer handlers ------------------------------------------------------------
 */

static void check_operand(struct soft_vcpu *c, u64 linear, u32 size) {
    if (UNLIKELY(!is_canonical(linear) || !is_canonical(linear + size - 1))) {
        not_canonical(c, c->uop->seg, linear, size);
    }
}

u64 soft_load_slow(struct soft_vcpu *c, u64 linear, u32 size) {
    check_operand(c, linear, size);
    return soft_lin_load(c, linear, size, c->mmu);
}

void soft_store_slow(struct soft_vcpu *c, u64 linear, u32 size, u64 value) {
    check_operand(c, linear, size);
    soft_lin_store(c, linear, size, value, c->mmu);
}

u64 soft_rmw_load(struct soft_vcpu *c, u64 linear, u32 size) {
    struct mem_span span;
    check_operand(c, linear, size);
    resolve_span(c, linear, size, ACCESS_RMW, c->mmu, &span);
    return span_load(c, &span);
}

/* --- locked operations -------------------------------------------------------------------------
 */

void soft_lock_begin(struct soft_vcpu *c, struct lock_op *lock, u64 linear, u32 size) {
    struct mem_span *span = &lock->span;
    check_operand(c, linear, size);
    resolve_span(c, linear, size, ACCESS_RMW, c->mmu, span);
    bool split = (linear & 63) + size > 64;
    lock->copy = split || !span->at[0].host || span->at[0].rom;
    if (!lock->copy) {
        lock->p = span->at[0].host;
        return;
    }
    soft_stop_others(c);
    lock->p = lock->bytes;
    at_read(c, &span->at[0], lock->bytes);
    if (span->count == 2) {
        at_read(c, &span->at[1], lock->bytes + span->at[0].size);
    }
}

/* Nothing here can fault: the span was resolved in soft_lock_begin. */
void soft_lock_end(struct soft_vcpu *c, struct lock_op *lock) {
    struct mem_span *span = &lock->span;
    if (!lock->copy) {
        at_written(c, &span->at[0]);
        return;
    }
    at_write(c, &span->at[0], lock->bytes);
    if (span->count == 2) {
        at_write(c, &span->at[1], lock->bytes + span->at[0].size);
    }
    span_written_late(c, span);
    soft_resume_others(c);
}

/* --- stacks ------------------------------------------------------------------------------------
 */

static u64 stack_mask(const struct soft_vcpu *c) {
    if (c->mode == 64) {
        return UINT64_MAX;
    }
    return c->s.seg[SEG_SS].attr & SEG_ATTR_DB ? UINT32_MAX : UINT16_MAX;
}

u64 soft_sp(const struct soft_vcpu *c) {
    return c->s.gpr[GPR_RSP] & stack_mask(c);
}

void soft_sp_set(struct soft_vcpu *c, u64 sp) {
    u64 mask = stack_mask(c);
    u64 upper = mask == UINT16_MAX ? c->s.gpr[GPR_RSP] & ~mask : 0;
    c->s.gpr[GPR_RSP] = upper | (sp & mask);
}

u64 soft_push(struct soft_vcpu *c, u64 sp, u32 size, u64 value) {
    sp = (sp - size) & stack_mask(c);
    u64 a = soft_linear(c, SEG_SS, sp, size, ACCESS_WRITE);
    const struct tlb_entry *e = tlb_slot(c->dtlb, a);
    if (LIKELY(e->write == TAG_OF(a, size))) {
        host_store((u8 *)(uintptr_t)(a + e->addend), size, value);
    } else {
        soft_lin_store(c, a, size, value, c->mmu);
    }
    return sp;
}

u64 soft_pop(struct soft_vcpu *c, u64 sp, u32 size, u64 *value) {
    sp &= stack_mask(c);
    u64 a = soft_linear(c, SEG_SS, sp, size, ACCESS_READ);
    const struct tlb_entry *e = tlb_slot(c->dtlb, a);
    if (LIKELY(e->read == TAG_OF(a, size))) {
        *value = host_load((const u8 *)(uintptr_t)(a + e->addend), size);
    } else {
        *value = soft_lin_load(c, a, size, c->mmu);
    }
    return (sp + size) & stack_mask(c);
}
