/* SPDX-License-Identifier: Apache-2.0 */
/* The real-time clock as a device; see rtc_dev.h and core/time/rtc.h. */
#include "core/dev/rtc_dev.h"

#include "core/time/rtc.h"

struct rtc_device {
    struct device dev;
    struct rtc rtc;
    struct bus_region region;
};

static struct rtc_device *of(struct device *dev) {
    return CONTAINER_OF(dev, struct rtc_device, dev);
}

static u64 bus_read_port(void *device, u32 region, u64 offset, u32 size) {
    struct rtc_device *d = device;
    (void)region;
    (void)size;
    return rtc_read(&d->rtc, (u32)offset);
}

static void bus_write_port(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct rtc_device *d = device;
    (void)region;
    (void)size;
    rtc_write(&d->rtc, (u32)offset, (u8)value);
}

static const struct bus_ops ports = {bus_read_port, bus_write_port, 1, 1};

static void reset(struct device *dev) {
    rtc_reset(&of(dev)->rtc);
}

static void save(struct device *dev, struct snap_writer *w) {
    rtc_save(&of(dev)->rtc, w);
}

static int load(struct device *dev, struct snap_reader *r, u32 version) {
    (void)version;
    return rtc_load(&of(dev)->rtc, r);
}

static void remove(struct device *dev) {
    struct rtc_device *d = of(dev);
    bus_unmap(dev->env->pio, &d->region);
    rtc_fini(&d->rtc);
    host_free(dev->env->host, d, sizeof(*d));
}

static const struct device_ops ops = {
    .name = "rtc",
    .tag = SNAP_TAG('R', 'T', 'C', ' '),
    .version = 1,
    .reset = reset,
    .save = save,
    .load = load,
    .remove = remove,
};

int rtc_add(struct device_list *list, struct device_env *env, const struct rtc_config *cfg,
            struct err *err) {
    struct rtc_device *d = host_alloc(env->host, sizeof(*d));
    if (!d) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the real-time clock");
    }
    d->dev.ops = &ops;
    d->dev.env = env;
    d->region =
        (struct bus_region){.base = RTC_PORT, .size = 2, .ops = &ports, .device = d, .name = "rtc"};
    int rc = rtc_init(&d->rtc, env->host, env->lock, env->irq);
    if (rc == 0) {
        rtc_set_memory(&d->rtc, cfg->low_memory, cfg->high_memory, cfg->vcpus);
        rc = bus_map(env->pio, &d->region);
    }
    if (rc == 0) {
        rc = device_add(list, &d->dev, "rtc");
    }
    if (rc < 0) {
        remove(&d->dev);
        return ERR_SET(err, (enum err_code) - rc, "cannot set up the real-time clock: %s",
                       err_name(rc));
    }
    return 0;
}
