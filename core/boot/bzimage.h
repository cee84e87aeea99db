/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux bzImage: the x86 boot protocol (kernel: Documentation/arch/x86/boot.rst), version 2.06 and
 * later. Entered in 64-bit mode when xloadflags offers it, else at the 32-bit entry.
 */
#ifndef CORE_BOOT_BZIMAGE_H
#define CORE_BOOT_BZIMAGE_H

#include "core/boot/boot.h"

enum { BZIMAGE_MIN_SIZE = 0x268 };

/* The file carries the boot flag and "HdrS". */
bool bzimage_is(const struct blob *kernel);
int bzimage_load(const struct boot_request *req, struct cpu_state *state, struct err *err);

#endif
