#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/kvm/run.sh
# Runs inside.sh in the emulated AMD machine (in_amd.sh), where KVM is real.
set -eu
cd "$(dirname "$0")/../.."
guests/linux/build.sh cloud-amd64
units=build/gcc-rel/tests/unit
make -s CC=gcc MODE=rel all guest-tests $units/kvm_test $units/cpuid_test $units/state_test
set -- --file tests/kvm/inside.sh --file tests/kvm/moving.sh --file build/guest-tests/moving.elf:moving.img --file build/gcc-rel/sosia --file $units/kvm_test --file $units/cpuid_test --file $units/state_test \
    --file build/guests/linux-cloud-amd64/vmlinuz --file build/guests/linux-cloud-amd64/initrd.img
# Guests about the machine. The others test the processor, which is QEMU's emulation there: its faults
# (reserved page-table bits, CR8, alignment checks, #XM, timer precision) would be counted as ours.
for guest in acpi first ioapic pci smc smp testdev; do
    set -- "$@" --file "build/guest-tests/$guest.elf"
done
exec tests/kvm/in_amd.sh --memory 2048 --timeout 800 "$@" -- ./inside.sh
