/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After code was written through one mapping and before it runs through the other: the processor
 * may hold older bytes, known to it by another address (SDM vol. 3, section 8.1.3). IRET serialises
 * and, unlike CPUID, does not trap under a hypervisor.
 */
#ifndef ENGINES_SOFT_SERIALISE_H
#define ENGINES_SOFT_SERIALISE_H

#include "core/base/types.h"

static inline void serialise(void) {
    u64 scratch;
    __asm__ volatile("mov %%ss, %k0\n\t"
                     "push %0\n\t"
                     "lea 8(%%rsp), %0\n\t"
                     "push %0\n\t"
                     "pushfq\n\t"
                     "mov %%cs, %k0\n\t"
                     "push %0\n\t"
                     "lea 1f(%%rip), %0\n\t"
                     "push %0\n\t"
                     "iretq\n"
                     "1:"
                     : "=&r"(scratch)
                     :
                     : "memory", "cc");
}

#endif
