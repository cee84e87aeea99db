/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device: a name, its registers on the buses, and its life. Every device saves and loads.
 * Devices live in a list of the machine; core/dev/device.c resets, saves and loads them in order.
 *
 * Lock rule: reset, save and load (and the _all functions) with the board lock held, because timers
 * and back ends go on while the processors stand still. remove without it: it waits for callbacks
 * that take it.
 */
#ifndef CORE_DEV_DEVICE_H
#define CORE_DEV_DEVICE_H

#include "core/base/err.h"
#include "core/base/snap.h"
#include "core/base/types.h"
#include "core/if/host.h"
#include "core/if/mutex.h"
#include "core/irq/irq.h"
#include "core/mem/bus.h"
#include "core/mem/ram.h"

struct device;
struct trace;

struct device_ops {
    const char *name; /* "uart16550" */
    u32 tag;          /* SNAP_TAG of its section */
    u32 version;      /* newest section version it writes; it loads 1..version */
    void (*reset)(struct device *dev);
    void (*save)(struct device *dev, struct snap_writer *w);
    /* Reads its section's payload. Hostile input: check every index and length. 0 or -ERR_FORMAT.
     */
    int (*load)(struct device *dev, struct snap_reader *r, u32 version);
    /* Unmaps, stops timers, frees. */
    void (*remove)(struct device *dev);
    /* Optional (NULL), for devices with requests at a back end; no lock held, vCPUs stopped. pause
     * returns when nothing is in flight and starts nothing new; needed before save, load and
     * reset. resume ends that. */
    void (*pause)(struct device *dev);
    void (*resume)(struct device *dev);
};

/* What a device may use of the machine; filled by the board before the device's init. */
struct device_env {
    struct host *host;
    struct mutex *lock; /* the board lock */
    struct bus *pio;
    struct bus *mmio;
    struct ram *ram;
    struct irqchip *irq;
    const struct trace *trace; /* core/if/trace.h; may be NULL */
    /* Asks for the machine to stop or reset; any thread. code is for MACHINE_EXIT_CODE only. */
    void (*request)(void *machine, int request, int code);
    void *machine;
};

enum machine_request { MACHINE_POWEROFF, MACHINE_RESET, MACHINE_EXIT_CODE, MACHINE_STOP_ERROR };

/* First member of each device's own structure. */
struct device {
    const struct device_ops *ops;
    struct device_env *env;
    char id[32]; /* unique in the machine: "serial0" */
    struct device *next;
};

struct device_list {
    struct device *first;
};

int device_add(struct device_list *list, struct device *dev, const char *id);
struct device *device_find(struct device_list *list, const char *id);
void device_reset_all(struct device_list *list);
void device_remove_all(struct device_list *list);
/* Around save, load and reset of a machine that ran; the board lock is not held. */
static inline void device_pause_all(struct device_list *list) {
    for (struct device *dev = list->first; dev; dev = dev->next) {
        if (dev->ops->pause) {
            dev->ops->pause(dev);
        }
    }
}

static inline void device_resume_all(struct device_list *list) {
    for (struct device *dev = list->first; dev; dev = dev->next) {
        if (dev->ops->resume) {
            dev->ops->resume(dev);
        }
    }
}

/* One section per device: tag DEVL, then for each its id and its section. */
void device_save_all(struct device_list *list, struct snap_writer *w);
int device_load_all(struct device_list *list, struct snap_reader *r);

#endif
