/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting a PC together; see pc.h. Order: machine, bridges and legacy devices, virtio devices, then
 * what firmware does (BAR addresses, tables), then the kernel. Unwinding is vm_destroy, which
 * removes the devices that were added.
 */
#include "core/board/pc.h"

#include "core/base/fmt.h"
#include "core/board/pc_int.h"
#include "core/boot/layout.h"
#include "core/cpu/cpuid.h"
#include "core/dev/acpi_dev.h"
#include "core/dev/debugport.h"
#include "core/dev/i8042.h"
#include "core/dev/rtc_dev.h"
#include "core/dev/testdev.h"
#include "core/dev/uart16550.h"

#define ECAM_BASE  0xe0000000ull
#define ECAM_BUSES 1
#define MEM32_BASE 0xc1000000ull
#define MEM32_SIZE (ECAM_BASE - MEM32_BASE)
#define MEM64_SIZE (64 * GIB)
#define IO_BASE    0x1000ull
#define IO_SIZE    0xf000ull

/* IA32_MTRR_DEF_TYPE, IA32_MTRR_PHYSBASEn and PHYSMASKn */
#define MTRR_ENABLE     BIT(11)
#define MTRR_WRITE_BACK 6ull
#define MTRR_UNCACHED   0ull
#define MTRR_MASK_VALID BIT(11)

static const struct platform_serial serial_ports[MACHINE_SERIAL_PORTS] = {
    {UART_COM1, UART_IRQ_COM1},
    {UART_COM2, UART_IRQ_COM2},
    {UART_COM3, UART_IRQ_COM1},
    {UART_COM4, UART_IRQ_COM2},
};

/* --- configuration -----------------------------------------------------------------------------
 */

static int check_config(const struct machine_config *cfg, struct err *err) {
    if (!cfg->vcpus || cfg->vcpus > MACHINE_MAX_VCPUS) {
        return ERR_SET(err, ERR_INVAL, "%u processors: 1 to %u are possible", cfg->vcpus,
                       MACHINE_MAX_VCPUS);
    }
    if (cfg->memory < MACHINE_MIN_MEMORY || cfg->memory > MACHINE_MAX_MEMORY ||
        (cfg->memory & PAGE_MASK)) {
        return ERR_SET(err, ERR_INVAL,
                       "memory: %llu bytes; 1 MiB to 1024 GiB in steps of 4096 bytes are possible",
                       (unsigned long long)cfg->memory);
    }
    if (cfg->module_count > MACHINE_MAX_MODULES || cfg->disk_count > MACHINE_MAX_DISKS ||
        cfg->net_count > MACHINE_MAX_NETS || cfg->share_count > MACHINE_MAX_SHARES) {
        return ERR_SET(err, ERR_INVAL,
                       "too many modules (%u), disks (%u), networks (%u) or folders (%u)",
                       cfg->module_count, cfg->disk_count, cfg->net_count, cfg->share_count);
    }
    for (u32 i = 0; i < cfg->disk_count; i++) {
        if (!cfg->disk[i].backend) {
            return ERR_SET(err, ERR_INVAL, "disk %u has no back end", i);
        }
    }
    return 0;
}

/* --- legacy devices ----------------------------------------------------------------------------
 */

static int add_pci_host(struct pc *pc, struct err *err) {
    struct vm *vm = pc->vm;
    struct platform *plat = &pc->plat;
    const struct ram_slot *last = &vm->ram.slot[vm->ram.count - 1];
    u64 ram_end = MAX(last->gpa + last->size, 4 * GIB);
    u64 limit = BIT(MIN(MAX(vm->cpuid.phys_bits, 32), 52));
    plat->pci = true;
    plat->ecam_base = ECAM_BASE;
    plat->ecam_buses = ECAM_BUSES;
    plat->mem32_base = MEM32_BASE;
    plat->mem32_size = MEM32_SIZE;
    plat->mem64_base = ALIGN_UP(ram_end, MEM64_SIZE);
    if (plat->mem64_base < limit && MEM64_SIZE <= limit - plat->mem64_base) {
        plat->mem64_size = MEM64_SIZE;
    }
    struct pci_host_opts opts = {
        .ecam_base = ECAM_BASE,
        .ecam_buses = ECAM_BUSES,
        .mem32 = {MEM32_BASE, MEM32_SIZE},
        .mem64 = {plat->mem64_base, plat->mem64_size},
        .io = {IO_BASE, IO_SIZE},
    };
    int rc = pci_host_init(&pc->host, &vm->env, &opts, err);
    return rc ? rc : device_add(&vm->devices, &pc->host.bridge.dev, "pcihost");
}

static int add_serial(struct pc *pc, const struct machine_config *cfg, struct err *err) {
    struct vm *vm = pc->vm;
    int rc = 0;
    for (u32 i = 0; i < MACHINE_SERIAL_PORTS && !rc; i++) {
        const struct platform_serial *s = &serial_ports[i];
        char id[16];
        if (i && !cfg->serial[i] && !(cfg->serial_mask & BIT(i))) {
            continue;
        }
        fmt_str(id, sizeof(id), "serial%u", i);
        rc = uart_add(&vm->devices, &vm->env, id, s->port, s->irq, cfg->serial[i], err);
        pc->plat.serial[pc->plat.serial_count++] = *s;
    }
    return rc;
}

