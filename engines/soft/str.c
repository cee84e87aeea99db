/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions MOVS, CMPS, STOS, LODS, SCAS (INS, OUTS: str_io.c) with and without REP.
 * Intel SDM volume 1, section 7.3.9; volume 2, REP.
 *
 * A repeated instruction works in chunks: as many elements as lie in one page on each side (and
 * inside the segment, and short of the address wrap). When both sides are plain RAM the chunk is
 * one repeated instruction of the real processor on host memory, with the guest's element size and
 * direction, so overlaps come out as they would natively. Otherwise it is one element. RSI, RDI and
 * RCX are written after each chunk: a fault in the next finds them where the processor leaves them.
 * Between chunks the instruction gives way to whoever wants the vCPU and stays at its RIP.
 */
#include "engines/soft/str.h"

/* --- registers ---------------------------------------------------------------------------------
 */

u64 str_reg(const struct soft_vcpu *c, const struct uop *u, u8 reg) {
    u64 v = c->s.gpr[reg];
    return u->addrsize == 8 ? v : u->addrsize == 4 ? (u32)v : (u16)v;
}

void str_advance(struct soft_vcpu *c, const struct uop *u, u8 reg, u64 elements) {
    u64 bytes = elements * u->opsize;
    u64 v = c->s.gpr[reg] + (c->s.rflags & FLAG_DF ? 0 - bytes : bytes);
    soft_gpr_set(c, reg, u->addrsize, v);
}

static bool backward(const struct soft_vcpu *c) {
    return (c->s.rflags & FLAG_DF) != 0;
}

/* --- chunks ------------------------------------------------------------------------------------
 */

/* Elements from offset on before the segment's limit; 0: look at each. */
static u64 limit_run(const struct soft_vcpu *c, u8 seg, u64 offset, u32 size, bool down) {
    const struct segment *s = &c->s.seg[seg];
    if (c->mode == 64) {
        return UINT64_MAX;
    }
    bool data = !(s->attr & 8);
    if (data && (s->attr & 4)) {
        return 0; /* expand-down */
    }
    if (down) {
        return UINT64_MAX;
    }
    return offset > s->limit ? 0 : ((u64)s->limit - offset + 1) / size;
}

/* How many elements can be treated at once at seg:offset, which is at linear; 0: only one, with
 * care. */
static u64 run_length(const struct soft_vcpu *c, const struct uop *u, u8 seg, u64 offset,
                      u64 linear) {
    u32 size = u->opsize, in_page = (u32)(linear & PAGE_MASK);
    bool down = backward(c);
    if (in_page + size > PAGE_SIZE) {
        return 0;
    }
    u64 n = down ? in_page / size + 1u : (PAGE_SIZE - in_page) / size;
    if (u->addrsize != 8) {
        u64 space = u->addrsize == 4 ? BIT(32) : BIT(16);
        n = MIN(n, down ? offset / size + 1 : (space - offset) / size);
    }
    return MIN(n, limit_run(c, seg, offset, size, down));
}

/* One side of a chunk. */
struct side {
    u8 seg;
    u64 offset, linear, run;
};

static struct side side_begin(struct soft_vcpu *c, const struct uop *u, u8 seg, u8 reg,
                              enum access access) {
    struct side s = {.seg = seg, .offset = str_reg(c, u, reg)};
    s.linear = soft_linear(c, seg, s.offset, u->opsize, access);
    s.run = run_length(c, u, seg, s.offset, s.linear);
    return s;
}

/* Host address of the first of n elements, NULL when they are not plain RAM. */
static u8 *side_ptr(struct soft_vcpu *c, const struct uop *u, const struct side *s, u64 n,
                    enum access access) {
    if (n == 0) {
        return NULL;
    }
    /* All n lie in its page. A fault is the first element's, also when the others lie below it. */
    return soft_lin_ptr(c, s->linear, u->opsize, access, c->mmu);
}

/* --- the real processor's string instructions --------------------------------------------------
 */

#define HOST_MOVS(suffix)                                                                          \
    if (down) {                                                                                    \
        __asm__ volatile("std\n\trep movs" suffix "\n\tcld"                                        \
                         : "+D"(d), "+S"(s), "+c"(n)::"memory", "cc");                             \
    } else {                                                                                       \
        __asm__ volatile("rep movs" suffix : "+D"(d), "+S"(s), "+c"(n)::"memory");                 \
    }

