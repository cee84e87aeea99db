/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware as a device; see acpi_dev.h and core/time/acpipm.h. */
#include "core/dev/acpi_dev.h"

struct acpi_device {
    struct device dev;
    struct acpipm pm;
    struct bus_region region;
};

static struct acpi_device *of(struct device *dev) {
    return CONTAINER_OF(dev, struct acpi_device, dev);
}

static u64 bus_read_port(void *device, u32 region, u64 offset, u32 size) {
    struct acpi_device *d = device;
    (void)region;
    return acpipm_read(&d->pm, (u32)offset, size);
}

static void bus_write_port(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct acpi_device *d = device;
    (void)region;
    acpipm_write(&d->pm, (u32)offset, size, (u32)value);
}

static const struct bus_ops ports = {bus_read_port, bus_write_port, 1, 4};

static void poweroff(void *ctx) {
    struct acpi_device *d = ctx;
    d->dev.env->request(d->dev.env->machine, MACHINE_POWEROFF, 0);
}

static void reset(struct device *dev) {
    acpipm_reset(&of(dev)->pm);
}

static void save(struct device *dev, struct snap_writer *w) {
    acpipm_save(&of(dev)->pm, w);
}

static int load(struct device *dev, struct snap_reader *r, u32 version) {
    return acpipm_load(&of(dev)->pm, r, version);
}

static void remove(struct device *dev) {
    struct acpi_device *d = of(dev);
    bus_unmap(dev->env->pio, &d->region);
    acpipm_fini(&d->pm);
    host_free(dev->env->host, d, sizeof(*d));
}

static const struct device_ops ops = {
    .name = "acpipm",
    .tag = SNAP_TAG('A', 'P', 'M', ' '),
    .version = 2,
    .reset = reset,
    .save = save,
    .load = load,
    .remove = remove,
};

int acpipm_add(struct device_list *list, struct device_env *env, struct acpipm **out,
               struct err *err) {
    struct acpi_device *d = host_alloc(env->host, sizeof(*d));
    if (!d) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the ACPI registers");
    }
    d->dev.ops = &ops;
    d->dev.env = env;
    d->region = (struct bus_region){
        .base = ACPIPM_PORT, .size = ACPIPM_SIZE, .ops = &ports, .device = d, .name = "acpipm"};
    int rc = acpipm_init(&d->pm, env->host, env->lock, env->irq);
    d->pm.poweroff = poweroff;
    d->pm.ctx = d;
    if (rc == 0) {
        rc = bus_map(env->pio, &d->region);
    }
    if (rc == 0) {
        rc = device_add(list, &d->dev, "acpipm");
    }
    if (rc < 0) {
        remove(&d->dev);
        return ERR_SET(err, (enum err_code) - rc, "cannot set up the ACPI registers: %s",
                       err_name(rc));
    }
    if (out) {
        *out = &d->pm;
    }
    return 0;
}