static int add_legacy(struct pc *pc, const struct machine_config *cfg, struct err *err) {
    struct vm *vm = pc->vm;
    u64 low = MIN(cfg->memory, VM_LOW_RAM_MAX);
    struct rtc_config rtc = {
        .low_memory = low, .high_memory = cfg->memory - low, .vcpus = cfg->vcpus};
    int rc = add_pci_host(pc, err); /* before acpipm: both want port 0xcf9 */
    rc = rc ? rc : acpipm_add(&vm->devices, &vm->env, &pc->pm, err);
    rc = rc ? rc : rtc_add(&vm->devices, &vm->env, &rtc, err);
    rc = rc ? rc : i8042_add(&vm->devices, &vm->env, &pc->kbc, err);
    rc = rc ? rc : add_serial(pc, cfg, err);
    rc = rc ? rc : debugport_add(&vm->devices, &vm->env, cfg->debug, err);
    if (!rc && cfg->test_devices) {
        rc = testdev_add(&vm->devices, &vm->env, err);
    }
    return rc;
}

/* --- firmware's work and the kernel ------------------------------------------------------------
 */

/* The processor's own picture of PCI routing and the tables' must be one. */
static int check_routing(struct err *err) {
    for (u32 slot = 0; slot < PCI_SLOTS; slot++) {
        for (u32 pin = 0; pin < 4; pin++) {
            if (pci_intx_gsi(slot, pin) != platform_pci_gsi(slot, pin)) {
                return ERR_SET(err, ERR_STATE, "PCI interrupt routing and tables differ");
            }
        }
    }
    return 0;
}

static void generation_write(struct pc *pc) {
    u8 id[16];
    pc->vm->host->ops->entropy(pc->vm->host, id, sizeof(id));
    ram_write(&pc->vm->ram, LAYOUT_VMGENID, id, sizeof(id)); /* MACHINE_MIN_MEMORY has it */
}

static int write_tables(struct pc *pc, const struct machine_config *cfg, struct err *err) {
    struct ram *ram = &pc->vm->ram;
    int rc = check_routing(err);
    memcpy(pc->plat.uuid, cfg->uuid, sizeof(cfg->uuid));
    pc->plat.vcpus = cfg->vcpus;
    pc->plat.mmio_in_acpi = !cfg->mmio_cmdline;
    generation_write(pc);
    if (!rc && !cfg->no_mptable) {
        rc = mptable_write(&pc->plat, ram, err);
    }
    if (!rc && !cfg->no_acpi) {
        rc = acpi_write(&pc->plat, ram, &pc->rsdp, err);
    }
    return rc ? rc : smbios_write(&pc->plat, ram, err);
}

/* The user's command line, and " virtio_mmio.device=4K@0xc0001000:5" per window where asked. */
static char *make_cmdline(struct pc *pc, const struct machine_config *cfg, size_t *size) {
    const char *own = cfg->cmdline ? cfg->cmdline : "";
    *size = str_len(own) + 1 + PLATFORM_MAX_MMIO * 64;
    char *line = host_alloc(pc->vm->host, *size);
    if (!line) {
        return NULL;
    }
    size_t at = str_copy(line, *size, own);
    for (u32 i = 0; cfg->mmio_cmdline && i < pc->plat.mmio_count; i++) {
        const struct platform_mmio *m = &pc->plat.mmio[i];
        at += fmt_str(line + at, *size - at, "%svirtio_mmio.device=4K@0x%llx:%u", at ? " " : "",
                      (unsigned long long)m->base, m->gsi);
    }
    return line;
}

static void fill_modules(struct boot_module *modules, const struct machine_config *cfg) {
    for (u32 i = 0; i < cfg->module_count; i++) {
        const struct module_config *m = &cfg->module[i];
        const char *name = m->file.name ? m->file.name : "";
        modules[i] =
            (struct boot_module){.file = m->file, .cmdline = m->cmdline ? m->cmdline : name};
    }
}

static int load_kernel(struct pc *pc, const struct machine_config *cfg, struct err *err) {
    struct vm *vm = pc->vm;
    struct boot_module modules[MACHINE_MAX_MODULES];
    struct e820_map e820;
    struct cpu_state s;
    size_t size = 0;
    char *cmdline = make_cmdline(pc, cfg, &size);
    if (!cmdline) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the command line");
    }
    fill_modules(modules, cfg);
    e820_build(&e820, &vm->ram, ECAM_BASE, ECAM_BUSES * MIB);
    struct boot_request req = {
        .ram = &vm->ram,
        .e820 = &e820,
        .kernel = cfg->kernel,
        .initrd = cfg->initrd,
        .modules = modules,
        .module_count = cfg->module_count,
        .cmdline = cmdline,
        .rsdp = pc->rsdp,
        .has_seed = true,
        .trace = &vm->trace,
    };
    vm->host->ops->entropy(vm->host, req.seed, sizeof(req.seed));
    cpu_state_reset(&s, true);
    int rc = boot_load(&req, &s, err);
    if (!rc) {
        rc = vcpu_state_set(&vm->vcpus[0], STATE_GPR | STATE_SREG | STATE_EVENTS, &s);
        rc = rc ? ERR_SET(err, rc < 0 ? (enum err_code) - rc : ERR_STATE,
                          "%s: the %s engine refuses the entry state: %s", cfg->kernel.name,
                          vm->engine.ops->name, err_name(rc))
                : 0;
    }
    host_free(vm->host, cmdline, size);
    return rc;
}

