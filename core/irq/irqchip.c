/* SPDX-License-Identifier: Apache-2.0 */
/* The interrupt chips as one, and the way from a line or message to a processor; see irqchip.h. */
#include "core/irq/irqchip.h"

enum {
    GSI_PIT = 0,
    PIN_PIT = 2, /* where IRQ 0 arrives at the IOAPIC */
    MAX_PINS = IOAPIC_PINS,
};

/* MSI (SDM volume 3, section 11.11): address 0xfeeDDxxx, DD the destination. */
#define MSI_ADDRESS_MASK 0xfffffffffff00000ull
#define MSI_ADDRESS      0xfee00000ull
#define MSI_LOGICAL      BIT(2)
#define MSI_DATA_LEVEL   BIT(15)

static void lock(struct irqchip *chip) {
    mutex_lock(chip->host, &chip->lock);
}

static void unlock(struct irqchip *chip) {
    mutex_unlock(chip->host, &chip->lock);
}

/* --- messages -----------------------------------------------------------------------------------
 */

/* Among those addressed the one with the lowest processor priority; equals take turns. */
static void route_lowest(struct irqchip *chip, const struct apic_msg *msg) {
    u32 start = __atomic_fetch_add(&chip->next_lowest, 1, __ATOMIC_RELAXED);
    struct lapic *best = NULL;
    int best_priority = 0;
    for (u32 i = 0; i < chip->count; i++) {
        struct lapic *l = &chip->lapic[(start + i) % chip->count];
        int priority = lapic_match(l, msg) ? lapic_priority(l) : -1;
        if (priority >= 0 && (!best || priority < best_priority)) {
            best = l;
            best_priority = priority;
        }
    }
    if (best) {
        lapic_deliver(best, msg);
    }
}

void irqchip_route(struct irqchip *chip, const struct apic_msg *msg) {
    if (msg->delivery == DELIVERY_LOWEST) {
        route_lowest(chip, msg);
        return;
    }
    for (u32 i = 0; i < chip->count; i++) {
        if (lapic_match(&chip->lapic[i], msg)) {
            lapic_deliver(&chip->lapic[i], msg);
        }
    }
}

void irq_msi(struct irqchip *chip, u64 address, u32 data) {
    if (chip->in_engine) {
        chip->vm->ops->msi(chip->vm, address, data);
        return;
    }
    if ((address & MSI_ADDRESS_MASK) != MSI_ADDRESS) {
        return;
    }
    struct apic_msg msg = {
        .dest = (u32)(address >> 12) & 0xff,
        .logical = address & MSI_LOGICAL,
        .level = data & MSI_DATA_LEVEL,
        .delivery = (u8)((data >> 8) & 7),
        .vector = (u8)data,
    };
    irqchip_route(chip, &msg);
}

void irqchip_eoi(struct irqchip *chip, u8 vector) {
    lock(chip);
    ioapic_eoi(&chip->ioapic, vector);
    unlock(chip);
}

int irqchip_nmi(struct irqchip *chip) {
    if (chip->in_engine) {
        return -ERR_UNSUPPORTED;
    }
    for (u32 i = 0; i < chip->count; i++) {
        lapic_lint_set(&chip->lapic[i], 1, true);
        lapic_lint_set(&chip->lapic[i], 1, false);
    }
    return 0;
}

/* --- lines --------------------------------------------------------------------------------------
 */

/* After anything that may have changed the PIC's INTR: it is wired to LINT0 of every processor. */
static void pic_propagate(struct irqchip *chip, bool before) {
    if (chip->pic.output != before) {
        for (u32 i = 0; i < chip->count; i++) {
            lapic_lint_set(&chip->lapic[i], 0, chip->pic.output);
        }
    }
}

static void set_line(struct irqchip *chip, u32 gsi, bool level) {
    bool before = chip->pic.output;
    if (gsi < ISA_LINES) {
        pic_set_line(&chip->pic, gsi, level);
        pic_propagate(chip, before);
    }
    ioapic_set_line(&chip->ioapic, gsi == GSI_PIT ? PIN_PIT : gsi, level);
}

/* Devices repeat levels freely; only a change is worth a lock, or a call into the kernel. Each line
 * has one driver, so nobody else changes its bit meanwhile. */
