#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/amd/build.sh
# Makes the system of the emulated AMD machine in which the kvm engine is tested (tests/kvm/in_amd.sh):
#   build/guests/amd/vmlinuz   Debian's stock kernel
#   build/guests/amd/base.img  busybox, kvm_amd and what it needs, guests/amd/init
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh

out=$GUESTS/amd
is_fresh "$out/base.img" guests/amd/init guests/amd/build.sh guests/lib.sh && exit 0
mkdir -p "$out"
cp "$(kernel_image amd64)" "$out/vmlinuz"
root=$(mktemp -d "$GUESTS/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
busybox_root "$root"
copy_modules amd64 "$root" kvm_amd
cp guests/amd/init "$root/init"
chmod 755 "$root/init" "$root"
pack_initramfs "$root" "$out/base.img"