/* --- create, destroy ---------------------------------------------------------------------------
 */

/*
 * Memory types as firmware leaves them on every processor: write-back by default, the hole for
 * devices below 4 GiB uncached (SDM vol. 3, section 12.11). Without it Linux finds the MTRRs off
 * and does not use the page attribute table either.
 */
static int set_memory_types(struct pc *pc) {
    const u64 hole = 0xc0000000ull, hole_size = 4 * GIB - hole;
    const u64 address_bits = (BIT(pc->vm->cpuid.phys_bits) - 1) & ~PAGE_MASK;
    int rc = 0;
    for (u32 i = 0; i < pc->vm->vcpu_count && !rc; i++) {
        struct cpu_state s;
        rc = vcpu_state_get(&pc->vm->vcpus[i], STATE_MSR, &s);
        s.msr.mtrr_def_type = MTRR_ENABLE | MTRR_WRITE_BACK;
        s.msr.mtrr_base[0] = hole | MTRR_UNCACHED;
        s.msr.mtrr_mask[0] = (address_bits & ~(hole_size - 1)) | MTRR_MASK_VALID;
        rc = rc ? rc : vcpu_state_set(&pc->vm->vcpus[i], STATE_MSR, &s);
    }
    return rc;
}

static int build(struct pc *pc, const struct machine_config *cfg, struct err *err) {
    int rc = add_legacy(pc, cfg, err);
    rc = rc ? rc : pc_add_virtio(pc, cfg, err);
    if (rc) {
        return rc;
    }
    mutex_lock(pc->vm->host, &pc->vm->lock);
    device_reset_all(&pc->vm->devices);
    rc = pci_host_firmware(&pc->host, err);
    mutex_unlock(pc->vm->host, &pc->vm->lock);
    rc = rc ? rc : set_memory_types(pc);
    if (rc || cfg->ram) {
        return rc;
    }
    rc = write_tables(pc, cfg, err);
    return rc || !cfg->kernel.data ? rc : load_kernel(pc, cfg, err);
}

int pc_create(struct host *host, const struct engine_ops *engine, const struct machine_config *cfg,
              struct pc **out, struct err *err) {
    struct vm_params params = {.host = host,
                               .engine = engine,
                               .vcpus = cfg->vcpus,
                               .memory = cfg->memory,
                               .tsc_hz = cfg->tsc_hz,
                               .trace = cfg->trace,
                               .thread_name = cfg->thread_name,
                               .caps = cfg->caps,
                               .translator = cfg->translator,
                               .ram = cfg->ram,
                               .cpu_template = cfg->cpu_template,
                               .portable = cfg->portable,
                               .cpuid = cfg->cpuid};
    *out = NULL;
    int rc = check_config(cfg, err);
    if (rc) {
        return rc;
    }
    struct pc *pc = host_alloc(host, sizeof(*pc));
    if (!pc) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the machine");
    }
    pc->physical_host = host;
    rc = vm_create(&params, &pc->vm, err);
    rc = rc ? rc : build(pc, cfg, err);
    if (rc) {
        if (err && !err->code) {
            ERR_SET(err, ERR_STATE, "the machine cannot be built: %s", err_name(rc));
        }
        if (cfg->ram && pc->vm) {
            *cfg->ram = vm_take_memory(pc->vm);
        }
        pc_destroy(pc);
        return rc;
    }
    *out = pc;
    return 0;
}

void pc_destroy(struct pc *pc) {
    if (pc) {
        struct host *host = pc->physical_host;
        pc_remove_doorbells(pc);
        vm_destroy(pc->vm);
        host_free(host, pc, sizeof(*pc));
    }
}

struct vm *pc_vm(struct pc *pc) {
    return pc->vm;
}

void pc_generation_new(struct pc *pc) {
    generation_write(pc);
    mutex_lock(pc->vm->host, &pc->vm->lock);
    acpipm_event(pc->pm, ACPIPM_GPE_VMGENID);
    mutex_unlock(pc->vm->host, &pc->vm->lock);
}

void pc_power_button(struct pc *pc) {
    mutex_lock(pc->vm->host, &pc->vm->lock);
    acpipm_power_button(pc->pm);
    mutex_unlock(pc->vm->host, &pc->vm->lock);
}

void pc_ctrl_alt_del(struct pc *pc) {
    mutex_lock(pc->vm->host, &pc->vm->lock);
    i8042_ctrl_alt_del(pc->kbc);
    mutex_unlock(pc->vm->host, &pc->vm->lock);
}
