#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/kvm/amd_linux.sh [VCPUS [META]]
# Boots Debian's kernel (default: cloud-amd64, 1 vCPU) under sosia's kvm engine in the emulated AMD
# machine, as --engine auto chooses it there, to a command and power off.
set -eu
cd "$(dirname "$0")/../.."
vcpus=${1:-1}
meta=${2:-cloud-amd64}
guest=build/guests/linux-$meta
make -s CC=gcc MODE=rel build/gcc-rel/sosia
guests/linux/build.sh "$meta"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
# shellcheck disable=SC2016
tests/kvm/in_amd.sh --file build/gcc-rel/sosia --file "$guest/vmlinuz" --file "$guest/initrd.img" -- \
    ./sosia run --kernel vmlinuz --initrd initrd.img --memory 256M --cpus "$vcpus" \
    --cmdline 'console=ttyS0 quiet sosia.run="echo processors: $(nproc); grep -c -w hypervisor /proc/cpuinfo"' \
    >"$log" 2>&1 || status=$?
for want in 'engine kvm: KVM executes guests' "processors: $vcpus" 'sosia-guest: exit status 0'; do
    if [ $status -ne 0 ] || ! grep -q "$want" "$log"; then
        cat "$log"
        echo "amd_linux: exit status $status, or no \"$want\"" >&2
        exit 1
    fi
done
echo "amd_linux: Linux ($meta, $vcpus vCPU) boots and powers off under kvm"
