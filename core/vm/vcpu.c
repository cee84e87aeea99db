/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop of a virtual processor; see vcpu.h. Waiting for INIT and SIPI follows the Intel SDM
 * volume 3, section 9.4.
 *
 * Lock rule: v->state and v->work are written under vm->control; a parked thread leaves the park
 * only under it, so whoever has raised pause_count and sees VCPU_PARKED knows it stands still.
 */
#include "core/vm/vcpu.h"

#include "core/base/fmt.h"
#include "core/if/callout.h"
#include "core/irq/irqchip.h"
#include "core/vm/vm.h"

static bool stopping(const struct vm *vm) {
    return __atomic_load_n(&vm->stopping, __ATOMIC_SEQ_CST);
}

static bool pausing(const struct vcpu *v) {
    return __atomic_load_n(&v->vm->pause_count, __ATOMIC_SEQ_CST) ||
           __atomic_load_n(&v->hold, __ATOMIC_SEQ_CST);
}

static bool engine_has_chips(const struct vm *vm) {
    return vm->caps & ENGINE_CAP_IRQCHIP;
}

/* --- attention ---------------------------------------------------------------------------------
 */

static void take_init(struct vcpu *v) {
    struct vm *vm = v->vm;
    const u64 mask = STATE_GPR | STATE_SREG | STATE_DEBUG | STATE_EVENTS;
    struct cpu_state s;
    bool bsp = v->engine.id == 0;
    TRACE(&vm->trace, TRACE_VCPU, "vcpu %u: INIT", v->engine.id);
    if (vm->engine.ops->state_get(&v->engine, STATE_ALL, &s)) {
        vm_stop(vm, STOP_ERROR, 0, "the engine lost a processor's state");
        return;
    }
    irqchip_init_vcpu(vm->irq, v->engine.id);
    cpu_state_init(&s, bsp);
    v->mp_state = bsp ? MP_RUNNABLE : MP_WAIT_SIPI;
    s.mp_state = MP_RUNNABLE;
    vm->engine.ops->state_set(&v->engine, mask, &s);
}

static void take_sipi(struct vcpu *v) {
    struct vm *vm = v->vm;
    const u64 mask = STATE_GPR | STATE_SREG;
    struct cpu_state s;
    if (v->mp_state != MP_WAIT_SIPI || vm->engine.ops->state_get(&v->engine, mask, &s)) {
        return;
    }
    u8 page = irqchip_sipi_vector(vm->irq, v->engine.id);
    TRACE(&vm->trace, TRACE_VCPU, "vcpu %u: SIPI, starts at 0x%x", v->engine.id, page << 12);
    s.seg[SEG_CS].sel = (u16)(page << 8);
    s.seg[SEG_CS].base = (u64)page << 12;
    s.rip = 0;
    vm->engine.ops->state_set(&v->engine, mask, &s);
    v->mp_state = MP_RUNNABLE;
}

static void take_nmi(struct vcpu *v) {
    TRACE(&v->vm->trace, TRACE_IRQ, "vcpu %u: NMI", v->engine.id);
    v->counters.nmis++;
    v->vm->engine.ops->inject_nmi(&v->engine);
    if (v->mp_state == MP_HALTED) {
        v->mp_state = MP_RUNNABLE;
    }
}

/* Clears the attention word and serves it. Pause, work and interrupts are looked up where they are
 * kept: the bits only made this vCPU look. */
static void serve_attention(struct vcpu *v) {
    u32 attention = __atomic_exchange_n(&v->engine.attention, 0, __ATOMIC_SEQ_CST);
    if (engine_has_chips(v->vm)) {
        return;
    }
    if (attention & ATTN_INIT) {
        take_init(v);
    }
    if (attention & ATTN_SIPI) {
        take_sipi(v);
    }
    if (attention & ATTN_NMI) {
        take_nmi(v);
    }
}

/* Waits until the attention word is not 0 (it may be already). */
static void sleep_until_attention(struct vcpu *v) {
    struct host *host = v->vm->host;
    __atomic_store_n(&v->engine.sleeping, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&v->engine.attention, __ATOMIC_SEQ_CST)) {
        host->ops->wait(host, &v->engine.attention, 0, HOST_FOREVER);
    }
    __atomic_store_n(&v->engine.sleeping, 0, __ATOMIC_SEQ_CST);
}

static void rest(struct vcpu *v) {
    void (*idle)(struct engine_vcpu *, bool) = v->vm->engine.ops->idle;
    if (idle) {
        idle(&v->engine, true);
    }
    sleep_until_attention(v);
    if (idle) {
        idle(&v->engine, false);
    }
}

/* --- parking -----------------------------------------------------------------------------------
 */

