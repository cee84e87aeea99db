/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IN, OUT, INS, OUTS. Permission: CPL <= IOPL outside virtual-8086 mode, else the I/O bitmap of a
 * 32- or 64-bit TSS (Intel SDM volume 1, 19.5.2). INS finds out whether it may write before it
 * reads the port, since a read can have effects that must not happen twice. Each of them ends its
 * block after the access: the device may have asked for this vCPU's attention.
 */
#include "core/if/callout.h"
#include "engines/soft/str.h"

enum { TSS_IO_BASE = 102, TSS_MIN_LIMIT = 103, TSS_TYPE_AVAILABLE = 9, TSS_TYPE_BUSY = 11 };

static bool bitmap_allows(struct soft_vcpu *c, u16 port, u32 size) {
    const struct segment *tr = &c->s.tr;
    u32 type = tr->attr & SEG_ATTR_TYPE;
    if ((type != TSS_TYPE_AVAILABLE && type != TSS_TYPE_BUSY) || tr->limit < TSS_MIN_LIMIT) {
        return false;
    }
    u32 at = (u32)soft_lin_load(c, tr->base + TSS_IO_BASE, 2, c->mmu_implicit) + port / 8u;
    if (at + 1 > tr->limit) {
        return false;
    }
    u32 bits = (u32)soft_lin_load(c, tr->base + at, 2, c->mmu_implicit);
    return !(bits >> (port & 7) & ((1u << size) - 1));
}

static void io_check(struct soft_vcpu *c, u16 port, u32 size) {
    u32 iopl = (u32)(c->s.rflags >> 12 & 3);
    if (!(c->s.cr0 & CR0_PE) || (!(c->s.rflags & FLAG_VM) && c->cpl <= iopl)) {
        return;
    }
    if (!bitmap_allows(c, port, size)) {
        soft_gp(c, 0);
    }
}

static u32 port_read(struct soft_vcpu *c, u16 port, u32 size) {
    soft_guest_leave(c);
    u32 v = callout_pio_read(c->ev, port, size);
    soft_guest_enter(c);
    if (UNLIKELY(c->watch)) {
        soft_watch_io(c, port, size);
    }
    return v;
}

static void port_write(struct soft_vcpu *c, u16 port, u32 size, u32 value) {
    soft_guest_leave(c);
    callout_pio_write(c->ev, port, size, value);
    soft_guest_enter(c);
    if (UNLIKELY(c->watch)) {
        soft_watch_io(c, port, size);
    }
}

/* --- IN, OUT: uop.src is set when the port is in DX ---------------------------------------------
 */

static u16 port_of(const struct soft_vcpu *c, const struct uop *u) {
    return u->src ? (u16)c->s.gpr[GPR_RDX] : (u8)u->insn->imm;
}

static void in(struct soft_vcpu *c, const struct uop *u) {
    u16 port = port_of(c, u);
    io_check(c, port, u->opsize);
    soft_gpr_set(c, GPR_RAX, u->opsize, port_read(c, port, u->opsize));
    GOTO_RIP(c, soft_rip_after(c));
}

static void out(struct soft_vcpu *c, const struct uop *u) {
    u16 port = port_of(c, u);
    io_check(c, port, u->opsize);
    port_write(c, port, u->opsize, (u32)soft_gpr_get(c, GPR_RAX, u->opsize));
    GOTO_RIP(c, soft_rip_after(c));
}

/* --- INS, OUTS ---------------------------------------------------------------------------------
 */

static u64 ins_chunk(struct soft_vcpu *c, const struct uop *u, u64 max, bool *stop) {
    u16 port = (u16)c->s.gpr[GPR_RDX];
    (void)max;
    (void)stop;
    io_check(c, port, u->opsize);
    u64 to = soft_linear(c, SEG_ES, str_reg(c, u, GPR_RDI), u->opsize, ACCESS_WRITE);
    soft_lin_probe(c, to, u->opsize, ACCESS_WRITE, c->mmu);
    soft_lin_store(c, to, u->opsize, port_read(c, port, u->opsize), c->mmu);
    str_advance(c, u, GPR_RDI, 1);
    return 1;
}

static u64 outs_chunk(struct soft_vcpu *c, const struct uop *u, u64 max, bool *stop) {
    u16 port = (u16)c->s.gpr[GPR_RDX];
    (void)max;
    (void)stop;
    io_check(c, port, u->opsize);
    u64 from = soft_linear(c, u->seg, str_reg(c, u, GPR_RSI), u->opsize, ACCESS_READ);
    u32 v = (u32)soft_lin_load(c, from, u->opsize, c->mmu);
    port_write(c, port, u->opsize, v);
    str_advance(c, u, GPR_RSI, 1);
    return 1;
}

static void ins(struct soft_vcpu *c, const struct uop *u) {
    bool done = str_repeat(c, u, ins_chunk);
    GOTO_RIP(c, done ? soft_rip_after(c) : soft_rip(c));
}

static void outs(struct soft_vcpu *c, const struct uop *u) {
    bool done = str_repeat(c, u, outs_chunk);
    GOTO_RIP(c, done ? soft_rip_after(c) : soft_rip(c));
}

bool str_bind_io(struct bind *b) {
    const struct insn *i = b->insn;
    u8 size = i->opcode & 1 ? (u8)MIN(i->opsize, 4) : 1;
    if (i->id != INSN_IN && i->id != INSN_OUT && i->id != INSN_INS && i->id != INSN_OUTS) {
        return false; /* the fields are another family's */
    }
    str_bind_fields(b, size);
    switch (i->id) {
    case INSN_IN:
        b->uop->fn = in;
        b->uop->src = (i->opcode & 8) != 0;
        break;
    case INSN_OUT:
        b->uop->fn = out;
        b->uop->src = (i->opcode & 8) != 0;
        break;
    case INSN_INS:
        b->uop->fn = ins;
        break;
    default:
        b->uop->fn = outs;
        break;
    }
    b->last = true;
    return true;
}
