/* SPDX-License-Identifier: Apache-2.0 */
/* The definition block of the DSDT (without the table header). */
#ifndef CORE_BOOT_DSDT_H
#define CORE_BOOT_DSDT_H

#include "core/boot/aml.h"
#include "core/boot/platform.h"

void dsdt_build(const struct platform *p, struct aml *a);

#endif
