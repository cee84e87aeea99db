#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/share/guest.sh
# Makes build/tests/share/initrd.img: the test guest with tests/share/fstest.c and bench/share.c in it.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh
out=build/tests/share
mkdir -p "$out"
guests/linux/build.sh cloud-amd64
is_fresh "$out/initrd.img" tests/share/fstest.c bench/share.c tests/share/guest.sh guests/linux/init \
    guests/lib.sh && exit 0
gcc -O2 -Wall -static -o "$out/fstest" tests/share/fstest.c
gcc -O2 -Wall -static -o "$out/share" bench/share.c
root=$(mktemp -d "$GUESTS/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
busybox_root "$root"
copy_modules cloud-amd64 "$root" virtio_pci virtio_mmio virtiofs
cp "$out/fstest" "$out/share" "$root/bin/"
pack_guest "$root" "$out/initrd.img"
