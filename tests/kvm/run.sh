#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/kvm/run.sh [inside|around]
# Runs inside.sh (what CI does), or around.sh (what stands around a machine: a few minutes), in the emulated AMD
# machine (in_amd.sh), where KVM is real.
set -eu
script=${1:-inside}
case $script in
inside | around) ;;
*)
    sed -n '3s/^# //p' "$0" >&2
    exit 2
    ;;
esac
cd "$(dirname "$0")/../.."
guests/linux/build.sh cloud-amd64
linux=build/guests/linux-cloud-amd64
library() { /sbin/ldconfig -p | sed -n "s/.*$1 .*=> //p" | head -1; } # those that are loaded when needed
make -s CC=gcc MODE=rel all guest-tests
set -- --file build/gcc-rel/sosia --file build/guest-tests/moving.elf:moving.img --file $linux/vmlinuz \
    --file tests/kvm/lib.sh --file "tests/kvm/$script.sh"

if [ "$script" = inside ]; then
    set -- "$@" --file tests/kvm/moving.sh --file $linux/initrd.img
    for test in kvm_test cpuid_test state_test; do
        make -s CC=gcc MODE=rel build/gcc-rel/tests/unit/$test
        set -- "$@" --file build/gcc-rel/tests/unit/$test
    done
    # Guests about the machine. The others test the processor, which is QEMU's emulation there, or KVM's chips:
    # their faults would be counted as ours (docs/fidelity.md has the table).
    for guest in acpi first ioapic pci smc smp testdev; do
        set -- "$@" --file "build/guest-tests/$guest.elf"
    done
else
    tests/kvm/guest.sh
    set -- "$@" --file build/tests/kvm/initrd.img:around.img --file "$(command -v curl)" \
        --file "$(library 'libslirp\.so\.0')" --file "$(library 'libmicrohttpd\.so\.12')"
fi
exec tests/kvm/in_amd.sh --memory 2048 --timeout 800 "$@" -- "./$script.sh"
