/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI host bridge: configuration accesses, which BARs decode, INTx lines, and the addresses
 * firmware would assign. Sections and rules in pcihost.h. Lock rule: board lock held.
 */
#include "core/dev/pcihost.h"

#include "core/base/err.h"
#include "core/if/trace.h"

enum {
    CONFIG_ADDRESS = 0xcf8,
    RESET_CONTROL = 1, /* 0xcf9 */
    CONFIG_DATA = 4,   /* 0xcfc; offsets in the port region */
    PORT_COUNT = 8,
    ECAM_BUS_SHIFT = 20,
};

#define CONFIG_ENABLE BIT(31)
#define RESET_CPU     BIT(2) /* 0xcf9: rising edge resets */
#define RESET_SYSTEM  BIT(1)
#define HEADER_MULTI  0x80u
#define HOST_VENDOR   0x1b36 /* Red Hat: the generic PCI Express host bridge */
#define HOST_DEVICE   0x0008
#define HOST_CLASS    0x060000

/* --- configuration accesses ------------------------------------------------------------------- */

static u32 ones(u32 size) {
    return size >= 4 ? UINT32_MAX : (1u << (size * 8)) - 1;
}

static u32 host_config_read(struct pci_host *host, u32 devfn, u32 reg, u32 size) {
    struct pci_device *pci = host->function[devfn];
    if (!pci || !host->function[devfn & ~7u]) {
        return ones(size);
    }
    u32 value = pci_config_read(pci, reg, size);
    TRACE(host->bridge.dev.env->trace, TRACE_PCI, "pci %02x.%x: read %02x/%u = %x", devfn >> 3,
          devfn & 7, reg, size, value);
    return value;
}

static void host_config_write(struct pci_host *host, u32 devfn, u32 reg, u32 size, u32 value) {
    struct pci_device *pci = host->function[devfn];
    if (pci && host->function[devfn & ~7u]) {
        TRACE(host->bridge.dev.env->trace, TRACE_PCI, "pci %02x.%x: write %02x/%u = %x", devfn >> 3,
              devfn & 7, reg, size, value);
        pci_config_write(pci, reg, size, value);
    }
}

/* Mechanism 1: where CONFIG_ADDRESS points, or false when it points nowhere on this bus. */
static bool config_target(const struct pci_host *host, u64 offset, u32 *devfn, u32 *reg) {
    *devfn = (host->address >> 8) & 0xff;
    *reg = (host->address & 0xfc) + (u32)(offset - CONFIG_DATA);
    return (host->address & CONFIG_ENABLE) && ((host->address >> 16) & 0xff) == 0;
}

static u64 ports_read(void *device, u32 region UNUSED, u64 offset, u32 size) {
    struct pci_host *host = device;
    u32 devfn, reg;
    if (offset == 0 && size == 4) {
        return host->address;
    }
    if (offset == RESET_CONTROL && size == 1) {
        return host->reset_control;
    }
    if (offset < CONFIG_DATA || !config_target(host, offset, &devfn, &reg)) {
        return ones(size);
    }
    if (offset & (size - 1)) {
        u64 value = 0;
        for (u32 i = 0; i < size; i++) {
            value |= (u64)(host_config_read(host, devfn, reg + i, 1) & 0xff) << (i * 8);
        }
        return value;
    }
    return host_config_read(host, devfn, reg, size);
}

static void reset_control_write(struct pci_host *host, u8 value) {
    bool rising = (value & RESET_CPU) && !(host->reset_control & RESET_CPU);
    host->reset_control = value & (RESET_CPU | RESET_SYSTEM | 8);
    struct device_env *env = host->bridge.dev.env;
    if (rising && env->request) {
        env->request(env->machine, MACHINE_RESET, 0);
    }
}

static void ports_write(void *device, u32 region UNUSED, u64 offset, u32 size, u64 value) {
    struct pci_host *host = device;
    u32 devfn, reg;
    if (offset == 0 && size == 4) {
        host->address = (u32)value & 0x80fffffcu;
    } else if (offset == RESET_CONTROL && size == 1) {
        reset_control_write(host, (u8)value);
    } else if (offset >= CONFIG_DATA && config_target(host, offset, &devfn, &reg)) {
        u32 step = offset & (size - 1) ? 1 : size;
        for (u32 i = 0; i < size; i += step) {
            host_config_write(host, devfn, reg + i, step, (u32)(value >> (i * 8)));
        }
    }
}

static const struct bus_ops ports_ops = {ports_read, ports_write, 1, 4};

