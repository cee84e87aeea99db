#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/stress/build.sh
# Makes what tests/stress/run.py boots: build/stress/initrd.img, which holds the programs of
# tests/stress/prog, guest.sh and userland.sh as /extra, before Debian's programs on the disk
# build/guests/debian-stress/root.img. The programs are built by the compiler of that root (one is a
# 32-bit program), so the host needs no further packages.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh

guests/debian-root/build.sh stress gcc libc6-dev gcc-multilib python3-minimal libpython3-stdlib openssl sqlite3 \
    perl xz-utils gzip stress-ng gdb dash bash coreutils diffutils mawk grep sed libc-bin

out=build/stress
root=$GUESTS/debian-stress/root
extra=$out/extra
if [ -f $out/initrd.img ] && [ -z "$(find tests/stress "$GUESTS/debian-stress/stamp" -newer $out/initrd.img)" ]; then
    exit 0
fi
rm -rf $out
mkdir -p $extra "$root/tmp/build"
trap 'rm -rf "$root/tmp/build"' EXIT
cp tests/stress/prog/* "$root/tmp/build/"
# shellcheck disable=SC2016
in_root "$root" /bin/sh -c 'cd /tmp/build && for f in *.c; do
    bits=; [ $f != seg32.c ] || bits=-m32
    gcc $bits -O2 -Wall -Wextra -Werror -mno-red-zone -fno-pie -no-pie -static -pthread -o ${f%.c} $f -lm || exit 1
done'
for f in tests/stress/prog/*.c; do
    p=$(basename "$f" .c)
    mv "$root/tmp/build/$p" $extra/
done
cp tests/stress/guest.sh tests/stress/userland.sh tests/stress/debug.sh $extra/
cp -r tests/stress/prog $extra/source
chmod 755 $extra $extra/*.sh
in_root "$root" openssl genrsa -traditional 2048 >$extra/key.pem 2>/dev/null # the same for both sides
mkdir -p $out/root
mv $extra $out/root/extra
pack_initramfs $out/root $out/extra.img
cat "$GUESTS/debian-stress/initrd.img" $out/extra.img >$out/initrd.img.tmp
mv $out/initrd.img.tmp $out/initrd.img
rm $out/extra.img