static bool unchanged(const struct irqchip *chip, u32 gsi, bool level) {
    u32 bit = 1u << gsi;
    u32 lines = __atomic_load_n(&chip->lines, __ATOMIC_ACQUIRE);
    return (__atomic_load_n(&chip->lines_known, __ATOMIC_ACQUIRE) & bit) &&
           !(lines & bit) == !level;
}

static void remember(struct irqchip *chip, u32 gsi, bool level) {
    u32 bit = 1u << gsi;
    if (level) {
        __atomic_fetch_or(&chip->lines, bit, __ATOMIC_RELEASE);
    } else {
        __atomic_fetch_and(&chip->lines, ~bit, __ATOMIC_RELEASE);
    }
    __atomic_fetch_or(&chip->lines_known, bit, __ATOMIC_RELEASE);
}

static void forget_lines(struct irqchip *chip) {
    __atomic_store_n(&chip->lines_known, 0, __ATOMIC_RELEASE);
}

void irq_set(struct irqchip *chip, u32 gsi, bool level) {
    if (gsi >= MAX_PINS || unchanged(chip, gsi, level)) {
        return;
    }
    lock(chip);
    remember(chip, gsi, level);
    if (chip->in_engine) {
        chip->vm->ops->irq_line(chip->vm, gsi, level);
    } else {
        set_line(chip, gsi, level);
    }
    unlock(chip);
}

void irq_set_shared(struct irqchip *chip, u32 gsi, u32 driver, bool level) {
    if (gsi >= ISA_LINES || driver > 7) {
        return;
    }
    u8 bit = (u8)(1u << driver);
    chip->drivers[gsi] = (u8)(level ? chip->drivers[gsi] | bit : chip->drivers[gsi] & ~bit);
    irq_set(chip, gsi, chip->drivers[gsi] != 0);
}

void irq_pulse(struct irqchip *chip, u32 gsi) {
    irq_set(chip, gsi, true);
    irq_set(chip, gsi, false);
}

/* --- the processor's side -----------------------------------------------------------------------
 */

struct lapic *irqchip_lapic(struct irqchip *chip, u32 vcpu_id) {
    return !chip->in_engine && vcpu_id < chip->count ? &chip->lapic[vcpu_id] : NULL;
}

static bool extint_pending(struct irqchip *chip, struct lapic *l) {
    return __atomic_load_n(&chip->pic.output, __ATOMIC_RELAXED) && lapic_takes_extint(l);
}

bool irqchip_pending(struct irqchip *chip, u32 vcpu_id) {
    struct lapic *l = irqchip_lapic(chip, vcpu_id);
    return l && (lapic_pending(l) >= 0 || extint_pending(chip, l));
}

/* Another processor may have been faster at the PIC: then nothing is taken. */
static int accept_extint(struct irqchip *chip, struct lapic *l) {
    int vector = -1;
    lock(chip);
    if (extint_pending(chip, l)) {
        bool before = chip->pic.output;
        vector = pic_accept(&chip->pic);
        lapic_extint_done(l);
        if (chip->pic.output && before) {
            /* INTR dropped for a moment and rose again: a new edge at LINT0. */
            for (u32 i = 0; i < chip->count; i++) {
                lapic_lint_set(&chip->lapic[i], 0, false);
                lapic_lint_set(&chip->lapic[i], 0, true);
            }
        }
        pic_propagate(chip, before);
    }
    unlock(chip);
    return vector;
}

int irqchip_accept(struct irqchip *chip, u32 vcpu_id) {
    struct lapic *l = irqchip_lapic(chip, vcpu_id);
    if (!l) {
        return -1;
    }
    int vector = lapic_accept(l);
    return vector >= 0 ? vector : accept_extint(chip, l);
}

u8 irqchip_sipi_vector(struct irqchip *chip, u32 vcpu_id) {
    struct lapic *l = irqchip_lapic(chip, vcpu_id);
    return l ? lapic_sipi_vector(l) : 0;
}

/* --- registers on the buses ---------------------------------------------------------------------
 */

enum { REGION_PIC_MASTER, REGION_PIC_SLAVE, REGION_ELCR, REGION_PIT, REGION_PORT61, REGION_IOAPIC };

_Static_assert(REGION_IOAPIC + 1 == IRQCHIP_REGIONS, "one slot per region");

