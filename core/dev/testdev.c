/* SPDX-License-Identifier: Apache-2.0 */
/* isa-debug-exit and pc-testdev; see testdev.h. */
#include "core/dev/testdev.h"

enum {
    REGION_EXIT,
    REGION_PORT,
    REGION_FLUSH,
    REGION_BYTE_LOW,  /* 0xe8 */
    REGION_BYTE_HIGH, /* 0xea, 0xeb */
    REGION_LINES,
    REGION_MEMORY,
    REGION_COUNT
};

struct testdev {
    struct device dev;
    struct bus_region region[REGION_COUNT];
    u32 port;  /* 0xe0..0xe3 */
    u32 lines; /* levels by GSI */
    u8 memory[TESTDEV_MEMORY];
};

static struct testdev *of(struct device *dev) {
    return CONTAINER_OF(dev, struct testdev, dev);
}

/* --- ports --------------------------------------------------------------------------------------
 */

/* Where in the register a port of one of the two windows lies. */
static u32 port_shift(u32 region, u64 offset) {
    u32 at = region == REGION_BYTE_HIGH ? (u32)offset + 2 : (u32)offset;
    return (at & 3) * 8;
}

static u64 port_read(void *device, u32 region, u64 offset, u32 size) {
    struct testdev *t = device;
    (void)size; /* the bus cuts what is too much */
    return t->port >> port_shift(region, offset);
}

static void port_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct testdev *t = device;
    u32 shift = port_shift(region, offset);
    u32 mask = (u32)((BIT(size * 8) - 1) << shift);
    t->port = (t->port & ~mask) | ((u32)value << shift & mask);
}

static u64 zero_read(void *device, u32 region, u64 offset, u32 size) {
    (void)device;
    (void)region;
    (void)offset;
    (void)size;
    return 0;
}

/* QEMU drops its mapping of the page whose address is written; here there is none to drop. */
static void flush_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    (void)device;
    (void)region;
    (void)offset;
    (void)size;
    (void)value;
}

static void exit_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct testdev *t = device;
    (void)region;
    (void)offset;
    (void)size;
    int code = (int)((value & 0x7f) << 1 | 1); /* what a process can report */
    t->dev.env->request(t->dev.env->machine, MACHINE_EXIT_CODE, code);
}

static u64 line_read(void *device, u32 region, u64 offset, u32 size) {
    struct testdev *t = device;
    (void)region;
    (void)size;
    return t->lines >> offset & 1;
}

static void line_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct testdev *t = device;
    u32 bit = 1u << offset;
    (void)region;
    (void)size;
    t->lines = value ? t->lines | bit : t->lines & ~bit;
    irq_set(t->dev.env->irq, (u32)offset, value != 0);
}

/* --- memory -------------------------------------------------------------------------------------
 */

static u64 memory_read(void *device, u32 region, u64 offset, u32 size) {
    struct testdev *t = device;
    u64 value = 0;
    (void)region;
    memcpy(&value, t->memory + offset, size);
    return value;
}

static void memory_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct testdev *t = device;
    (void)region;
    memcpy(t->memory + offset, &value, size);
}

static const struct bus_ops exit_ops = {zero_read, exit_write, 1, 4};
static const struct bus_ops port_ops = {port_read, port_write, 1, 4};
static const struct bus_ops byte_ops = {port_read, port_write, 1, 1};
static const struct bus_ops flush_ops = {zero_read, flush_write, 1, 4};
static const struct bus_ops line_ops = {line_read, line_write, 1, 1};
static const struct bus_ops memory_ops = {memory_read, memory_write, 1, 8};

static const struct {
    u64 base, size;
    const struct bus_ops *ops;
    const char *name;
} regions[REGION_COUNT] = {
    [REGION_EXIT] = {0xf4, 4, &exit_ops, "isa-debug-exit"},
    [REGION_PORT] = {0xe0, 4, &port_ops, "testdev-port"},
    [REGION_FLUSH] = {0xe4, 4, &flush_ops, "testdev-flush"},
    [REGION_BYTE_LOW] = {0xe8, 1, &byte_ops, "testdev-byte"},
    [REGION_BYTE_HIGH] = {0xea, 2, &byte_ops, "testdev-byte"},
    [REGION_LINES] = {0x2000, TESTDEV_LINES, &line_ops, "testdev-lines"},
    [REGION_MEMORY] = {TESTDEV_MEMORY_BASE, TESTDEV_MEMORY, &memory_ops, "testdev-memory"},
};

/* --- life and state -----------------------------------------------------------------------------
 */

/* Drives the lines that this device has or had up; the others belong to other devices. */
static void change_lines(struct testdev *t, u32 lines) {
    u32 touched = t->lines | lines;
    t->lines = lines;
    for (u32 gsi = 0; gsi < TESTDEV_LINES; gsi++) {
        if (touched >> gsi & 1) {
            irq_set(t->dev.env->irq, gsi, lines >> gsi & 1);
        }
    }
}

static void reset(struct device *dev) {
    struct testdev *t = of(dev);
    change_lines(t, 0);
    t->port = 0;
    memset(t->memory, 0, sizeof(t->memory));
}

static void save(struct device *dev, struct snap_writer *w) {
    struct testdev *t = of(dev);
    snap_put32(w, t->port);
    snap_put32(w, t->lines);
    snap_put(w, t->memory, sizeof(t->memory));
}

static int load(struct device *dev, struct snap_reader *r, u32 version) {
    struct testdev *t = of(dev);
    (void)version;
    t->port = snap_get32(r);
    u32 lines = snap_get32(r);
    snap_get(r, t->memory, sizeof(t->memory));
    r->failed = r->failed || lines >> TESTDEV_LINES;
    change_lines(t, r->failed ? 0 : lines);
    return snap_finish(r);
}

static void remove(struct device *dev) {
    struct testdev *t = of(dev);
    for (u32 i = 0; i < REGION_COUNT; i++) {
        bus_unmap(i == REGION_MEMORY ? dev->env->mmio : dev->env->pio, &t->region[i]);
    }
    host_free(dev->env->host, t, sizeof(*t));
}

static const struct device_ops ops = {
    .name = "testdev",
    .tag = SNAP_TAG('T', 'E', 'S', 'T'),
    .version = 1,
    .reset = reset,
    .save = save,
    .load = load,
    .remove = remove,
};

static int map_all(struct testdev *t) {
    int rc = 0;
    for (u32 i = 0; rc == 0 && i < REGION_COUNT; i++) {
        t->region[i] = (struct bus_region){
            .base = regions[i].base,
            .size = regions[i].size,
            .ops = regions[i].ops,
            .device = t,
            .region = i,
            .name = regions[i].name,
        };
        rc = bus_map(i == REGION_MEMORY ? t->dev.env->mmio : t->dev.env->pio, &t->region[i]);
    }
    return rc;
}

int testdev_add(struct device_list *list, struct device_env *env, struct err *err) {
    struct testdev *t = host_alloc(env->host, sizeof(*t));
    if (!t) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the test devices");
    }
    t->dev.ops = &ops;
    t->dev.env = env;
    int rc = map_all(t);
    if (rc == 0) {
        rc = device_add(list, &t->dev, "testdev");
    }
    if (rc < 0) {
        remove(&t->dev);
        return ERR_SET(err, (enum err_code) - rc, "cannot set up the test devices: %s",
                       err_name(rc));
    }
    return 0;
}
