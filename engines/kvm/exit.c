/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From struct kvm_run to struct vm_exit. Linux, Documentation/virt/kvm/api.rst, section 5.
 * What the kernel says in kvm_run is trusted, the guest does not write it.
 */
#include "core/base/fmt.h"
#include "engines/kvm/priv.h"

static void error_text(struct vm_exit *exit, const char *what, u64 a, u64 b) {
    exit->kind = EXIT_ERROR;
    fmt_str(exit->error.text, sizeof(exit->error.text), "%s (0x%llx, 0x%llx)", what,
            (unsigned long long)a, (unsigned long long)b);
}

static void exit_io(struct kvm_cpu *c, struct vm_exit *exit) {
    struct kvm_run *run = c->run;
    exit->kind = EXIT_IO;
    exit->io.port = run->io.port;
    exit->io.size = run->io.size;
    exit->io.write = run->io.direction == KVM_EXIT_IO_OUT;
    exit->io.count = run->io.count;
    exit->io.data = (u8 *)run + run->io.data_offset;
    c->io_pending = true;
}

static void exit_mmio(struct kvm_cpu *c, struct vm_exit *exit) {
    struct kvm_run *run = c->run;
    exit->kind = EXIT_MMIO;
    exit->mmio.gpa = run->mmio.phys_addr;
    exit->mmio.size = run->mmio.len;
    exit->mmio.write = run->mmio.is_write;
    exit->mmio.data = run->mmio.data;
    c->io_pending = true;
}

static void exit_debug(struct kvm_cpu *c, struct vm_exit *exit) {
    const struct kvm_debug_exit_arch *arch = &c->run->debug.arch;
    exit->kind = EXIT_DEBUG;
    exit->debug.rip = arch->pc;
    exit->debug.dr6 = arch->dr6;
    exit->debug.int3 = arch->exception == EXC_BP;
}

/* Emulation failures carry the instruction where the kernel is new enough. */
static void exit_internal(struct kvm_cpu *c, struct vm_exit *exit) {
    struct kvm_run *run = c->run;
    size_t at = 0, size = sizeof(exit->error.text);
    char *text = exit->error.text;
    error_text(exit, "KVM internal error", run->internal.suberror,
               run->internal.ndata ? run->internal.data[0] : 0);
    if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
        return;
    }
    at = fmt_str(text, size, "KVM cannot emulate an instruction");
    if (run->internal.ndata >= 1 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        u32 n =
            MIN(run->emulation_failure.insn_size, (u32)sizeof(run->emulation_failure.insn_bytes));
        for (u32 i = 0; i < n && at < size; i++) {
            at += fmt_str(text + at, size - at, "%s%02x", i ? " " : ": ",
                          run->emulation_failure.insn_bytes[i]);
        }
    }
}

bool kvm_exit_translate(struct kvm_cpu *c, struct vm_exit *exit) {
    struct kvm_run *run = c->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        exit_io(c, exit);
        break;
    case KVM_EXIT_MMIO:
        exit_mmio(c, exit);
        break;
    case KVM_EXIT_DEBUG:
        exit_debug(c, exit);
        break;
    case KVM_EXIT_HLT:
        exit->kind = EXIT_HLT;
        break;
    case KVM_EXIT_SHUTDOWN:
        exit->kind = EXIT_SHUTDOWN;
        break;
    case KVM_EXIT_INTR:
        exit->kind = EXIT_KICK;
        break;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        exit->kind = EXIT_INTR_WINDOW;
        break;
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_TPR_ACCESS:
    case KVM_EXIT_IOAPIC_EOI:
        return false; /* nothing to do for a machine whose chips are in the kernel */
    case KVM_EXIT_FAIL_ENTRY:
        error_text(exit, "the processor refused the guest's state",
                   run->fail_entry.hardware_entry_failure_reason, run->fail_entry.cpu);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        exit_internal(c, exit);
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        error_text(exit, "KVM system event", run->system_event.type, 0);
        break;
    case KVM_EXIT_UNKNOWN:
        error_text(exit, "KVM exit of unknown hardware reason", run->hw.hardware_exit_reason, 0);
        break;
    default:
        error_text(exit, "unexpected KVM exit", run->exit_reason, 0);
        break;
    }
    return true;
}
