/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Creating, running, pausing and ending a machine; see vm.h.
 *
 * Locks: calls > control > (board lock ...) ; stop_lock is innermost. control is never held while
 * waiting for a vCPU.
 */
#include "core/vm/vm.h"

#include "core/base/fmt.h"
#include "core/irq/irqchip.h"

#define PIO_LIMIT  0xffffull
#define MMIO_LIMIT (BIT(52) - 1)

/* --- memory ------------------------------------------------------------------------------------
 */

static int memory_create(struct vm *vm, u64 size, struct err *err) {
    struct host *host = vm->host;
    u64 low = MIN(size, VM_LOW_RAM_MAX);
    if (!size || (size & PAGE_MASK) || (vm->backing.hva && vm->backing.size != size)) {
        return ERR_SET(err, ERR_INVAL, "memory: %llu bytes is not a positive multiple of 4096",
                       (unsigned long long)size);
    }
    if (!vm->backing.hva && host->ops->ram_alloc(host, size, &vm->backing)) {
        return ERR_SET(err, ERR_NOMEM, "memory: the host has no room for %llu MiB of guest memory",
                       (unsigned long long)(size / MIB));
    }
    int rc = ram_add(&vm->ram, 0, low, vm->backing.hva, 0);
    if (!rc && size > low) {
        rc = ram_add(&vm->ram, VM_HIGH_RAM, size - low, vm->backing.hva + low, 0);
    }
    return rc ? ERR_SET(err, ERR_RANGE, "memory: %llu MiB cannot be laid out",
                        (unsigned long long)(size / MIB))
              : 0;
}

static int memory_map(struct vm *vm, struct err *err) {
    for (u32 i = 0; i < vm->ram.count; i++) {
        const struct ram_slot *s = &vm->ram.slot[i];
        int rc = vm->engine.ops->ram_map(&vm->engine, s->gpa, s->size, s->hva, s->flags);
        if (rc) {
            return ERR_SET(err, ERR_NOMEM, "memory: the %s engine cannot map %llu MiB: %s",
                           vm->engine.ops->name, (unsigned long long)(s->size / MIB), err_name(rc));
        }
    }
    return 0;
}

/* --- processors --------------------------------------------------------------------------------
 */

static int vcpus_create(struct vm *vm, struct err *err) {
    struct host *host = vm->host;
    vm->vcpus = host_alloc(host, vm->vcpu_count * sizeof(*vm->vcpus));
    vm->engine_vcpus = host_alloc(host, vm->vcpu_count * sizeof(struct engine_vcpu *));
    if (!vm->vcpus || !vm->engine_vcpus) {
        return ERR_SET(err, ERR_NOMEM, "no memory for %u processors", vm->vcpu_count);
    }
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *v = &vm->vcpus[i];
        v->vm = vm;
        v->engine.vm = &vm->engine;
        v->engine.id = i;
        vm->engine_vcpus[i] = &v->engine;
    }
    vm->engine.vcpus = vm->engine_vcpus;
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        int rc = vm->engine.ops->vcpu_create(&vm->vcpus[i].engine, err);
        if (rc) {
            return ERR_SET(err, ERR_NOMEM, "processor %u cannot be created", i);
        }
        vm->created++;
    }
    return 0;
}

static void vcpus_destroy(struct vm *vm) {
    for (u32 i = 0; i < vm->created; i++) {
        vm->engine.ops->vcpu_destroy(&vm->vcpus[i].engine);
    }
    host_free(vm->host, vm->engine_vcpus, vm->vcpu_count * sizeof(struct engine_vcpu *));
    host_free(vm->host, vm->vcpus, vm->vcpu_count * sizeof(*vm->vcpus));
}

int vm_reset_vcpus(struct vm *vm) {
    int rc = 0;
    for (u32 i = 0; i < vm->vcpu_count && !rc; i++) {
        struct cpu_state s;
        cpu_state_reset(&s, i == 0);
        rc = vcpu_state_set(&vm->vcpus[i], STATE_ALL, &s);
    }
    return rc;
}

