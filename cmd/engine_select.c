/* SPDX-License-Identifier: Apache-2.0 */
/* Which engine runs a machine: what was asked for, or what a short probe finds to work. */
#include "cmd/cmd.h"
#include "engines/kvm/kvm.h"
#include "engines/soft/engine.h"

static const struct engine_ops *select_auto(struct host *host, bool quiet,
                                            struct engine_caps *caps) {
    struct err why = {0};
    if (!kvm_engine_ops.probe(host, caps, &why)) {
        if (!quiet) {
            complain("engine kvm: %s", caps->note);
        }
        return &kvm_engine_ops;
    }
    if (!quiet) {
        complain("engine soft: %s", why.text[0] ? why.text : caps->note);
    }
    *caps = (struct engine_caps){0};
    soft_engine_ops.probe(host, caps, NULL);
    return &soft_engine_ops;
}

const struct engine_ops *engine_select(struct host *host, enum engine_choice choice, bool quiet,
                                       struct engine_caps *caps, struct err *err) {
    struct err why = {0};
    switch (choice) {
    case ENGINE_KVM:
        /* Asked for by name: not measured, and one that only emulates is slow but allowed. */
        if (kvm_present(host, caps, &why)) {
            ERR_SET(err, ERR_UNSUPPORTED, "engine kvm: %s", why.text);
            return NULL;
        }
        return &kvm_engine_ops;
    case ENGINE_SOFT:
        if (soft_engine_ops.probe(host, caps, err)) {
            return NULL;
        }
        return &soft_engine_ops;
    case ENGINE_AUTO:
        break;
    }
    return select_auto(host, quiet, caps);
}
