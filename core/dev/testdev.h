/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test devices that kernel test suites written for QEMU expect: isa-debug-exit and pc-testdev.
 *
 *   0xf4..0xf7      a write of v ends the machine with exit status (v << 1) | 1
 *   0xe0..0xe3      a register that keeps what is written, any size
 *   0xe4..0xe7      page flush: takes an address, has nothing to flush here
 *   0xe8..0xeb      the register at 0xe0 again, by bytes (0xe9 stays the debug port's)
 *   0x2000 + n      GSI n (0..23): the value written is its level
 *   0xff000000      64 KiB of memory behind a device
 *
 * Lock rule: the board lock is held for every call.
 */
#ifndef CORE_DEV_TESTDEV_H
#define CORE_DEV_TESTDEV_H

#include "core/dev/device.h"

enum { TESTDEV_LINES = 24, TESTDEV_MEMORY = 0x10000 };

#define TESTDEV_MEMORY_BASE 0xff000000ull

int testdev_add(struct device_list *list, struct device_env *env, struct err *err);

#endif