static u64 ecam_read(void *device, u32 region UNUSED, u64 offset, u32 size) {
    struct pci_host *host = device;
    u32 devfn = (u32)(offset >> PAGE_SHIFT) & 0xff, reg = (u32)(offset & PAGE_MASK);
    u64 value = 0;
    if (offset >> ECAM_BUS_SHIFT) {
        return ones(size);
    }
    if (!(reg & (size - 1))) {
        return host_config_read(host, devfn, reg, size);
    }
    for (u32 i = 0; i < size; i++) {
        value |= ecam_read(device, region, offset + i, 1) << (i * 8);
    }
    return value;
}

static void ecam_write(void *device, u32 region UNUSED, u64 offset, u32 size, u64 value) {
    struct pci_host *host = device;
    u32 devfn = (u32)(offset >> PAGE_SHIFT) & 0xff, reg = (u32)(offset & PAGE_MASK);
    if (offset >> ECAM_BUS_SHIFT) {
        return;
    }
    if (!(reg & (size - 1))) {
        host_config_write(host, devfn, reg, size, (u32)value);
        return;
    }
    for (u32 i = 0; i < size; i++) {
        ecam_write(device, region, offset + i, 1, (value >> (i * 8)) & 0xff);
    }
}

static const struct bus_ops ecam_ops = {ecam_read, ecam_write, 1, 4};

/* --- which BARs decode ------------------------------------------------------------------------ */

static bool overlap(u64 a, u64 a_size, u64 b, u64 b_size) {
    return a < b + b_size && b < a + a_size;
}

static bool inside(const struct pci_window *w, u64 base, u64 size) {
    return w->size && base >= w->base && size <= w->size && base - w->base <= w->size - size;
}

static bool place_ok(const struct pci_host *host, const struct pci_bar *bar, u64 base) {
    if (bar->kind == PCI_BAR_IO) {
        return inside(&host->opts.io, base, bar->size);
    }
    if (!inside(&host->opts.mem32, base, bar->size) &&
        !inside(&host->opts.mem64, base, bar->size)) {
        return false;
    }
    const struct ram *ram = host->bridge.dev.env->ram;
    for (u32 i = 0; ram && i < ram->count; i++) {
        if (overlap(base, bar->size, ram->slot[i].gpa, ram->slot[i].size)) {
            return false;
        }
    }
    return true;
}

static bool bar_enabled(const struct pci_device *pci, const struct pci_bar *bar) {
    u64 bit = bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    return bar->kind != PCI_BAR_NONE && (pci_get16(pci, PCI_COMMAND) & bit);
}

/* Is [base, base+size) taken by a wanted BAR with a lower bus address than devfn, index? */
static bool taken(const struct pci_host *host, u32 devfn, u32 index, const struct pci_bar *bar,
                  u64 base) {
    for (u32 d = 0; d <= devfn; d++) {
        const struct pci_device *other = host->function[d];
        for (u32 i = 0; other && i < (d == devfn ? index : (u32)PCI_BARS); i++) {
            const struct pci_bar *b = &other->bar[i];
            if (b->wanted && (b->kind == PCI_BAR_IO) == (bar->kind == PCI_BAR_IO) &&
                overlap(base, bar->size, b->target, b->size)) {
                return true;
            }
        }
    }
    return false;
}

static struct bus *bar_bus(const struct pci_host *host, const struct pci_bar *bar) {
    const struct device_env *env = host->bridge.dev.env;
    return bar->kind == PCI_BAR_IO ? env->pio : env->mmio;
}

static void bar_moved(struct pci_device *pci, u32 index) {
    if (pci->ops && pci->ops->bar_moved) {
        pci->ops->bar_moved(pci, index);
    }
}

static void bar_aim(struct pci_host *host, struct pci_device *pci, u32 index) {
    struct pci_bar *bar = &pci->bar[index];
    u64 base = pci_bar_address(pci, index);
    bar->wanted = bar_enabled(pci, bar) && place_ok(host, bar, base) &&
                  !taken(host, pci->devfn, index, bar, base);
    bar->target = base;
}

static void bar_leave(struct pci_host *host, struct pci_device *pci, u32 index) {
    struct pci_bar *bar = &pci->bar[index];
    if (bar->region.mapped && !(bar->wanted && bar->region.base == bar->target)) {
        bus_unmap(bar_bus(host, bar), &bar->region);
        bar_moved(pci, index);
    }
}

static void bar_enter(struct pci_host *host, struct pci_device *pci, u32 index) {
    struct pci_bar *bar = &pci->bar[index];
    if (bar->wanted && !bar->region.mapped) {
        bar->region.base = bar->target;
        if (bus_map(bar_bus(host, bar), &bar->region) == 0) {
            TRACE(pci->dev.env->trace, TRACE_PCI, "pci %02x.%x: BAR %u at %llx", pci->devfn >> 3,
                  pci->devfn & 7, index, (unsigned long long)bar->target);
            bar_moved(pci, index);
        }
    }
}

