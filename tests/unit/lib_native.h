/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs one instruction on the real processor with a complete register state, and tells what became
 * of it: the oracle of the tests of the vector unit and the string instructions.
 */
#ifndef TESTS_UNIT_LIB_NATIVE_H
#define TESTS_UNIT_LIB_NATIVE_H

#include "core/base/types.h"

/* Fixed places below 2 GiB, so that the code needs no register to find them, and so that a guest
 * whose RAM is mapped at NATIVE_RAM, identically, sees the same addresses. */
#define NATIVE_STATE 0x20000000ull
#define NATIVE_CODE  0x21000000ull
#define NATIVE_RAM   0x30000000ull

struct native_state {
    u8 in[1024] ALIGNED(64); /* XSAVE images, standard format; x87, SSE, AVX */
    u8 out[1024] ALIGNED(64);
    u64 gpr[16];
    u64 gpr_out[16];
    u64 flags, flags_out;
    u64 host_rsp;
    u32 mxcsr;   /* of the test program */
    u32 fault;   /* after the run: 0, or 0x100 | vector */
    u32 error;   /* error code */
    u64 address; /* CR2 for a page fault */
    u32 armed;
};

/* Maps the fixed places; ram_size bytes of RAM with one inaccessible page behind. NULL: cannot. */
struct native_state *native_setup(u64 ram_size);
void native_teardown(void);

/* cmocka replaces the handlers of fault signals for each test: keep them once everything is set up
 * in main, and use them at the start of each test. */
void native_signals_keep(void);
void native_signals_use(void);

/* Executes code (at most 15 bytes) at NATIVE_CODE + its slot; native_rip is that address. */
void native_run(struct native_state *n, const u8 *code, u32 len);
u64 native_rip(void);

u64 native_random(u64 *seed);

#endif
