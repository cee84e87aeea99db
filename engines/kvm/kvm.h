/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware virtualisation through Linux's /dev/kvm, with KVM's own interrupt chips and PIT.
 *
 * probe answers whether KVM really executes guests here: 0, -ERR_NOTFOUND (no /dev/kvm), -ERR_PERM,
 * or -ERR_UNSUPPORTED when it lacks what is needed or only emulates. Capabilities and note are
 * filled in the last case too: with them, vm_create works all the same (a forced engine).
 */
#ifndef ENGINES_KVM_KVM_H
#define ENGINES_KVM_KVM_H

#include "core/if/engine.h"

extern const struct engine_ops kvm_engine_ops;

/*
 * For a machine that is to run on KVM whatever it is worth: as probe, but no guest is tried, which
 * takes a fraction of a millisecond. 0, -ERR_NOTFOUND, -ERR_PERM, or -ERR_UNSUPPORTED.
 */
int kvm_present(struct host *host, struct engine_caps *caps, struct err *err);

#endif
