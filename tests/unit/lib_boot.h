/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory and made-up kernels for the tests of the boot loaders. */
#ifndef TESTS_UNIT_LIB_BOOT_H
#define TESTS_UNIT_LIB_BOOT_H

#include "core/boot/boot.h"

struct boot_fixture {
    struct ram ram;
    struct e820_map e820;
    struct boot_request req;
    struct cpu_state state;
    struct err err;
    void *memory;
};

/* low bytes from 0 and high bytes from 4 GiB (lazily populated). */
void boot_fixture_init(struct boot_fixture *f, u64 low, u64 high);
void boot_fixture_done(struct boot_fixture *f);

/* Little-endian stores into a file that is being made. */
void put16(u8 *file, u64 at, u16 v);
void put32(u8 *file, u64 at, u32 v);
void put64(u8 *file, u64 at, u64 v);

u16 guest16(const struct boot_fixture *f, u64 gpa);
u32 guest32(const struct boot_fixture *f, u64 gpa);
u64 guest64(const struct boot_fixture *f, u64 gpa);

#endif