static void each_bar(struct pci_host *host,
                     void (*fn)(struct pci_host *, struct pci_device *, u32)) {
    for (u32 d = 0; d < ARRAY_LEN(host->function); d++) {
        for (u32 i = 0; host->function[d] && i < PCI_BARS; i++) {
            if (host->function[d]->bar[i].kind != PCI_BAR_NONE) {
                fn(host, host->function[d], i);
            }
        }
    }
}

void pci_host_remap(struct pci_host *host) {
    if (host) {
        each_bar(host, bar_aim);
        each_bar(host, bar_leave); /* all leave before any enters: two may change places */
        each_bar(host, bar_enter);
    }
}

/* --- INTx ------------------------------------------------------------------------------------- */

u32 pci_intx_gsi(u32 slot, u32 pin) {
    return PCI_GSI_BASE + ((slot + pin) & (PCI_GSI_COUNT - 1));
}

void pci_host_intx_update(struct pci_host *host) {
    bool level[PCI_GSI_COUNT] = {false};
    for (u32 d = 0; d < ARRAY_LEN(host->function); d++) {
        const struct pci_device *pci = host->function[d];
        if (pci && pci->intx_line) {
            level[pci_intx_gsi(d >> 3, d & 7) - PCI_GSI_BASE] = true;
        }
    }
    for (u32 i = 0; i < PCI_GSI_COUNT; i++) {
        if (host->gsi_level[i] != level[i]) {
            host->gsi_level[i] = level[i];
            irq_set(host->bridge.dev.env->irq, PCI_GSI_BASE + i, level[i]);
        }
    }
}

/* --- devices on the bus ----------------------------------------------------------------------- */

static void place(struct pci_host *host, struct pci_device *pci, u32 devfn) {
    pci->host = host;
    pci->devfn = (u8)devfn;
    host->function[devfn] = pci;
    if (pci->config[PCI_INTERRUPT_PIN]) {
        /* function f drives pin f (mod 4): each function has a line of its own */
        pci->config[PCI_INTERRUPT_PIN] = (u8)((devfn & 3) + 1);
        pci->config[PCI_INTERRUPT_LINE] = (u8)pci_intx_gsi(devfn >> 3, devfn & 7);
    }
    memcpy(pci->reset_config, pci->config, sizeof(pci->config));
}

int pci_device_add(struct pci_host *host, struct pci_device *pci, int slot, struct err *err) {
    if (slot == PCI_SLOT_AUTO) {
        for (slot = 1; slot < PCI_SLOTS && host->function[slot * 8]; slot++) {
        }
        if (slot == PCI_SLOTS) {
            return ERR_SET(err, ERR_NOMEM, "PCI bus 0 is full: %d devices at most", PCI_SLOTS - 1);
        }
    }
    if (slot < 1 || slot >= PCI_SLOTS) {
        return ERR_SET(err, ERR_RANGE, "PCI slot %d: must be 1 to %d", slot, PCI_SLOTS - 1);
    }
    if (host->function[slot * 8]) {
        return ERR_SET(err, ERR_EXISTS, "PCI slot %d is taken", slot);
    }
    place(host, pci, (u32)slot * 8);
    return 0;
}

int pci_function_add(struct pci_host *host, struct pci_device *pci, u32 slot, u32 function,
                     struct err *err) {
    if (slot >= PCI_SLOTS || !function || function >= PCI_FUNCTIONS || !host->function[slot * 8] ||
        host->function[slot * 8 + function]) {
        return ERR_SET(err, ERR_INVAL, "PCI function %u.%u cannot be added", slot, function);
    }
    struct pci_device *first = host->function[slot * 8];
    first->config[PCI_HEADER_TYPE] |= HEADER_MULTI;
    first->reset_config[PCI_HEADER_TYPE] |= HEADER_MULTI;
    pci->config[PCI_HEADER_TYPE] |= HEADER_MULTI;
    place(host, pci, slot * 8 + function);
    return 0;
}

void pci_host_detach(struct pci_host *host, struct pci_device *pci) {
    for (u32 i = 0; i < PCI_BARS; i++) {
        if (pci->bar[i].region.mapped) {
            bus_unmap(bar_bus(host, &pci->bar[i]), &pci->bar[i].region);
            bar_moved(pci, i);
        }
        pci->bar[i].wanted = false;
    }
    host->function[pci->devfn] = NULL;
    pci->host = NULL;
    pci_host_remap(host); /* others may decode what this one hid */
}

/* --- firmware --------------------------------------------------------------------------------- */

/* The first naturally aligned free place at or behind *next in the window; 0: none. */
static u64 window_take(const struct pci_window *w, u64 *next, u64 size) {
    u64 base = ALIGN_UP(MAX(*next, w->base), size);
    if (!inside(w, base, size)) {
        return 0;
    }
    *next = base + size;
    return base;
}

