/* SPDX-License-Identifier: Apache-2.0 */
/* The real-time clock (core/time/rtc.h) as a device "rtc" at ports 0x70 and 0x71. */
#ifndef CORE_DEV_RTC_DEV_H
#define CORE_DEV_RTC_DEV_H

#include "core/dev/device.h"

struct rtc_config {
    u64 low_memory;  /* bytes below 4 GiB */
    u64 high_memory; /* bytes above 4 GiB */
    u32 vcpus;
};

int rtc_add(struct device_list *list, struct device_env *env, const struct rtc_config *cfg,
            struct err *err);

#endif
