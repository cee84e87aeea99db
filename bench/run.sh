#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: bench/run.sh [--micro [ROUNDS] | OPTIONS of bench/programs.py]
# Measures natively, in Sosia and in QEMU, interleaved, and prints medians and ratios: the program rows
# of bench/progs.c (bench/programs.py), or with --micro the small loops of bench/rows.c (bench/micro.py).
set -eu
cd "$(dirname "$0")/.."
. guests/lib.sh
mkdir -p build/bench
guests/linux/build.sh cloud-amd64

if [ "${1:-}" = --micro ]; then
    gcc -O2 -static -o build/bench/rows bench/rows.c
    # the guest's root folder with the program in it
    root=$(mktemp -d "$GUESTS/root.XXXXXX")
    busybox_root "$root"
    cp build/bench/rows "$root/bin/rows"
    pack_guest "$root" build/bench/initrd.img
    rm -rf "$root"
    make -s guest-tests
    exec python3 bench/micro.py --rounds "${2:-3}"
fi

guests/userland/build.sh
root=$GUESTS/userland/root
if ! is_fresh build/bench/programs.img bench/progs.c "$GUESTS/userland/made"; then
    gcc -O2 -static -o build/bench/progs bench/progs.c
    cp build/bench/progs "$root/init"
    pack_initramfs "$root" build/bench/programs.img
fi
exec python3 bench/programs.py "$@"