static int assign(struct pci_host *host, struct pci_device *pci, u32 index, u64 next[3],
                  struct err *err) {
    const struct pci_bar *bar = &pci->bar[index];
    u64 base = 0;
    if (bar->kind == PCI_BAR_IO) {
        base = window_take(&host->opts.io, &next[0], bar->size);
    } else {
        /* below 4 GiB as long as there is room: kernels without PAE reach nothing else */
        base = window_take(&host->opts.mem32, &next[1], bar->size);
        if (!base && bar->kind == PCI_BAR_MEM64) {
            base = window_take(&host->opts.mem64, &next[2], bar->size);
        }
    }
    if (!base) {
        return ERR_SET(err, ERR_NOMEM, "no room on the PCI bus for BAR %u (%llu bytes) of %s",
                       index, (unsigned long long)bar->size, pci->dev.id);
    }
    pci_bar_set_address(pci, index, base);
    return 0;
}

int pci_host_firmware(struct pci_host *host, struct err *err) {
    u64 next[3] = {0};
    for (u32 d = 0; d < ARRAY_LEN(host->function); d++) {
        struct pci_device *pci = host->function[d];
        u32 command = 0;
        for (u32 i = 0; pci && i < PCI_BARS; i++) {
            if (pci->bar[i].kind != PCI_BAR_NONE) {
                int error = assign(host, pci, i, next, err);
                if (error) {
                    return error;
                }
                command |= pci->bar[i].kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
            }
        }
        if (pci) {
            pci_config_write(pci, PCI_COMMAND, 2, command);
            memcpy(pci->reset_config, pci->config, sizeof(pci->config));
        }
    }
    return 0;
}

/* --- the bridge as a device ------------------------------------------------------------------- */

static void host_reset(struct device *dev) {
    struct pci_host *host = CONTAINER_OF(dev, struct pci_host, bridge.dev);
    host->address = 0;
    host->reset_control = 0;
    pci_device_reset(&host->bridge);
}

static void host_save(struct device *dev, struct snap_writer *w) {
    struct pci_host *host = CONTAINER_OF(dev, struct pci_host, bridge.dev);
    snap_put32(w, host->address);
    snap_put8(w, host->reset_control);
    pci_device_save(&host->bridge, w);
}

static int host_load(struct device *dev, struct snap_reader *r, u32 version UNUSED) {
    struct pci_host *host = CONTAINER_OF(dev, struct pci_host, bridge.dev);
    host->address = snap_get32(r) & 0x80fffffcu;
    host->reset_control = snap_get8(r);
    return pci_device_load(&host->bridge, r);
}

static void host_remove(struct device *dev) {
    struct pci_host *host = CONTAINER_OF(dev, struct pci_host, bridge.dev);
    pci_device_remove(&host->bridge);
    bus_unmap(dev->env->pio, &host->ports);
    if (host->ecam.mapped) {
        bus_unmap(dev->env->mmio, &host->ecam);
    }
}

static const struct device_ops host_ops = {
    .name = "pci-host",
    .tag = SNAP_TAG('P', 'C', 'I', 'H'),
    .version = 1,
    .reset = host_reset,
    .save = host_save,
    .load = host_load,
    .remove = host_remove,
};

int pci_host_init(struct pci_host *host, struct device_env *env, const struct pci_host_opts *opts,
                  struct err *err) {
    const struct pci_ids ids = {.vendor = HOST_VENDOR,
                                .device = HOST_DEVICE,
                                .subsystem_vendor = 0x1af4,
                                .subsystem = 0x1100,
                                .class_code = HOST_CLASS};
    host->opts = *opts;
    host->bridge.dev.ops = &host_ops;
    host->bridge.dev.env = env;
    pci_device_init(&host->bridge, &ids, NULL);
    place(host, &host->bridge, 0);
    host->ports = (struct bus_region){.base = CONFIG_ADDRESS,
                                      .size = PORT_COUNT,
                                      .ops = &ports_ops,
                                      .device = host,
                                      .name = "pci-config"};
    if (bus_map(env->pio, &host->ports)) {
        return ERR_SET(err, ERR_EXISTS, "ports 0xcf8 to 0xcff are taken: no PCI host bridge");
    }
    if (!opts->ecam_base) {
        return 0;
    }
    host->ecam = (struct bus_region){.base = opts->ecam_base,
                                     .size = (u64)opts->ecam_buses << ECAM_BUS_SHIFT,
                                     .ops = &ecam_ops,
                                     .device = host,
                                     .name = "pci-ecam"};
    if (bus_map(env->mmio, &host->ecam)) {
        bus_unmap(env->pio, &host->ports);
        return ERR_SET(err, ERR_EXISTS, "the PCI configuration window at %#llx is taken",
                       (unsigned long long)opts->ecam_base);
    }
    return 0;
}
