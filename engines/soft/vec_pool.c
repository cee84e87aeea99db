/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Executable memory for stubs. Stubs are position independent and complete in their bytes, so one
 * copy serves every vCPU and every guest instruction that needs these bytes; a hash finds it.
 *
 *   rx:  landing pads | scratch slots of each vCPU | stubs, appended and never changed
 *
 * When the pool is full, instructions that find no stub are emitted into a scratch slot of their
 * vCPU each time they execute: slower, but bounded and exact. Memory is written through the rw
 * mapping and executed through the rx one.
 *
 * Exceptions: the host's fault hook sends a fault in a stub to a landing pad with the vector in
 * eax. A faulting vector instruction has written no register but MXCSR's flags, which the pad saves
 * (Intel SDM volume 1, 11.5.2).
 *
 * Lock rule: pool->lock around the table and the append position; code that a table entry names
 * never changes.
 */
#include "engines/soft/serialise.h"
#include "engines/soft/vec.h"

#include "core/base/err.h"
#include "core/cpu/cpuid.h"

enum {
    POOL_SIZE = 4 << 20,
    POOL_VCPUS = 64,
    STUB_ALIGN = 16,
    PAD_VECTOR = 0, /* offsets of the landing pads */
    PAD_OTHER = 64,
    POOL_SCRATCH = 128,
    POOL_STUBS = POOL_SCRATCH + POOL_VCPUS * SCRATCH_SLOTS * STUB_MAX,
    TABLE_SIZE = 1 << 18,
    TABLE_PROBES = 32,
};

_Static_assert(STUB_MAX % STUB_ALIGN == 0, "scratch slots stay aligned");

struct pool_entry {
    u32 hash;
    u32 place; /* offset / STUB_ALIGN in the low 20 bits, length above; 0: free */
};

_Static_assert(POOL_SIZE / STUB_ALIGN <= 1 << 20 && STUB_MAX < 1 << 12, "entry packs");

struct vec_pool {
    struct mutex lock;
    struct host_code code;
    struct pool_entry *table;
    u32 used;
};

static bool host_has_avx(void) {
    u32 leaf[4];
    cpuid_host(1, 0, leaf);
    return (leaf[2] >> 28 & 1) && (leaf[2] >> 27 & 1); /* AVX, OSXSAVE */
}

/* What runs after a fault: SIMD exceptions save MXCSR and give the monitor its own back. */
static void pool_pads(struct vec_pool *pool) {
    u8 *pad = pool->code.rw + PAD_VECTOR;
    u32 mxcsr = (u32)(offsetof(struct soft_vcpu, s.xsave) + XS_MXCSR);
    static const u8 stmxcsr[] = {0x0f, 0xae, 0x9f}; /* [rdi+disp32] */
    static const u8 ldmxcsr[] = {0x0f, 0xae, 0x12}; /* [rdx] */
    static const u8 vzeroupper[] = {0xc5, 0xf8, 0x77};
    memcpy(pad, stmxcsr, sizeof(stmxcsr));
    put32(pad + 3, mxcsr);
    memcpy(pad + 7, ldmxcsr, sizeof(ldmxcsr));
    u8 *other = pool->code.rw + PAD_OTHER;
    u32 n = 0;
    if (host_has_avx()) {
        memcpy(pad + 10, vzeroupper, sizeof(vzeroupper));
        memcpy(other, vzeroupper, sizeof(vzeroupper));
        n = sizeof(vzeroupper);
    }
    pad[10 + n] = 0xc3;
    other[n] = 0xc3;
}

/* rdi holds the vCPU all through a stub. */
static bool pool_fault(struct host_fault *fault) {
    struct soft_vcpu *c = (struct soft_vcpu *)fault->gpr[GPR_RDI];
    u8 *rx = c->vec->pool->code.rx;
    if (fault->rip < (u64)rx + POOL_SCRATCH) {
        return false; /* the pads themselves do not fault */
    }
    fault->rip = (u64)rx + (fault->vector == EXC_XM ? PAD_VECTOR : PAD_OTHER);
    fault->gpr[GPR_RAX] = STUB_FAULT | (fault->vector & 0xff);
    return true;
}

int soft_vec_pool_create(struct host *host, struct vec_pool **out) {
    struct vec_pool *pool = host_alloc(host, sizeof(*pool));
    int rc = -ERR_NOMEM;
    if (!pool) {
        return rc;
    }
    pool->table = host->ops->pages(host, TABLE_SIZE * sizeof(pool->table[0]));
    if (!pool->table) {
        goto free_pool;
    }
    rc = host->ops->code_alloc(host, POOL_SIZE, &pool->code);
    if (rc) {
        goto free_table;
    }
    rc = host->ops->fault_hook(host, pool->code.rx, POOL_SIZE, pool_fault);
    if (rc) {
        goto free_code;
    }
    pool_pads(pool);
    pool->used = POOL_STUBS;
    *out = pool;
    return 0;
free_code:
    host->ops->code_free(host, &pool->code);
free_table:
    host->ops->pages_free(host, pool->table, TABLE_SIZE * sizeof(pool->table[0]));
free_pool:
    host_free(host, pool, sizeof(*pool));
    return rc;
}

