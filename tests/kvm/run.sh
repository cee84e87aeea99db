#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/kvm/run.sh [inside|around]
# Runs inside.sh (what CI does), or around.sh (what stands around a machine: a few minutes), in the emulated AMD
# machine (in_amd.sh), where KVM is real.
set -eu
cd "$(dirname "$0")/../.."
guests/linux/build.sh cloud-amd64
tests/kvm/guest.sh
units=build/gcc-rel/tests/unit
script=${1:-inside}
library() { /sbin/ldconfig -p | sed -n "s/.*$1 .*=> //p" | head -1; } # those that are loaded when needed
make -s CC=gcc MODE=rel all guest-tests $units/kvm_test $units/cpuid_test $units/state_test
set -- --file build/gcc-rel/sosia --file $units/kvm_test --file $units/cpuid_test --file $units/state_test \
    --file tests/kvm/inside.sh --file tests/kvm/moving.sh --file build/guest-tests/moving.elf:moving.img \
    --file tests/kvm/around.sh --file build/tests/kvm/initrd.img:around.img --file "$(command -v curl)" \
    --file "$(library 'libslirp\.so\.0')" --file "$(library 'libmicrohttpd\.so\.12')" \
    --file build/guests/linux-cloud-amd64/vmlinuz --file build/guests/linux-cloud-amd64/initrd.img
# Guests about the machine. The others test the processor, which is QEMU's emulation there, or KVM's chips: their
# faults would be counted as ours (docs/fidelity.md has the table).
for guest in acpi first ioapic pci smc smp testdev; do
    set -- "$@" --file "build/guest-tests/$guest.elf"
done
exec tests/kvm/in_amd.sh --memory 2048 --timeout 800 "$@" -- "./$script.sh"