/* --- create, destroy ---------------------------------------------------------------------------
 */

static int find_caps(struct vm *vm, const struct vm_params *p, struct err *err) {
    struct engine_caps caps = {0};
    if (p->caps) {
        caps = *p->caps;
    } else {
        int rc = p->engine->probe(p->host, &caps, err);
        if (rc) {
            return rc;
        }
    }
    if (!p->vcpus || p->vcpus > IRQCHIP_MAX_VCPUS ||
        (caps.max_vcpus && p->vcpus > caps.max_vcpus)) {
        u32 most = caps.max_vcpus ? MIN(caps.max_vcpus, (u32)IRQCHIP_MAX_VCPUS) : IRQCHIP_MAX_VCPUS;
        return ERR_SET(err, ERR_INVAL, "%u processors: the %s engine takes 1 to %u", p->vcpus,
                       p->engine->name, most);
    }
    vm->caps = caps.flags;
    return 0;
}

/* The frequency that the guest was told, where this host's is another one. A difference of 250
 * parts per million is one of measuring it: the counter itself does. */
static u64 tsc_choose(const struct vm_params *p) {
    u64 host = p->host->ops->tsc_hz(p->host);
    u64 want = p->tsc_hz ? p->tsc_hz : p->cpuid ? p->cpuid->tsc_hz : 0;
    u64 off = want > host ? want - host : host - want;
    return !want || (p->cpuid && off < host / 4000) ? host : want;
}

static void fill(struct vm *vm, const struct vm_params *p) {
    vm->host = p->host;
    if (p->ram) {
        vm->backing = *p->ram;
        p->ram->hva = NULL;
    }
    vm->vcpu_count = p->vcpus;
    vm->trace = (struct trace){.host = p->host, .mask = p->trace};
    str_copy(vm->thread_name, sizeof(vm->thread_name), p->thread_name ? p->thread_name : "vcpu");
    vm->pio.limit = PIO_LIMIT;
    vm->mmio.limit = MMIO_LIMIT;
    vm->engine = (struct engine_vm){
        .ops = p->engine,
        .host = p->host,
        .ram = &vm->ram,
        .cpuid = &vm->cpuid,
        .vcpu_count = p->vcpus,
        .tsc_hz = tsc_choose(p),
        .trace = &vm->trace,
        .translator = p->translator,
    };
    vm->env = (struct device_env){
        .host = p->host,
        .lock = &vm->lock,
        .pio = &vm->pio,
        .mmio = &vm->mmio,
        .ram = &vm->ram,
        .trace = &vm->trace,
        .request = vm_request,
        .machine = vm,
    };
}

static int cpuid_limit(struct vm *vm, const struct engine_ops *engine, struct err *err) {
    return engine && engine->cpuid_limit ? engine->cpuid_limit(vm->host, &vm->cpuid, err) : 0;
}

static int build(struct vm *vm, const struct vm_params *p, struct err *err) {
    int rc = find_caps(vm, p, err);
    rc = rc ? rc : cpuid_policy_init(&vm->cpuid, vm->engine.tsc_hz, vm->vcpu_count, err);
    rc = rc ? rc : cpuid_limit(vm, p->engine, err);
    rc = rc ? rc : cpuid_limit(vm, p->portable, err);
    if (!rc) {
        cpuid_policy_emulate(&vm->cpuid, p->engine->cpuid_emulates, p->cpu_template, p->cpuid);
    }
    rc = rc || !p->cpu_template ? rc : cpuid_policy_template(&vm->cpuid, p->cpu_template, err);
    rc = rc || !p->cpuid ? rc : cpuid_policy_adopt(&vm->cpuid, p->cpuid, &vm->cpuid_weaker, err);
    rc = rc ? rc : memory_create(vm, p->memory, err);
    if (rc) {
        return rc;
    }
    rc = p->engine->vm_create(&vm->engine, err);
    if (rc) {
        return rc;
    }
    vm->engine_created = true;
    rc = memory_map(vm, err);
    rc = rc ? rc : vcpus_create(vm, err);
    rc = rc ? rc : irqchip_create(&vm->engine, vm->caps, &vm->irq, err);
    if (rc) {
        return rc;
    }
    vm->env.irq = vm->irq;
    rc = irqchip_map(vm->irq, &vm->pio, &vm->mmio);
    rc = rc ? rc : vm_reset_vcpus(vm);
    return rc ? ERR_SET(err, ERR_STATE, "the machine cannot be reset: %s", err_name(rc)) : 0;
}

