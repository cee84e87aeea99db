/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the KVM engine share.
 *
 *   engine.c  the table of operations            caps.c    /dev/kvm, capabilities, CPUID limits
 *   vm.c      machine, memory slots, dirty log   probe.c   does KVM execute guests here?
 *   vcpu.c    vCPU, run, kick, debug, injection  exit.c    kvm_run to struct vm_exit
 *   state.c   registers                          msr.c     MSRs
 *   irq.c     lines, MSIs, chip states           doorbell.c  ioeventfd
 *
 * Lock rule: kvm_machine.lock guards slots, dirty bitmaps and doorbells. vCPU calls come from the
 * vCPU's thread, or from any thread while it does not run; the kernel locks the rest.
 */
#ifndef ENGINES_KVM_PRIV_H
#define ENGINES_KVM_PRIV_H

#include <linux/kvm.h>
#include <sys/types.h>

#include "core/cpu/cpuid.h"
#include "core/cpu/state.h"
#include "core/if/engine.h"
#include "core/if/mutex.h"

enum { KVM_SLOTS = 32, KVM_CPUID_MAX = 256, KVM_MSRS_MAX = 64 /* places in msr.c, at most */ };

/* struct kvm_msrs with its entries. */
struct kvm_msr_block {
    u32 count, pad;
    struct kvm_msr_entry entry[KVM_MSRS_MAX];
};

_Static_assert(offsetof(struct kvm_msr_block, entry) == sizeof(struct kvm_msrs), "the ABI");

struct kvm_slot {
    u64 gpa, size; /* size 0: free */
    void *hva;
    u32 flags;    /* RAM_* */
    u64 *pending; /* dirty pages fetched from the kernel and not handed out yet; NULL: log off */
};

struct kvm_doorbell;

/* Messages that have a route and an irqfd; the first count entries are in use. */
enum { KVM_MSI_ROUTES = 128 };

struct kvm_msi_route {
    u64 address;
    u32 data;
    int fd;
};

struct kvm_msi_table {
    struct mutex lock;
    bool usable; /* irqfds work here, as far as is known */
    u32 count;
    struct kvm_msi_route route[KVM_MSI_ROUTES];
};

struct kvm_machine {
    struct host *host;
    int dev, fd; /* /dev/kvm, the machine */
    size_t run_size;
    struct cpuid_policy policy; /* the machine's, narrowed to what KVM supports */
    struct mutex lock;
    struct kvm_slot slot[KVM_SLOTS];
    bool logging;
    struct kvm_doorbell *doorbells;
    struct kvm_msi_table msi;
    u64 msr_present;  /* bit n: entry n of the table in msr.c works here; 0: not probed yet */
    bool tsc_settled; /* what the guest is told of the TSC is final */
    bool x2apic_ids;  /* local APIC states carry 32-bit ids in x2APIC mode */
};

struct kvm_cpu {
    struct engine_vcpu *ev;
    struct kvm_machine *m;
    int fd;
    struct kvm_run *run;
    pid_t tid;       /* of the thread that runs it; 0: not bound */
    u32 in_run;      /* atomic: about to enter, or inside, KVM_RUN */
    u32 kicked;      /* atomic */
    bool io_pending; /* the last exit is completed by the next KVM_RUN */
    bool held;       /* an exit came up while settling: run returns it first */
    struct engine_stats stats;
    /* The guest's TSC seen from other threads: guest = tsc_guest + (host TSC - tsc_host). */
    u64 tsc_guest, tsc_host;
};

static inline struct kvm_machine *kvm_machine_of(struct engine_vm *vm) {
    return vm->priv;
}

static inline struct kvm_cpu *kvm_cpu_of(struct engine_vcpu *ev) {
    return ev->priv;
}

/* caps.c. The open functions return a descriptor or a negative error. */
int kvm_dev_open(struct err *err);
int kvm_dev_check(int dev, struct err *err);
int kvm_has(int fd, int cap); /* value of KVM_CHECK_EXTENSION, 0 when absent */
int kvm_limit_policy(int dev, struct cpuid_policy *policy, struct err *err);
int kvm_cpuid_limit(struct host *host, struct cpuid_policy *policy, struct err *err);

/* probe.c */
int kvm_probe(struct host *host, struct engine_caps *caps, struct err *err);

/* vm.c */
int kvm_vm_create(struct engine_vm *vm, struct err *err);
void kvm_vm_destroy(struct engine_vm *vm);
int kvm_ram_map(struct engine_vm *vm, u64 gpa, u64 size, void *hva, u32 flags);
int kvm_ram_unmap(struct engine_vm *vm, u64 gpa, u64 size);
int kvm_dirty_log(struct engine_vm *vm, bool on);
int kvm_dirty_get(struct engine_vm *vm, u64 gpa, u64 size, u64 *bitmap);
/* Task state segment and identity map page, which some processors need in the guest's memory. */
int kvm_set_hidden_pages(int vm_fd);

/* vcpu.c */
int kvm_vcpu_create(struct engine_vcpu *ev, struct err *err);
void kvm_vcpu_destroy(struct engine_vcpu *ev);
int kvm_vcpu_bind(struct engine_vcpu *ev);
int kvm_vcpu_run(struct engine_vcpu *ev, struct vm_exit *exit);
void kvm_vcpu_kick(struct engine_vcpu *ev);
int kvm_debug_set(struct engine_vcpu *ev, const struct engine_debug *debug);
u64 kvm_tsc_get(struct engine_vcpu *ev);
void kvm_tsc_note(struct kvm_cpu *c);
/* Completes an exit that the guest's instruction still waits for, so that the state is that of an
 * instruction boundary. */
void kvm_vcpu_settle(struct kvm_cpu *c);

/* exit.c. True when *exit is filled; false: nothing for core, enter again. */
bool kvm_exit_translate(struct kvm_cpu *c, struct vm_exit *exit);

/* state.c */
int kvm_state_get(struct engine_vcpu *ev, u64 mask, struct cpu_state *s);
int kvm_state_set(struct engine_vcpu *ev, u64 mask, const struct cpu_state *s);
int kvm_inject_exception(struct engine_vcpu *ev, u8 vector, bool has_error, u32 error);

/* msr.c */
int kvm_msr_probe(struct kvm_cpu *c);
int kvm_msrs_get(struct kvm_cpu *c, struct cpu_state *s);
int kvm_msrs_set(struct kvm_cpu *c, const struct cpu_state *s);
int kvm_msr_read(struct kvm_cpu *c, u32 index, u64 *value);
int kvm_msr_write(struct kvm_cpu *c, u32 index, u64 value);

/* irq.c */
int kvm_irq_setup(struct kvm_machine *m, struct err *err);
int kvm_irq_line(struct engine_vm *vm, u32 gsi, bool level);
int kvm_irqchip_get(struct engine_vm *vm, struct irqchip_state *s);
int kvm_irqchip_set(struct engine_vm *vm, const struct irqchip_state *s);

/* msi.c */
int kvm_routing_setup(struct kvm_machine *m);
int kvm_msi(struct engine_vm *vm, u64 address, u32 data);
void kvm_msi_close(struct kvm_machine *m);

/* doorbell.c */
int kvm_doorbell_add(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                     u64 match, void (*fn)(void *ctx), void *ctx);
int kvm_doorbell_remove(struct engine_vm *vm, bool mmio, u64 address, u32 size, bool has_match,
                        u64 match);
void kvm_doorbells_close(struct kvm_machine *m);

#endif
