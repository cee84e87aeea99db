/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One vCPU of the software engine in 64-bit mode at CPL 0, for the tests of single instructions
 * (lib_native.h is the other side). Its RAM is [NATIVE_RAM, NATIVE_RAM + size), identity mapped by
 * 2 MiB pages; nothing else is.
 */
#ifndef TESTS_UNIT_LIB_VEC_H
#define TESTS_UNIT_LIB_VEC_H

#include "core/cpu/cpuid.h"
#include "core/mem/ram.h"
#include "engines/soft/vec.h"

/* native_setup has mapped the RAM. Never NULL: ends the program when it cannot. */
struct soft_vcpu *test_vcpu_create(u64 ram_size);
void test_vcpu_destroy(struct soft_vcpu *c);

/*
 * Binds and executes one instruction as if it stood at native_rip(): 0, or 0x100 | vector of the
 * fault (c->fault_* tell more); -1 when neither the vector unit nor the string unit takes it.
 * c->next_rip is native_rip() when it stays where it is.
 */
int test_exec(struct soft_vcpu *c, const u8 *code, u32 len);

#endif