static void set_state(struct vcpu *v, u32 state) {
    __atomic_store_n(&v->state, state, __ATOMIC_SEQ_CST);
    v->vm->host->ops->wake(v->vm->host, &v->state, UINT32_MAX);
}

/* control held; leaves it for the call. */
static bool do_work(struct vcpu *v) {
    struct vm *vm = v->vm;
    vcpu_work_fn fn = v->work;
    if (!fn) {
        return false;
    }
    v->work = NULL;
    mutex_unlock(vm->host, &vm->control);
    fn(&v->engine, v->work_ctx);
    __atomic_store_n(&v->work_done, 1, __ATOMIC_SEQ_CST);
    vm->host->ops->wake(vm->host, &v->work_done, UINT32_MAX);
    mutex_lock(vm->host, &vm->control);
    return true;
}

static void park(struct vcpu *v) {
    struct vm *vm = v->vm;
    mutex_lock(vm->host, &vm->control);
    set_state(v, VCPU_PARKED);
    while (pausing(v) && !stopping(vm)) {
        u32 word = __atomic_load_n(&vm->park_word, __ATOMIC_SEQ_CST);
        if (!do_work(v)) {
            mutex_unlock(vm->host, &vm->control);
            vm->host->ops->wait(vm->host, &vm->park_word, word, HOST_FOREVER);
            mutex_lock(vm->host, &vm->control);
        }
    }
    set_state(v, VCPU_RUNNING);
    mutex_unlock(vm->host, &vm->control);
}

static void post_work(struct vcpu *v, vcpu_work_fn fn, void *ctx) {
    struct vm *vm = v->vm;
    v->work_done = 0;
    v->work_ctx = ctx;
    v->work = fn;
    __atomic_fetch_add(&vm->park_word, 1, __ATOMIC_SEQ_CST);
    vm->host->ops->wake(vm->host, &vm->park_word, UINT32_MAX);
}

void vcpu_call(struct vcpu *v, vcpu_work_fn fn, void *ctx) {
    struct vm *vm = v->vm;
    mutex_lock(vm->host, &vm->calls);
    vm_pause(vm);
    mutex_lock(vm->host, &vm->control);
    bool threaded = v->state == VCPU_PARKED || v->state == VCPU_RUNNING;
    if (threaded) {
        post_work(v, fn, ctx);
    }
    mutex_unlock(vm->host, &vm->control);
    if (!threaded) {
        fn(&v->engine, ctx);
    }
    while (threaded && !__atomic_load_n(&v->work_done, __ATOMIC_SEQ_CST)) {
        vm->host->ops->wait(vm->host, &v->work_done, 0, HOST_FOREVER);
    }
    vm_resume(vm);
    mutex_unlock(vm->host, &vm->calls);
}

/* --- exits -------------------------------------------------------------------------------------
 */

static void exit_io(struct vcpu *v, struct vm_exit *exit) {
    u32 size = exit->io.size, count = exit->io.count ? exit->io.count : 1;
    u8 *data = exit->io.data;
    for (u32 i = 0; i < count; i++, data += size) {
        u32 value = 0;
        if (exit->io.write) {
            memcpy(&value, data, size);
            callout_pio_write(&v->engine, exit->io.port, size, value);
        } else {
            value = callout_pio_read(&v->engine, exit->io.port, size);
            memcpy(data, &value, size);
        }
    }
}

static void exit_mmio(struct vcpu *v, struct vm_exit *exit) {
    u64 value = 0;
    u32 size = MIN(exit->mmio.size, 8u);
    if (exit->mmio.write) {
        memcpy(&value, exit->mmio.data, size);
        callout_mmio_write(&v->engine, exit->mmio.gpa, size, value);
    } else {
        value = callout_mmio_read(&v->engine, exit->mmio.gpa, size);
        memcpy(exit->mmio.data, &value, size);
    }
}

/* The debugger does not want it: the guest gets the exception that it would have seen. The engine
 * knows that #BP is a trap behind its one byte. */
static void exit_debug(struct vcpu *v, const struct vm_exit *exit) {
    struct vm *vm = v->vm;
    vm_pause_begin(vm);
    if (vm->debug_fn && vm->debug_fn(vm->debug_ctx, v, exit)) {
        return;
    }
    vm_resume(vm);
    vm->engine.ops->inject_exception(&v->engine, exit->debug.int3 ? EXC_BP : EXC_DB, false, 0);
}

static void exit_fatal(struct vcpu *v, enum vm_stop_reason reason, const char *what) {
    char text[sizeof(v->vm->stop.text)];
    fmt_str(text, sizeof(text), "vCPU %u: %s", v->engine.id, what);
    log_line(v->vm->host, LOG_ERROR, "%s", text);
    vcpu_log_registers(v, LOG_ERROR);
    vm_stop(v->vm, reason, (int)v->engine.id, text);
}

