#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/kvm/guest.sh
# Makes build/tests/kvm/initrd.img for tests/kvm/around.sh: busybox, the modules of every device, devtest.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh
out=build/tests/kvm
mkdir -p "$out"
guests/linux/build.sh cloud-amd64
is_fresh "$out/initrd.img" tests/kvm/guest.sh guests/devices/devtest.c guests/linux/init guests/linux/udhcpc.script \
    guests/lib.sh && exit 0
root=$(mktemp -d "$GUESTS/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
busybox_root "$root"
copy_modules cloud-amd64 "$root" virtio_pci virtio_mmio virtio_blk virtio-rng virtio_net virtio_balloon \
    vmw_vsock_virtio_transport isofs virtiofs
gcc -O2 -Wall -Wextra -Werror -static -o "$root/bin/devtest" guests/devices/devtest.c
add_udhcpc "$root"
pack_guest "$root" "$out/initrd.img"
