#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/kvm/amd_unit.sh
# The KVM engine's unit tests on (emulated) hardware virtualisation, where those that a host without it
# skips run too.
set -eu
cd "$(dirname "$0")/../.."
bin=build/gcc-rel/tests/unit
make -s CC=gcc MODE=rel $bin/kvm_test $bin/cpuid_test $bin/state_test
exec tests/kvm/in_amd.sh --file $bin/kvm_test --file $bin/cpuid_test --file $bin/state_test -- \
    sh -c './kvm_test && ./cpuid_test && ./state_test'
