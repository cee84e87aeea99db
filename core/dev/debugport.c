/* SPDX-License-Identifier: Apache-2.0 */
/* Ports 0xe9, 0x80 and 0xed; see debugport.h. */
#include "core/dev/debugport.h"

enum { PORT_DEBUG, PORT_POST, PORT_DELAY, PORT_COUNT, DEBUG_MAGIC = 0xe9 };

static const u16 port_number[PORT_COUNT] = {0xe9, 0x80, 0xed};

struct debugport {
    struct device dev;
    struct bus_region region[PORT_COUNT];
    struct char_backend *backend;
    u8 last[PORT_COUNT];
};

static struct debugport *of(struct device *dev) {
    return CONTAINER_OF(dev, struct debugport, dev);
}

static u64 read(void *device, u32 region, u64 offset, u32 size) {
    struct debugport *d = device;
    (void)offset;
    (void)size;
    return region == PORT_DEBUG ? DEBUG_MAGIC : d->last[region];
}

static void write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct debugport *d = device;
    u8 byte = (u8)value;
    (void)offset;
    (void)size;
    d->last[region] = byte;
    if (region == PORT_DEBUG && d->backend) {
        d->backend->ops->write(d->backend, &byte, 1);
    }
}

static const struct bus_ops ports = {read, write, 1, 1};

static void reset(struct device *dev) {
    memset(of(dev)->last, 0, sizeof(of(dev)->last));
}

static void save(struct device *dev, struct snap_writer *w) {
    snap_put(w, of(dev)->last, sizeof(of(dev)->last));
}

static int load(struct device *dev, struct snap_reader *r, u32 version) {
    (void)version;
    snap_get(r, of(dev)->last, sizeof(of(dev)->last));
    return snap_finish(r);
}

static void remove(struct device *dev) {
    struct debugport *d = of(dev);
    for (u32 i = 0; i < PORT_COUNT; i++) {
        bus_unmap(dev->env->pio, &d->region[i]);
    }
    host_free(dev->env->host, d, sizeof(*d));
}

static const struct device_ops ops = {
    .name = "debugport",
    .tag = SNAP_TAG('D', 'B', 'G', 'P'),
    .version = 1,
    .reset = reset,
    .save = save,
    .load = load,
    .remove = remove,
};

int debugport_add(struct device_list *list, struct device_env *env, struct char_backend *backend,
                  struct err *err) {
    struct debugport *d = host_alloc(env->host, sizeof(*d));
    if (!d) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the debug ports");
    }
    d->dev.ops = &ops;
    d->dev.env = env;
    d->backend = backend;
    int rc = 0;
    for (u32 i = 0; rc == 0 && i < PORT_COUNT; i++) {
        d->region[i] = (struct bus_region){.base = port_number[i],
                                           .size = 1,
                                           .ops = &ports,
                                           .device = d,
                                           .region = i,
                                           .name = "debugport"};
        rc = bus_map(env->pio, &d->region[i]);
    }
    if (rc == 0) {
        rc = device_add(list, &d->dev, "debugport");
    }
    if (rc < 0) {
        remove(&d->dev);
        return ERR_SET(err, (enum err_code) - rc, "cannot set up the debug ports: %s",
                       err_name(rc));
    }
    return 0;
}