static void host_movs(u8 *d, const u8 *s, u64 n, u32 size, bool down) {
    switch (size) {
    case 1:
        HOST_MOVS("b");
        break;
    case 2:
        HOST_MOVS("w");
        break;
    case 4:
        HOST_MOVS("l");
        break;
    default:
        HOST_MOVS("q");
        break;
    }
}

#define HOST_STOS(suffix)                                                                          \
    if (down) {                                                                                    \
        __asm__ volatile("std\n\trep stos" suffix "\n\tcld"                                        \
                         : "+D"(d), "+c"(n)                                                        \
                         : "a"(v)                                                                  \
                         : "memory", "cc");                                                        \
    } else {                                                                                       \
        __asm__ volatile("rep stos" suffix : "+D"(d), "+c"(n) : "a"(v) : "memory");                \
    }

static void host_stos(u8 *d, u64 v, u64 n, u32 size, bool down) {
    switch (size) {
    case 1:
        HOST_STOS("b");
        break;
    case 2:
        HOST_STOS("w");
        break;
    case 4:
        HOST_STOS("l");
        break;
    default:
        HOST_STOS("q");
        break;
    }
}

/* Compare n >= 1 elements until the condition fails; flags of the last, returns how many remain. */
#define HOST_CMPS(prefix, suffix)                                                                  \
    if (down) {                                                                                    \
        __asm__ volatile("std\n\t" prefix " cmps" suffix "\n\tpushfq\n\tpop %3\n\tcld"             \
                         : "+D"(d), "+S"(s), "+c"(n), "=r"(*flags)::"memory", "cc");               \
    } else {                                                                                       \
        __asm__ volatile(prefix " cmps" suffix "\n\tpushfq\n\tpop %3"                              \
                         : "+D"(d), "+S"(s), "+c"(n), "=r"(*flags)::"memory", "cc");               \
    }

#define HOST_SCAS(prefix, suffix)                                                                  \
    if (down) {                                                                                    \
        __asm__ volatile("std\n\t" prefix " scas" suffix "\n\tpushfq\n\tpop %2\n\tcld"             \
                         : "+D"(d), "+c"(n), "=r"(*flags)                                          \
                         : "a"(v)                                                                  \
                         : "memory", "cc");                                                        \
    } else {                                                                                       \
        __asm__ volatile(prefix " scas" suffix "\n\tpushfq\n\tpop %2"                              \
                         : "+D"(d), "+c"(n), "=r"(*flags)                                          \
                         : "a"(v)                                                                  \
                         : "memory", "cc");                                                        \
    }

#define BY_SIZE(what, prefix)                                                                      \
    switch (size) {                                                                                \
    case 1:                                                                                        \
        what(prefix, "b");                                                                         \
        break;                                                                                     \
    case 2:                                                                                        \
        what(prefix, "w");                                                                         \
        break;                                                                                     \
    case 4:                                                                                        \
        what(prefix, "l");                                                                         \
        break;                                                                                     \
    default:                                                                                       \
        what(prefix, "q");                                                                         \
        break;                                                                                     \
    }

static u64 host_cmps(const u8 *s, const u8 *d, u64 n, u32 size, bool down, bool while_equal,
                     u64 *flags) {
    if (while_equal) {
        BY_SIZE(HOST_CMPS, "repe")
    } else {
        BY_SIZE(HOST_CMPS, "repne")
    }
    return n;
}

static u64 host_scas(const u8 *d, u64 v, u64 n, u32 size, bool down, bool while_equal, u64 *flags) {
    if (while_equal) {
        BY_SIZE(HOST_SCAS, "repe")
    } else {
        BY_SIZE(HOST_SCAS, "repne")
    }
    return n;
}

/* --- one chunk of each instruction: at most max elements, returns how many ---------------------
 */

