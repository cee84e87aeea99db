#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/userland/build.sh
# Makes build/guests/userland/root: a root folder with Debian's bash, coreutils, sed, gcc, python3,
# openssl, xz, zstd and sqlite3 and their libraries, for programs that run natively (chroot) and in
# guests (initramfs). What no benchmark needs is left out.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh

out=$GUESTS/userland
if [ -f "$out/made" ] && [ "$out/made" -nt guests/userland/build.sh ]; then
    exit 0
fi
echo "guest userland: unpacking Debian packages"
mkdir -p "$out"
root=$(mktemp -d "$out/tmp.XXXXXX")
deb_root "$root" bash coreutils sed gcc libc6-dev python3-minimal openssl xz-utils zstd sqlite3

lib=$root/usr/lib/x86_64-linux-gnu
gcc=$(dirname "$(find "$root/usr/lib/gcc" -name cc1)")
rm -rf "$root/usr/share" "$root/var" "$root/usr/sbin" "$root/sbin" "$root/usr/lib/bfd-plugins"
rm -rf "$lib/gconv" "$lib/perl-base" "$lib/gprofng" "$root/usr/include/linux/netfilter"*
rm -f "$lib"/lib*san.so* "$lib"/*.a "$gcc"/lib*san* "$gcc/lto1" "$gcc/lto-wrapper" "$gcc/g++-mapper-server"
rm -f "$root"/usr/bin/*gp-* "$root"/usr/bin/*gprofng* "$root"/usr/bin/dwp "$root"/usr/bin/*lto-dump* \
    "$root"/usr/bin/*ld.gold "$root"/usr/bin/gold "$root"/usr/bin/*dwp "$root"/usr/bin/*gcov*
rm -rf "$out/root"
mv "$root" "$out/root"
touch "$out/made"