static u64 pic_bus_read(void *device, u32 region, u64 offset, u32 size) {
    struct irqchip *chip = device;
    (void)size;
    lock(chip);
    bool before = chip->pic.output;
    u8 value = pic_read(&chip->pic, (u16)(chip->region[region].base + offset));
    pic_propagate(chip, before);
    unlock(chip);
    return value;
}

static void pic_bus_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct irqchip *chip = device;
    (void)size;
    lock(chip);
    bool before = chip->pic.output;
    pic_write(&chip->pic, (u16)(chip->region[region].base + offset), (u8)value);
    pic_propagate(chip, before);
    unlock(chip);
}

static u64 pit_bus_read(void *device, u32 region, u64 offset, u32 size) {
    struct irqchip *chip = device;
    (void)size;
    return pit_read(&chip->pit, (u16)(chip->region[region].base + offset));
}

static void pit_bus_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct irqchip *chip = device;
    (void)size;
    pit_write(&chip->pit, (u16)(chip->region[region].base + offset), (u8)value);
}

static u64 ioapic_bus_read(void *device, u32 region, u64 offset, u32 size) {
    struct irqchip *chip = device;
    (void)region;
    (void)size;
    lock(chip);
    u32 value = ioapic_read(&chip->ioapic, (u32)offset);
    unlock(chip);
    return value;
}

static void ioapic_bus_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct irqchip *chip = device;
    (void)region;
    (void)size;
    lock(chip);
    ioapic_write(&chip->ioapic, (u32)offset, (u32)value);
    unlock(chip);
}

static const struct bus_ops pic_bus = {pic_bus_read, pic_bus_write, 1, 1};
static const struct bus_ops pit_bus = {pit_bus_read, pit_bus_write, 1, 1};
static const struct bus_ops ioapic_bus = {ioapic_bus_read, ioapic_bus_write, 4, 4};

static const struct {
    u64 base, size;
    const struct bus_ops *ops;
    const char *name;
} regions[IRQCHIP_REGIONS] = {
    [REGION_PIC_MASTER] = {0x20, 2, &pic_bus, "pic0"},
    [REGION_PIC_SLAVE] = {0xa0, 2, &pic_bus, "pic1"},
    [REGION_ELCR] = {0x4d0, 2, &pic_bus, "elcr"},
    [REGION_PIT] = {0x40, 4, &pit_bus, "pit"},
    [REGION_PORT61] = {0x61, 1, &pit_bus, "port61"},
    [REGION_IOAPIC] = {IOAPIC_BASE, IOAPIC_SIZE, &ioapic_bus, "ioapic"},
};

static void unmap(struct irqchip *chip) {
    for (u32 i = 0; i < IRQCHIP_REGIONS; i++) {
        if (chip->region[i].mapped) {
            bus_unmap(i == REGION_IOAPIC ? chip->mmio : chip->pio, &chip->region[i]);
        }
    }
}

int irqchip_map(struct irqchip *chip, struct bus *pio, struct bus *mmio) {
    if (chip->in_engine) {
        return 0;
    }
    chip->pio = pio;
    chip->mmio = mmio;
    for (u32 i = 0; i < IRQCHIP_REGIONS; i++) {
        chip->region[i] = (struct bus_region){
            .base = regions[i].base,
            .size = regions[i].size,
            .ops = regions[i].ops,
            .device = chip,
            .region = i,
            .name = regions[i].name,
        };
        int rc = bus_map(i == REGION_IOAPIC ? mmio : pio, &chip->region[i]);
        if (rc < 0) {
            unmap(chip);
            return rc;
        }
    }
    return 0;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static int create_models(struct irqchip *chip, struct err *err) {
    u32 n = chip->vm->vcpu_count;
    chip->lapic = host_alloc(chip->host, n * sizeof(*chip->lapic));
    if (!chip->lapic) {
        return ERR_SET(err, ERR_NOMEM, "no memory for %u local APICs", n);
    }
    for (; chip->count < n; chip->count++) {
        struct lapic *l = &chip->lapic[chip->count];
        if (lapic_init(l, chip, chip->vm->vcpus[chip->count]) < 0) {
            lapic_fini(l);
            return ERR_SET(err, ERR_NOMEM, "no timer for local APIC %u", chip->count);
        }
    }
    ioapic_init(&chip->ioapic, chip, chip->directed_eoi);
    pic_init(&chip->pic);
    if (pit_init(&chip->pit, chip->host, chip) < 0) {
        return ERR_SET(err, ERR_NOMEM, "no timer for the PIT");
    }
    return 0;
}

int irqchip_create(struct engine_vm *vm, u64 engine_flags, struct irqchip **out, struct err *err) {
    *out = NULL;
    if (!vm->vcpu_count || vm->vcpu_count > IRQCHIP_MAX_VCPUS) {
        return ERR_SET(err, ERR_RANGE, "%u processors: the interrupt chips serve 1 to %u",
                       vm->vcpu_count, IRQCHIP_MAX_VCPUS);
    }
    struct irqchip *chip = host_alloc(vm->host, sizeof(*chip));
    if (!chip) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the interrupt chips");
    }
    chip->vm = vm;
    chip->host = vm->host;
    chip->in_engine = engine_flags & ENGINE_CAP_IRQCHIP;
    int rc = chip->in_engine ? 0 : create_models(chip, err);
    if (rc < 0) {
        irqchip_destroy(chip);
        return rc;
    }
    *out = chip;
    return 0;
}

