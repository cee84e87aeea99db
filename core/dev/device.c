/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's list of devices; see device.h.
 *
 *   DEVL { count u32, count x { id (32 bytes, NUL-padded), section of the device } }
 */
#include "core/dev/device.h"

#include "core/base/fmt.h"

#define TAG_LIST SNAP_TAG('D', 'E', 'V', 'L')

enum { VERSION = 1 };

int device_add(struct device_list *list, struct device *dev, const char *id) {
    if (!*id || str_len(id) >= sizeof(dev->id)) {
        return -ERR_INVAL;
    }
    if (device_find(list, id)) {
        return -ERR_EXISTS;
    }
    memset(dev->id, 0, sizeof(dev->id));
    str_copy(dev->id, sizeof(dev->id), id);
    struct device **at = &list->first;
    while (*at) {
        at = &(*at)->next;
    }
    dev->next = NULL;
    *at = dev;
    return 0;
}

struct device *device_find(struct device_list *list, const char *id) {
    struct device *dev = list->first;
    while (dev && !str_eq(dev->id, id)) {
        dev = dev->next;
    }
    return dev;
}

void device_reset_all(struct device_list *list) {
    for (struct device *dev = list->first; dev; dev = dev->next) {
        if (dev->ops->reset) {
            dev->ops->reset(dev);
        }
    }
}

/* Last in, first out: a device may stand on an earlier one. */
void device_remove_all(struct device_list *list) {
    while (list->first) {
        struct device **at = &list->first;
        while ((*at)->next) {
            at = &(*at)->next;
        }
        struct device *dev = *at;
        *at = NULL;
        if (dev->ops->remove) {
            dev->ops->remove(dev);
        }
    }
}

static u32 count_of(const struct device_list *list) {
    u32 count = 0;
    for (const struct device *dev = list->first; dev; dev = dev->next) {
        count++;
    }
    return count;
}

void device_save_all(struct device_list *list, struct snap_writer *w) {
    size_t all = snap_begin(w, TAG_LIST, VERSION);
    snap_put32(w, count_of(list));
    for (struct device *dev = list->first; dev; dev = dev->next) {
        snap_put(w, dev->id, sizeof(dev->id));
        size_t at = snap_begin(w, dev->ops->tag, dev->ops->version);
        dev->ops->save(dev, w);
        snap_end(w, at);
    }
    snap_end(w, all);
}

/* Devices come in the order of the list, the same in every machine of this configuration. */
static int load_device(struct device *dev, struct snap_reader *r) {
    char id[sizeof(dev->id)];
    struct snap_reader sub;
    snap_get(r, id, sizeof(id));
    if (r->failed || memcmp(id, dev->id, sizeof(id)) != 0) {
        return -ERR_FORMAT;
    }
    u32 version = snap_section(r, dev->ops->tag, dev->ops->version, &sub);
    int rc = version ? dev->ops->load(dev, &sub, version) : -ERR_FORMAT;
    return rc ? rc : snap_finish(&sub);
}

int device_load_all(struct device_list *list, struct snap_reader *r) {
    struct snap_reader sub;
    int rc = snap_section(r, TAG_LIST, VERSION, &sub) && snap_get32(&sub) == count_of(list)
                 ? 0
                 : -ERR_FORMAT;
    for (struct device *dev = list->first; dev && rc == 0; dev = dev->next) {
        rc = load_device(dev, &sub);
    }
    rc = rc ? rc : snap_finish(&sub);
    if (rc < 0) {
        device_reset_all(list); /* nothing half-loaded goes on */
    }
    return rc;
}