static void handle_exit(struct vcpu *v, struct vm_exit *exit) {
    switch (exit->kind) {
    case EXIT_KICK:
    case EXIT_INTR_WINDOW:
        break;
    case EXIT_HLT:
        v->mp_state = MP_HALTED;
        break;
    case EXIT_SHUTDOWN:
        exit_fatal(v, STOP_TRIPLE_FAULT, "triple fault");
        break;
    case EXIT_IO:
        exit_io(v, exit);
        break;
    case EXIT_MMIO:
        exit_mmio(v, exit);
        break;
    case EXIT_DEBUG:
        exit_debug(v, exit);
        break;
    case EXIT_ERROR:
        exit->error.text[sizeof(exit->error.text) - 1] = 0;
        exit_fatal(v, STOP_ERROR, exit->error.text);
        break;
    }
}

static const char *exit_name(enum exit_kind kind) {
    static const char *const names[] = {
        "kick", "interrupt window", "hlt", "shutdown", "io", "mmio", "debug", "error"};
    return (u32)kind < ARRAY_LEN(names) ? names[kind] : "unknown";
}

/* --- running -----------------------------------------------------------------------------------
 */

/* Gives the engine the next interrupt if it can take it now, else asks to hear when it can. */
static void inject_due(struct vcpu *v) {
    struct vm *vm = v->vm;
    const struct engine_ops *ops = vm->engine.ops;
    bool pending = irqchip_pending(vm->irq, v->engine.id);
    if (pending && ops->can_interrupt(&v->engine)) {
        int vector = irqchip_accept(vm->irq, v->engine.id);
        if (vector >= 0) {
            TRACE(&vm->trace, TRACE_IRQ, "vcpu %u: interrupt 0x%x", v->engine.id, (u32)vector);
            v->counters.interrupts++;
            ops->inject_interrupt(&v->engine, (u8)vector);
        }
        pending = irqchip_pending(vm->irq, v->engine.id);
    }
    ops->intr_window(&v->engine, pending);
}

static void run_once(struct vcpu *v) {
    struct vm *vm = v->vm;
    struct vm_exit exit = {.kind = EXIT_KICK};
    if (!engine_has_chips(vm) && !v->quiet) {
        inject_due(v);
    }
    int rc = vm->engine.ops->run(&v->engine, &exit);
    if (rc) {
        exit_fatal(v, STOP_ERROR, err_name(rc));
        return;
    }
    if ((u32)exit.kind <= EXIT_ERROR) {
        v->counters.exits[exit.kind]++;
    }
    TRACE(&vm->trace, TRACE_EXITS, "vcpu %u: exit %s", v->engine.id, exit_name(exit.kind));
    handle_exit(v, &exit);
}

/* May it run, or does it wait in HLT or for a SIPI? */
static bool runnable(struct vcpu *v) {
    if (v->mp_state == MP_HALTED && irqchip_pending(v->vm->irq, v->engine.id) &&
        v->vm->engine.ops->can_interrupt(&v->engine)) {
        v->mp_state = MP_RUNNABLE;
    }
    return v->mp_state == MP_RUNNABLE;
}

static void leave(struct vcpu *v) {
    struct vm *vm = v->vm;
    mutex_lock(vm->host, &vm->control);
    do_work(v);
    set_state(v, VCPU_EXITED);
    mutex_unlock(vm->host, &vm->control);
    if (__atomic_sub_fetch(&vm->alive, 1, __ATOMIC_SEQ_CST) == 0) {
        if (vm->on_stop) {
            vm->on_stop(vm->on_stop_ctx);
        }
        __atomic_store_n(&vm->stopped_word, 1, __ATOMIC_SEQ_CST);
        vm->host->ops->wake(vm->host, &vm->stopped_word, UINT32_MAX);
    }
}

void vcpu_thread(void *ctx) {
    struct vcpu *v = ctx;
    struct vm *vm = v->vm;
    if (vm->engine.ops->vcpu_bind(&v->engine)) {
        vm_stop(vm, STOP_ERROR, (int)v->engine.id, "the engine cannot use this thread");
    }
    for (;;) {
        serve_attention(v);
        /* Looked at only after the attention word was cleared: vm_stop sets its flag first, so what
         * was cleared away cannot have been the only word of a stop that is not seen here. */
        if (stopping(vm)) {
            break;
        }
        if (pausing(v)) {
            park(v);
        } else if (runnable(v)) {
            run_once(v);
        } else {
            rest(v);
        }
    }
    leave(v);
}