void irqchip_destroy(struct irqchip *chip) {
    if (!chip) {
        return;
    }
    unmap(chip);
    pit_fini(&chip->pit);
    for (u32 i = 0; i < chip->count; i++) {
        lapic_fini(&chip->lapic[i]);
    }
    host_free(chip->host, chip->lapic, chip->vm->vcpu_count * sizeof(*chip->lapic));
    host_free(chip->host, chip, sizeof(*chip));
}

void irqchip_reset(struct irqchip *chip) {
    forget_lines(chip);
    if (chip->in_engine) {
        return;
    }
    for (u32 i = 0; i < chip->count; i++) {
        lapic_reset(&chip->lapic[i], false);
    }
    pit_reset(&chip->pit);
    lock(chip);
    bool before = chip->pic.output;
    ioapic_reset(&chip->ioapic);
    pic_reset(&chip->pic);
    pic_propagate(chip, before);
    unlock(chip);
}

void irqchip_init_vcpu(struct irqchip *chip, u32 vcpu_id) {
    struct lapic *l = irqchip_lapic(chip, vcpu_id);
    if (l) {
        lapic_reset(l, true);
    }
}

/* --- state ---------------------------------------------------------------------------------------
 */

int irqchip_get(struct irqchip *chip, struct irqchip_state *state) {
    if (chip->in_engine) {
        return chip->vm->ops->irqchip_get(chip->vm, state);
    }
    memset(state, 0, sizeof(*state));
    state->vcpu_count = chip->count;
    for (u32 i = 0; i < chip->count; i++) {
        lapic_get(&chip->lapic[i], &state->lapic[i]);
    }
    lock(chip);
    state->ioapic = chip->ioapic.s;
    memcpy(state->pic, chip->pic.s, sizeof(state->pic));
    unlock(chip);
    pit_get(&chip->pit, &state->pit);
    return 0;
}

static int set_models(struct irqchip *chip, const struct irqchip_state *state) {
    if (state->vcpu_count != chip->count) {
        return -ERR_FORMAT;
    }
    int rc = 0;
    for (u32 i = 0; rc == 0 && i < chip->count; i++) {
        rc = lapic_set(&chip->lapic[i], &state->lapic[i]);
    }
    if (rc < 0) {
        return rc;
    }
    lock(chip);
    rc = pic_set(&chip->pic, state->pic);
    if (rc == 0) {
        for (u32 i = 0; i < chip->count; i++) {
            lapic_lint_restore(&chip->lapic[i], 0, chip->pic.output);
        }
        rc = ioapic_set(&chip->ioapic, &state->ioapic);
    }
    unlock(chip);
    return rc < 0 ? rc : pit_set(&chip->pit, &state->pit);
}

int irqchip_set(struct irqchip *chip, const struct irqchip_state *state) {
    forget_lines(chip);
    if (chip->in_engine) {
        return chip->vm->ops->irqchip_set(chip->vm, state);
    }
    int rc = set_models(chip, state);
    if (rc < 0) {
        irqchip_reset(chip); /* no half-loaded chips */
    }
    return rc;
}
