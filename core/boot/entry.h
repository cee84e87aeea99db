/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processor states in which kernels are entered: flat 32-bit protected mode (Linux 32-bit
 * protocol, PVH, Multiboot) and 64-bit long mode with an identity map of the first 4 GiB.
 * Selectors are those of the Linux boot protocol: code 0x10, data 0x18, task 0x20.
 */
#ifndef CORE_BOOT_ENTRY_H
#define CORE_BOOT_ENTRY_H

#include "core/cpu/state.h"
#include "core/mem/ram.h"

enum { ENTRY_CS = 0x10, ENTRY_DS = 0x18, ENTRY_TR = 0x20 };

/* Write GDT (and page tables) into low RAM and set segments, CR0, CR3, CR4, EFER, RIP; RFLAGS is
 * clear of everything but the fixed bit. 0 or -ERR_FAULT when RAM does not hold them. */
int entry_flat32(struct cpu_state *s, struct ram *ram, u64 rip);
int entry_long64(struct cpu_state *s, struct ram *ram, u64 rip);

#endif