struct host_ram vm_take_memory(struct vm *vm) {
    struct host_ram ram = vm->backing;
    vm->backing = (struct host_ram){.fd = -1};
    return ram;
}

int vm_create(const struct vm_params *p, struct vm **out, struct err *err) {
    struct vm *vm = host_alloc(p->host, sizeof(*vm));
    *out = NULL;
    if (!vm) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the machine");
    }
    fill(vm, p);
    int rc = build(vm, p, err);
    if (rc) {
        if (err && !err->code) {
            ERR_SET(err, ERR_STATE, "the machine cannot be created: %s", err_name(rc));
        }
        if (p->ram) {
            *p->ram = vm_take_memory(vm);
        }
        vm_destroy(vm);
        return rc;
    }
    *out = vm;
    return 0;
}

static void join_threads(struct vm *vm) {
    for (u32 i = 0; vm->vcpus && i < vm->vcpu_count; i++) {
        if (vm->vcpus[i].thread) {
            vm->host->ops->thread_join(vm->host, vm->vcpus[i].thread);
            vm->vcpus[i].thread = NULL;
        }
    }
}

void vm_destroy(struct vm *vm) {
    if (!vm) {
        return;
    }
    struct host *host = vm->host;
    vm_stop(vm, STOP_USER, 0, "the machine was stopped");
    join_threads(vm);
    device_pause_all(&vm->devices);
    device_remove_all(&vm->devices);
    if (vm->irq) {
        irqchip_destroy(vm->irq);
    }
    vcpus_destroy(vm);
    vm_dirty_end(vm);
    if (vm->engine_created) {
        vm->engine.ops->vm_destroy(&vm->engine);
    }
    if (vm->backing.hva) {
        host->ops->ram_free(host, &vm->backing);
    }
    host_free(host, vm, sizeof(*vm));
}

/* --- start, pause, stop ------------------------------------------------------------------------
 */

int vm_start(struct vm *vm, struct err *err) {
    struct host *host = vm->host;
    if (vm->started) {
        return ERR_SET(err, ERR_STATE, "the machine runs already");
    }
    vm->started = true;
    /* All count from the beginning: the first may stop the machine before the last has started, and
     * on_stop is called once. */
    __atomic_store_n(&vm->alive, vm->vcpu_count, __ATOMIC_SEQ_CST);
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *v = &vm->vcpus[i];
        char name[16];
        fmt_str(name, sizeof(name), "%s %u", vm->thread_name, i);
        __atomic_store_n(&v->state, VCPU_RUNNING, __ATOMIC_SEQ_CST);
        v->thread = host->ops->thread_start(host, name, vcpu_thread, v);
        if (!v->thread) {
            v->state = VCPU_EXITED;
            __atomic_fetch_sub(&vm->alive, 1, __ATOMIC_SEQ_CST);
            vm_stop(vm, STOP_ERROR, 0, "a thread could not be started");
            return ERR_SET(err, ERR_NOMEM, "no thread for processor %u", i);
        }
    }
    return 0;
}

