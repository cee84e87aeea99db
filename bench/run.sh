#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: bench/run.sh [ROUNDS]
# Measures the rows of bench/rows.c and the boot of Debian's kernel natively, in Sosia and in QEMU,
# interleaved, and prints the medians and their ratios. See bench/report.py.
set -eu
cd "$(dirname "$0")/.."
. guests/lib.sh
mkdir -p build/bench
gcc -O2 -static -o build/bench/rows bench/rows.c
guests/linux/build.sh cloud-amd64

# the guest's root folder with the program in it
root=$(mktemp -d "$GUESTS/root.XXXXXX")
busybox_root "$root"
cp guests/linux/init "$root/init"
cp build/bench/rows "$root/bin/rows"
chmod 755 "$root" "$root/init"
pack_initramfs "$root" build/bench/initrd.img
rm -rf "$root"
make -s guest-tests
exec python3 bench/report.py --rounds "${1:-3}"
