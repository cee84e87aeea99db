/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot 1 (specification 0.6.96): small kernels and test suites. ELF32, the address fields in
 * the header ("a.out kludge"), and ELF64 files whose entry is 32-bit code.
 */
#ifndef CORE_BOOT_MULTIBOOT_H
#define CORE_BOOT_MULTIBOOT_H

#include "core/boot/boot.h"

/* A header with a valid checksum in the first 8 KiB. */
bool multiboot_is(const struct blob *kernel);
int multiboot_load(const struct boot_request *req, struct cpu_state *state, struct err *err);

#endif