/* A parked vCPU looks again when it is woken; one that was never started has nothing to leave. */
static void attend_all(struct vm *vm) {
    for (u32 i = 0; i < vm->created; i++) {
        if (__atomic_load_n(&vm->vcpus[i].state, __ATOMIC_SEQ_CST) == VCPU_RUNNING) {
            vcpu_attend(&vm->vcpus[i].engine, ATTN_PAUSE);
        }
    }
}

void vm_pause_begin(struct vm *vm) {
    mutex_lock(vm->host, &vm->control);
    __atomic_fetch_add(&vm->pause_count, 1, __ATOMIC_SEQ_CST);
    mutex_unlock(vm->host, &vm->control);
    attend_all(vm);
}

void vm_pause(struct vm *vm) {
    struct host *host = vm->host;
    vm_pause_begin(vm);
    for (u32 i = 0; i < vm->vcpu_count; i++) {
        u32 *state = &vm->vcpus[i].state;
        while (__atomic_load_n(state, __ATOMIC_SEQ_CST) == VCPU_RUNNING) {
            host->ops->wait(host, state, VCPU_RUNNING, HOST_FOREVER);
        }
    }
}

static void wake_parked(struct vm *vm) {
    __atomic_fetch_add(&vm->park_word, 1, __ATOMIC_SEQ_CST);
    vm->host->ops->wake(vm->host, &vm->park_word, UINT32_MAX);
}

void vm_resume(struct vm *vm) {
    mutex_lock(vm->host, &vm->control);
    if (vm->pause_count) {
        __atomic_fetch_sub(&vm->pause_count, 1, __ATOMIC_SEQ_CST);
    }
    mutex_unlock(vm->host, &vm->control);
    wake_parked(vm);
}

static int exit_status(enum vm_stop_reason reason, int code) {
    switch (reason) {
    case STOP_EXIT_CODE:
        return code;
    case STOP_TRIPLE_FAULT:
    case STOP_ERROR:
        return 3;
    default:
        return 0;
    }
}

void vm_stop(struct vm *vm, enum vm_stop_reason reason, int code, const char *text) {
    mutex_lock(vm->host, &vm->stop_lock);
    if (vm->stop.reason == STOP_NONE) {
        vm->stop.reason = reason;
        vm->stop.code = exit_status(reason, code);
        vm->stop.vcpu = reason == STOP_TRIPLE_FAULT || reason == STOP_ERROR ? (u32)code : 0;
        str_copy(vm->stop.text, sizeof(vm->stop.text), text);
    }
    mutex_unlock(vm->host, &vm->stop_lock);
    __atomic_store_n(&vm->stopping, 1, __ATOMIC_SEQ_CST);
    attend_all(vm);
    wake_parked(vm);
}

void vm_request(void *machine, int request, int code) {
    struct vm *vm = machine;
    switch (request) {
    case MACHINE_POWEROFF:
        vm_stop(vm, STOP_POWEROFF, 0, "the guest powered off");
        break;
    case MACHINE_RESET:
        vm_stop(vm, STOP_RESET, 0, "the guest reset the machine");
        break;
    case MACHINE_EXIT_CODE:
        vm_stop(vm, STOP_EXIT_CODE, code, "the guest left through the debug-exit port");
        break;
    default:
        vm_stop(vm, STOP_ERROR, 0, "a device cannot go on");
        break;
    }
}

bool vm_wait(struct vm *vm, u64 deadline_ns) {
    struct host *host = vm->host;
    while (!__atomic_load_n(&vm->stopped_word, __ATOMIC_SEQ_CST)) {
        if (deadline_ns != HOST_FOREVER && host_now(host) >= deadline_ns) {
            return false;
        }
        host->ops->wait(host, &vm->stopped_word, 0, deadline_ns);
    }
    return true;
}

struct vm_stop vm_stop_get(struct vm *vm) {
    mutex_lock(vm->host, &vm->stop_lock);
    struct vm_stop stop = vm->stop;
    mutex_unlock(vm->host, &vm->stop_lock);
    return stop;
}