static u64 movs_chunk(struct soft_vcpu *c, const struct uop *u, u64 max, bool *stop) {
    struct side s = side_begin(c, u, u->seg, GPR_RSI, ACCESS_READ);
    u64 n = 1;
    (void)stop;
    if (max > 1) {
        const u8 *from = side_ptr(c, u, &s, s.run, ACCESS_READ);
        struct side d = {0};
        if (from) { /* what reading raises comes before all that writing raises */
            d = side_begin(c, u, SEG_ES, GPR_RDI, ACCESS_WRITE);
        }
        n = MIN(max, MIN(s.run, d.run));
        u8 *to = from ? side_ptr(c, u, &d, n, ACCESS_WRITE) : NULL;
        if (to) {
            host_movs(to, from, n, u->opsize, backward(c));
            goto done;
        }
        n = 1;
    }
    u64 v = soft_lin_load(c, s.linear, u->opsize, c->mmu);
    u64 to = soft_linear(c, SEG_ES, str_reg(c, u, GPR_RDI), u->opsize, ACCESS_WRITE);
    soft_lin_store(c, to, u->opsize, v, c->mmu);
done:
    str_advance(c, u, GPR_RSI, n);
    str_advance(c, u, GPR_RDI, n);
    return n;
}

static u64 stos_chunk(struct soft_vcpu *c, const struct uop *u, u64 max, bool *stop) {
    struct side d = side_begin(c, u, SEG_ES, GPR_RDI, ACCESS_WRITE);
    u64 n = MIN(max, d.run);
    u8 *to = max > 1 ? side_ptr(c, u, &d, n, ACCESS_WRITE) : NULL;
    (void)stop;
    if (to) {
        host_stos(to, c->s.gpr[GPR_RAX], n, u->opsize, backward(c));
    } else {
        n = 1;
        soft_lin_store(c, d.linear, u->opsize, soft_gpr_get(c, GPR_RAX, u->opsize), c->mmu);
    }
    str_advance(c, u, GPR_RDI, n);
    return n;
}

static u64 lods_chunk(struct soft_vcpu *c, const struct uop *u, u64 max, bool *stop) {
    struct side s = side_begin(c, u, u->seg, GPR_RSI, ACCESS_READ);
    u64 n = MIN(max, s.run);
    const u8 *from = max > 1 ? side_ptr(c, u, &s, n, ACCESS_READ) : NULL;
    u64 v = 0;
    (void)stop;
    if (from) { /* only the last element stays */
        u64 at = (n - 1) * u->opsize;
        memcpy(&v, backward(c) ? from - at : from + at, u->opsize);
    } else {
        n = 1;
        v = soft_lin_load(c, s.linear, u->opsize, c->mmu);
    }
    soft_gpr_set(c, GPR_RAX, u->opsize, v);
    str_advance(c, u, GPR_RSI, n);
    return n;
}

/* The operand at rDI is read first, as processors do. */
static u64 cmps_chunk(struct soft_vcpu *c, const struct uop *u, u64 max, bool *stop) {
    struct side d = side_begin(c, u, SEG_ES, GPR_RDI, ACCESS_READ);
    struct side s = side_begin(c, u, u->seg, GPR_RSI, ACCESS_READ);
    const u8 *a = NULL, *b = NULL;
    u64 va, vb, n = 1, flags;
    bool equal = u->src == STR_REPE;
    if (max > 1) {
        n = MIN(max, MIN(s.run, d.run));
        b = side_ptr(c, u, &d, n, ACCESS_READ);
        a = b ? side_ptr(c, u, &s, n, ACCESS_READ) : NULL;
    }
    if (!a || !b) {
        n = 1;
        vb = soft_lin_load(c, d.linear, u->opsize, c->mmu);
        va = soft_lin_load(c, s.linear, u->opsize, c->mmu);
        a = (const u8 *)&va;
        b = (const u8 *)&vb;
    }
    n -= host_cmps(a, b, n, u->opsize, backward(c), equal, &flags);
    c->aflags = flags;
    *stop = equal != !!(flags & FLAG_ZF);
    str_advance(c, u, GPR_RSI, n);
    str_advance(c, u, GPR_RDI, n);
    return n;
}

