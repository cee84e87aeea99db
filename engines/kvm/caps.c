/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /dev/kvm, what it must offer, and what of the CPU policy it supports.
 * Linux, Documentation/virt/kvm/api.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/cpu/msr.h"
#include "engines/kvm/priv.h"

/* CPUID leaf 1, ECX */
#define TSC_DEADLINE (1u << 24)
#define HYPERVISOR   (1u << 31)

static const struct {
    int cap;
    const char *name;
} needed[] = {
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "KVM_CAP_DESTROY_MEMORY_REGION_WORKS"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    {KVM_CAP_PIT2, "KVM_CAP_PIT2"},
    {KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

int kvm_has(int fd, int cap) {
    int rc = ioctl(fd, KVM_CHECK_EXTENSION, (long)cap);
    return rc > 0 ? rc : 0;
}

int kvm_dev_open(struct err *err) {
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        return fd;
    }
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO) {
        return ERR_SET(err, ERR_NOTFOUND, "/dev/kvm: %s: no hardware virtualisation here",
                       strerror(errno));
    }
    if (errno == EACCES || errno == EPERM) {
        return ERR_SET(err, ERR_PERM, "/dev/kvm: %s: join the group kvm or run as root",
                       strerror(errno));
    }
    return ERR_SET(err, ERR_IO, "/dev/kvm: %s", strerror(errno));
}

int kvm_dev_check(int dev, struct err *err) {
    int version = ioctl(dev, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        return ERR_SET(err, ERR_UNSUPPORTED, "/dev/kvm: API version %d instead of %d", version,
                       KVM_API_VERSION);
    }
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        if (!kvm_has(dev, needed[i].cap)) {
            return ERR_SET(err, ERR_UNSUPPORTED, "/dev/kvm: this kernel lacks %s", needed[i].name);
        }
    }
    return 0;
}

/* IA32_ARCH_CAPABILITIES as KVM would show it to a guest of this host. */
static u64 arch_capabilities(int dev) {
    struct kvm_msr_block msrs = {.count = 1, .entry[0].index = MSR_ARCH_CAPABILITIES};
    if (!kvm_has(dev, KVM_CAP_GET_MSR_FEATURES) || ioctl(dev, KVM_GET_MSRS, &msrs) != 1) {
        return 0;
    }
    return msrs.entry[0].data;
}

static struct kvm_cpuid2 *supported_get(int dev) {
    struct kvm_cpuid2 *all =
        calloc(1, sizeof(*all) + KVM_CPUID_MAX * sizeof(struct kvm_cpuid_entry2));
    if (all) {
        all->nent = KVM_CPUID_MAX;
        if (ioctl(dev, KVM_GET_SUPPORTED_CPUID, all)) {
            free(all);
            return NULL;
        }
    }
    return all;
}

int kvm_limit_policy(int dev, struct cpuid_policy *policy, struct err *err) {
    struct kvm_cpuid2 *all = supported_get(dev);
    struct cpuid_entry *entry = calloc(KVM_CPUID_MAX, sizeof(*entry));
    if (!all || !entry) {
        free(all);
        free(entry);
        return ERR_SET(err, ERR_IO, "/dev/kvm: KVM_GET_SUPPORTED_CPUID failed: %s",
                       strerror(errno));
    }
    bool deadline = kvm_has(dev, KVM_CAP_TSC_DEADLINE_TIMER);
    u32 count = MIN(all->nent, (u32)KVM_CPUID_MAX);
    for (u32 i = 0; i < count; i++) {
        const struct kvm_cpuid_entry2 *e = &all->entries[i];
        entry[i] = (struct cpuid_entry){.leaf = e->function,
                                        .subleaf = e->index,
                                        .indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                                        .eax = e->eax,
                                        .ebx = e->ebx,
                                        .ecx = e->ecx,
                                        .edx = e->edx};
        if (e->function == 1) { /* not told in CPUID: by a capability, and taken for granted */
            entry[i].ecx |= (deadline ? TSC_DEADLINE : 0) | HYPERVISOR;
        }
    }
    cpuid_policy_limit(policy, entry, count, arch_capabilities(dev));
    free(all);
    free(entry);
    return 0;
}

int kvm_cpuid_limit(struct host *host, struct cpuid_policy *policy, struct err *err) {
    (void)host;
    int dev = kvm_dev_open(err);
    if (dev < 0) {
        return dev;
    }
    int rc = kvm_limit_policy(dev, policy, err);
    close(dev);
    return rc;
}
