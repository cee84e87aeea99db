#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/devices/build.sh
# Makes build/guests/devices/initrd.img for tests/devices: busybox, the modules for sockets to the host, the
# memory balloon and ISO 9660, guests/devices/devtest.c and guests/linux/init. The kernel is that of
# linux-cloud-amd64.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh

out=$GUESTS/devices
guests/linux/build.sh cloud-amd64
is_fresh "$out/initrd.img" guests/devices/* guests/linux/init guests/lib.sh && exit 0

mkdir -p "$out"
root=$(mktemp -d "$GUESTS/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
busybox_root "$root"
copy_modules cloud-amd64 "$root" virtio_pci virtio_mmio virtio_blk virtio-rng virtio_balloon \
    vmw_vsock_virtio_transport isofs
gcc -O2 -Wall -Wextra -Werror -static -o "$root/bin/devtest" guests/devices/devtest.c
pack_guest "$root" "$out/initrd.img"
