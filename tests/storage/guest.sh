#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/storage/guest.sh
# Makes build/tests/storage/initrd.img: the test guest with tests/storage/load.c and bench/disk.c in it.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh
out=build/tests/storage
mkdir -p "$out"
guests/linux/build.sh cloud-amd64
is_fresh "$out/initrd.img" tests/storage/load.c bench/disk.c tests/storage/guest.sh guests/linux/init \
    guests/lib.sh && exit 0
gcc -O2 -static -o "$out/load" tests/storage/load.c
gcc -O2 -static -pthread -o "$out/disk" bench/disk.c
root=$(mktemp -d "$GUESTS/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
busybox_root "$root"
copy_modules cloud-amd64 "$root" virtio_pci virtio_blk
cp "$out/load" "$out/disk" "$root/bin/"
pack_guest "$root" "$out/initrd.img"