static u64 scas_chunk(struct soft_vcpu *c, const struct uop *u, u64 max, bool *stop) {
    struct side d = side_begin(c, u, SEG_ES, GPR_RDI, ACCESS_READ);
    u64 n = MIN(max, d.run), v, flags;
    const u8 *p = max > 1 ? side_ptr(c, u, &d, n, ACCESS_READ) : NULL;
    bool equal = u->src == STR_REPE;
    if (!p) {
        n = 1;
        v = soft_lin_load(c, d.linear, u->opsize, c->mmu);
        p = (const u8 *)&v;
    }
    n -= host_scas(p, c->s.gpr[GPR_RAX], n, u->opsize, backward(c), equal, &flags);
    c->aflags = flags;
    *stop = equal != !!(flags & FLAG_ZF);
    str_advance(c, u, GPR_RDI, n);
    return n;
}

/* --- repetition --------------------------------------------------------------------------------
 */

static bool gives_way(const struct soft_vcpu *c) {
    return c->one || c->leave || __atomic_load_n(&c->ev->attention, __ATOMIC_RELAXED) ||
           (__atomic_load_n(&c->request, __ATOMIC_RELAXED) & SOFT_REQ_OTHER);
}

/* With 32-bit addresses the upper half of RCX is cleared, and by MOVS and STOS those of the
 * pointers, also when the count is zero or the first element faults: what processors do, and what
 * KVM's emulator does after them. */
static void cut_registers(struct soft_vcpu *c, const struct uop *u, u64 count) {
    u16 id = u->insn->id;
    soft_gpr_set(c, GPR_RCX, u->addrsize, count);
    if (id == INSN_MOVS) {
        soft_gpr_set(c, GPR_RSI, u->addrsize, c->s.gpr[GPR_RSI]);
    }
    if (id == INSN_MOVS || id == INSN_STOS) {
        soft_gpr_set(c, GPR_RDI, u->addrsize, c->s.gpr[GPR_RDI]);
    }
}

bool str_repeat(struct soft_vcpu *c, const struct uop *u, str_chunk_fn chunk) {
    bool stop = false;
    if (u->src == STR_ONCE) {
        (void)chunk(c, u, 1, &stop);
        return true;
    }
    u64 count = str_reg(c, u, GPR_RCX);
    cut_registers(c, u, count);
    u64 flags = c->aflags; /* a fault in CMPS or SCAS shows the flags from before */
    while (count) {
        c->aflags = flags;
        count -= chunk(c, u, c->one ? 1 : count, &stop);
        soft_gpr_set(c, GPR_RCX, u->addrsize, count);
        if (stop) {
            return true;
        }
        if (count && UNLIKELY(gives_way(c))) {
            /* what comes now is delivered with RF set (SDM volume 3, 17.3.1.1) */
            c->s.rflags |= FLAG_RF;
            return false;
        }
    }
    return true;
}

#define STRING_HANDLER(name)                                                                       \
    static void name(struct soft_vcpu *c, const struct uop *u) {                                   \
        if (UNLIKELY(!str_repeat(c, u, name##_chunk))) {                                           \
            GOTO_RIP(c, soft_rip(c));                                                              \
        }                                                                                          \
        NEXT(c, u);                                                                                \
    }

STRING_HANDLER(movs)
STRING_HANDLER(stos)
STRING_HANDLER(lods)
STRING_HANDLER(cmps)
STRING_HANDLER(scas)

/* --- binding -----------------------------------------------------------------------------------
 */

static uop_fn string_handler(u16 id) {
    switch (id) {
    case INSN_MOVS:
        return movs;
    case INSN_STOS:
        return stos;
    case INSN_LODS:
        return lods;
    case INSN_CMPS:
        return cmps;
    case INSN_SCAS:
        return scas;
    default:
        return NULL;
    }
}

void str_bind_fields(struct bind *b, u8 size) {
    const struct insn *i = b->insn;
    struct uop *u = b->uop;
    u->opsize = size;
    u->addrsize = i->addrsize;
    u->seg = i->mem.seg_override ? i->mem.seg : SEG_DS;
    u->src = i->prefixes & PREFIX_REP     ? STR_REPE
             : i->prefixes & PREFIX_REPNE ? STR_REPNE
                                          : STR_ONCE;
}

bool bind_string(struct bind *b) {
    uop_fn fn = string_handler(b->insn->id);
    if (!fn) {
        return str_bind_io(b);
    }
    str_bind_fields(b, b->insn->opcode & 1 ? b->insn->opsize : 1);
    b->uop->fn = fn;
    return true;
}
