/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keyboard controller of a PC with an AT keyboard behind it, as a device "i8042": ports 0x60,
 * 0x64 and 0x92, GSI 1. Intel 8042 as described in the IBM PC/AT technical reference; no mouse
 * port.
 *
 * Commands and answers, the reset line (0xfe, port 0x92 bit 0) which asks for MACHINE_RESET, and
 * keys given by the host. The A20 gate is kept and has no effect: address line 20 is always on.
 *
 * Lock rule: the board lock is held for every call.
 */
#ifndef CORE_DEV_I8042_H
#define CORE_DEV_I8042_H

#include "core/dev/device.h"

struct i8042;

int i8042_add(struct device_list *list, struct device_env *env, struct i8042 **out,
              struct err *err);
/* Bytes of scan code set 1 as if typed; those that find the keyboard's buffer full are lost. */
void i8042_type(struct i8042 *kbc, const u8 *codes, u32 count);
/* Presses and releases Ctrl-Alt-Delete. */
void i8042_ctrl_alt_del(struct i8042 *kbc);

#endif
