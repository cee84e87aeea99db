/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The debugger's view of memory, and its breakpoints: int3 bytes written into guest memory (hidden
 * from the debugger's own reads), and the four debug registers for hardware breakpoints and
 * watchpoints (SDM volume 3, section 18.2). Only RAM can be seen: a device's registers may change
 * when they are read.
 */
#include "core/mem/walk.h"
#include "core/vm/gdbstub_int.h"

enum { INT3 = 0xcc };

#define NO_STEP UINT32_MAX

/* --- memory ------------------------------------------------------------------------------------
 */

static int read_env(struct gdbstub *g, struct walk_env *env) {
    struct cpu_state s;
    int rc = vcpu_state_get(&g->vm->vcpus[g->thread], STATE_SREG, &s);
    *env = (struct walk_env){.cr0 = s.cr0,
                             .cr3 = s.cr3,
                             .cr4 = s.cr4,
                             .efer = s.msr.efer,
                             .phys_bits = g->vm->cpuid.phys_bits};
    return rc;
}

/* Host address of the part of [address, address+size) that lies in one page. */
static u8 *page_part(struct gdbstub *g, const struct walk_env *env, u64 address, size_t size,
                     size_t *part, u64 *gpa) {
    *part = MIN(size, (size_t)(PAGE_SIZE - (address & PAGE_MASK)));
    if (walk_peek(&g->vm->ram, env, address, gpa)) {
        return NULL;
    }
    return ram_ptr(&g->vm->ram, *gpa, *part);
}

/* Puts the original bytes of our breakpoints into what was read from [gpa, gpa+size). */
static void hide_breaks(const struct gdbstub *g, u64 gpa, u8 *buf, size_t size) {
    for (u32 i = 0; i < GDB_SOFT_MAX; i++) {
        const struct gdb_soft *b = &g->soft[i];
        if (b->used && b->gpa - gpa < size && buf[b->gpa - gpa] == INT3) {
            buf[b->gpa - gpa] = b->original;
        }
    }
}

size_t gdb_mem_read(struct gdbstub *g, u64 address, u8 *buf, size_t size) {
    struct walk_env env;
    size_t done = 0, part;
    u64 gpa;
    if (read_env(g, &env)) {
        return 0;
    }
    while (done < size) {
        const u8 *p = page_part(g, &env, address + done, size - done, &part, &gpa);
        if (!p) {
            break;
        }
        memcpy(buf + done, p, part);
        hide_breaks(g, gpa, buf + done, part);
        done += part;
    }
    return done;
}

/* Bytes under a breakpoint change its original instead, so that they last. */
static void write_part(struct gdbstub *g, u64 gpa, u8 *p, const u8 *buf, size_t size) {
    memcpy(p, buf, size);
    for (u32 i = 0; i < GDB_SOFT_MAX; i++) {
        struct gdb_soft *b = &g->soft[i];
        if (b->used && b->gpa - gpa < size) {
            b->original = buf[b->gpa - gpa];
            p[b->gpa - gpa] = INT3;
        }
    }
    ram_written(&g->vm->ram, gpa, size);
}

size_t gdb_mem_write(struct gdbstub *g, u64 address, const u8 *buf, size_t size) {
    struct walk_env env;
    size_t done = 0, part;
    u64 gpa;
    if (read_env(g, &env)) {
        return 0;
    }
    while (done < size) {
        u8 *p = page_part(g, &env, address + done, size - done, &part, &gpa);
        if (!p) {
            break;
        }
        write_part(g, gpa, p, buf + done, part);
        done += part;
    }
    return done;
}

/* --- software breakpoints ----------------------------------------------------------------------
 */

static struct gdb_soft *soft_find(struct gdbstub *g, u64 address) {
    for (u32 i = 0; i < GDB_SOFT_MAX; i++) {
        if (g->soft[i].used && g->soft[i].address == address) {
            return &g->soft[i];
        }
    }
    return NULL;
}

bool gdb_break_at(struct gdbstub *g, u64 address) {
    mutex_lock(g->host, &g->lock);
    bool found = soft_find(g, address) != NULL;
    mutex_unlock(g->host, &g->lock);
    return found;
}

static int soft_insert(struct gdbstub *g, u64 address) {
    struct walk_env env;
    size_t part;
    u64 gpa;
    u32 at = 0;
    if (soft_find(g, address)) {
        return 0;
    }
    while (at < GDB_SOFT_MAX && g->soft[at].used) {
        at++;
    }
    if (at == GDB_SOFT_MAX) {
        return -ERR_NOMEM;
    }
    u8 *p = read_env(g, &env) ? NULL : page_part(g, &env, address, 1, &part, &gpa);
    if (!p) {
        return -ERR_FAULT;
    }
    u8 original = *p;
    hide_breaks(g, gpa, &original, 1); /* the same byte under another address */
    mutex_lock(g->host, &g->lock);
    g->soft[at] =
        (struct gdb_soft){.used = true, .address = address, .gpa = gpa, .original = original};
    mutex_unlock(g->host, &g->lock);
    *p = INT3;
    ram_written(&g->vm->ram, gpa, 1);
    return 0;
}

