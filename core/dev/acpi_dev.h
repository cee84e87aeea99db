/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware (core/time/acpipm.h) as a device "acpipm" at ports 0x600..0x60f. Entering S5
 * asks for MACHINE_POWEROFF.
 */
#ifndef CORE_DEV_ACPI_DEV_H
#define CORE_DEV_ACPI_DEV_H

#include "core/dev/device.h"
#include "core/time/acpipm.h"

/* *out stays valid until the device list is removed. */
int acpipm_add(struct device_list *list, struct device_env *env, struct acpipm **out,
               struct err *err);

#endif
