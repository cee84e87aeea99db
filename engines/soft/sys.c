/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the handler of a system instruction. An instruction whose CPUID feature the policy
 * withholds never gets here as itself: the binder has made it #UD.
 */
#include "engines/soft/sys.h"

bool bind_system(struct bind *b) {
    return bind_sys_transfer(b) || bind_sys_flags(b) || bind_sys_cr(b) || bind_sys_seg(b) ||
           bind_sys_desc(b) || bind_sys_misc(b);
}