static bool gpa_shared(const struct gdbstub *g, u64 gpa) {
    for (u32 i = 0; i < GDB_SOFT_MAX; i++) {
        if (g->soft[i].used && g->soft[i].gpa == gpa) {
            return true;
        }
    }
    return false;
}

/* A guest that has written over the breakpoint keeps what it wrote. */
static void soft_remove(struct gdbstub *g, struct gdb_soft *b) {
    u8 *p = ram_ptr(&g->vm->ram, b->gpa, 1);
    mutex_lock(g->host, &g->lock);
    b->used = false;
    mutex_unlock(g->host, &g->lock);
    if (p && *p == INT3 && !gpa_shared(g, b->gpa)) {
        *p = b->original;
        ram_written(&g->vm->ram, b->gpa, 1);
    }
}

/* --- debug registers ---------------------------------------------------------------------------
 */

static int hard_insert(struct gdbstub *g, u32 kind, u64 address, u32 length) {
    bool size_ok = length == 1 || length == 2 || length == 4 || length == 8;
    if (kind == 1) {
        length = 1;
    } else if (!size_ok || (address & (length - 1))) {
        return -ERR_INVAL;
    }
    for (u32 i = 0; i < GDB_HARD_MAX; i++) {
        if (!g->hard[i].used) {
            g->hard[i] = (struct gdb_hard){
                .used = true, .kind = (u8)kind, .length = (u8)length, .address = address};
            return 0;
        }
    }
    return -ERR_NOMEM;
}

static int hard_remove(struct gdbstub *g, u32 kind, u64 address, u32 length) {
    for (u32 i = 0; i < GDB_HARD_MAX; i++) {
        struct gdb_hard *h = &g->hard[i];
        if (h->used && h->kind == kind && h->address == address &&
            (kind == 1 || h->length == length)) {
            h->used = false;
            return 0;
        }
    }
    return -ERR_NOTFOUND;
}

int gdb_break_insert(struct gdbstub *g, u32 kind, u64 address, u32 length) {
    return kind == 0 ? soft_insert(g, address) : hard_insert(g, kind, address, length);
}

int gdb_break_remove(struct gdbstub *g, u32 kind, u64 address, u32 length) {
    struct gdb_soft *b;
    if (kind != 0) {
        return hard_remove(g, kind, address, length);
    }
    b = soft_find(g, address);
    if (!b) {
        return -ERR_NOTFOUND;
    }
    soft_remove(g, b);
    return 0;
}

void gdb_break_clear(struct gdbstub *g) {
    for (u32 i = 0; i < GDB_SOFT_MAX; i++) {
        if (g->soft[i].used) {
            soft_remove(g, &g->soft[i]);
        }
    }
    memset(g->hard, 0, sizeof(g->hard));
}

/* R/W bits: 0 execute, 1 write, 3 access (there is no read only); LEN 0 1 3 2 for 1 2 4 8. */
static u64 dr7_bits(const struct gdb_hard *h, u32 i) {
    u64 rw = h->kind == 1 ? 0 : h->kind == 2 ? 1 : 3;
    u64 len = h->length == 8 ? 2 : h->length == 4 ? 3 : h->length == 2 ? 1 : 0;
    return BIT(2 * i + 1) | (rw | len << 2) << (16 + 4 * i);
}

static void do_debug_set(struct engine_vcpu *vcpu, void *ctx) {
    vcpu->vm->ops->debug_set(vcpu, ctx);
}

void gdb_debug_apply(struct gdbstub *g, u32 step) {
    struct engine_debug d = {.enabled = g->connected};
    for (u32 i = 0; i < GDB_HARD_MAX; i++) {
        if (g->hard[i].used) {
            d.dr[i] = g->hard[i].address;
            d.dr7 |= dr7_bits(&g->hard[i], i);
        }
    }
    for (u32 i = 0; i < g->vm->vcpu_count; i++) {
        struct vcpu *v = &g->vm->vcpus[i];
        d.single_step = i == step;
        vcpu_call(v, do_debug_set, &d);
        v->quiet = d.single_step;
        __atomic_store_n(&v->hold, step != NO_STEP && i != step, __ATOMIC_SEQ_CST);
    }
}