void soft_vec_pool_destroy(struct host *host, struct vec_pool *pool) {
    if (!pool) {
        return;
    }
    host->ops->fault_unhook(host, pool->code.rx);
    host->ops->code_free(host, &pool->code);
    host->ops->pages_free(host, pool->table, TABLE_SIZE * sizeof(pool->table[0]));
    host_free(host, pool, sizeof(*pool));
}

static u32 stub_hash(const u8 *code, u32 len) { /* FNV-1a */
    u32 h = 2166136261u;
    for (u32 i = 0; i < len; i++) {
        h = (h ^ code[i]) * 16777619u;
    }
    return h;
}

static stub_fn pool_fn(const struct vec_pool *pool, u32 offset) {
    stub_fn fn;
    const u8 *p = pool->code.rx + offset;
    memcpy(&fn, &p, sizeof(fn));
    return fn;
}

static stub_fn pool_append(struct vec_pool *pool, struct pool_entry *slot, u32 hash, const u8 *code,
                           u32 len) {
    u32 offset = pool->used;
    if (offset + STUB_MAX > POOL_SIZE) {
        return NULL;
    }
    memcpy(pool->code.rw + offset, code, len);
    pool->used = (u32)ALIGN_UP(offset + len, (u32)STUB_ALIGN);
    slot->hash = hash;
    slot->place = offset / STUB_ALIGN | len << 20;
    return pool_fn(pool, offset);
}

static stub_fn pool_lookup(struct vec_pool *pool, const u8 *code, u32 len) {
    u32 hash = stub_hash(code, len);
    for (u32 n = 0; n < TABLE_PROBES; n++) {
        struct pool_entry *slot = &pool->table[(hash + n) % TABLE_SIZE];
        if (!slot->place) {
            return pool_append(pool, slot, hash, code, len);
        }
        u32 offset = (slot->place & 0xfffff) * STUB_ALIGN;
        if (slot->hash == hash && slot->place >> 20 == len &&
            memcmp(pool->code.rw + offset, code, len) == 0) {
            return pool_fn(pool, offset);
        }
    }
    return NULL;
}

stub_fn vec_pool_get(struct soft_vcpu *c, const u8 *code, u32 len) {
    struct vec_pool *pool = c->vec->pool;
    mutex_lock(c->vec->host, &pool->lock);
    stub_fn fn = pool_lookup(pool, code, len);
    mutex_unlock(c->vec->host, &pool->lock);
    return fn;
}

stub_fn vec_pool_scratch(struct soft_vcpu *c, const u8 *code, u32 len) {
    struct soft_vec *v = c->vec;
    u32 slot = v->scratch++ % SCRATCH_SLOTS;
    u32 offset = POOL_SCRATCH + (v->index * SCRATCH_SLOTS + slot) * STUB_MAX;
    memcpy(v->pool->code.rw + offset, code, len);
    serialise();
    return pool_fn(v->pool, offset);
}

static u32 mxcsr_read(void) {
    u32 v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}

/* MXCSR_MASK as FXSAVE reports it; 0 means the first processors' value. */
static u32 mxcsr_mask(u8 *fx) {
    __asm__ volatile("fxsave64 %0" : "=m"(*(u8(*)[512])fx));
    u32 mask = get32(fx + XS_MXCSR_MASK) & 0xffff;
    return mask ? mask : 0xffbf;
}

int soft_vec_create(struct soft_vcpu *c, struct host *host, struct vec_pool *pool) {
    if (c->ev->id >= POOL_VCPUS) {
        return -ERR_RANGE;
    }
    struct soft_vec *v = host->ops->pages(host, sizeof(*v));
    if (!v) {
        return -ERR_NOMEM;
    }
    v->pool = pool;
    v->host = host;
    v->index = c->ev->id;
    v->host_mxcsr = mxcsr_read() & ~0x3fu;
    v->mxcsr_mask = mxcsr_mask(v->fx);
    u32 leaf[4];
    cpuid_host(0x80000008, 0, leaf);
    v->linear_bits = (u8)(leaf[0] >> 8);
    c->vec = v;
    soft_vec_state_loaded(c);
    return 0;
}

void soft_vec_destroy(struct soft_vcpu *c, struct host *host) {
    if (c->vec) {
        host->ops->pages_free(host, c->vec, sizeof(*c->vec));
        c->vec = NULL;
    }
}
