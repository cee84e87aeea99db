#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/net/build.sh
# Makes build/guests/net/initrd.img for the tests and benchmarks of networks: busybox, Debian's iperf3 and
# dropbear with their libraries, guests/net's own programs and guests/linux/init. The kernel is that of
# linux-cloud-amd64.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh

out=$GUESTS/net
guests/linux/build.sh cloud-amd64
is_fresh "$out/initrd.img" guests/net/* guests/linux/init guests/linux/udhcpc.script guests/lib.sh && exit 0

echo "guest net: unpacking Debian packages"
mkdir -p "$out"
all=$(mktemp -d "$GUESTS/all.XXXXXX")
root=$(mktemp -d "$GUESTS/root.XXXXXX")
trap 'rm -rf "$all" "$root"' EXIT
deb_root "$all" iperf3 dropbear-bin
libs=usr/lib/x86_64-linux-gnu
mkdir -p "$root/lib64" "$root/$libs" "$root/bin"
cp -L "$all"/lib*/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$root/lib64/"
# the two programs and what they need, no more
for program in usr/bin/iperf3 usr/sbin/dropbear; do
    cp "$all/$program" "$root/bin/"
    "$root/lib64/ld-linux-x86-64.so.2" --library-path "$all/$libs:$all/lib/x86_64-linux-gnu" --list "$all/$program" |
        sed -n 's/.*=> \([^ ]*\) .*/\1/p' | while read -r lib; do
        cp -L "$lib" "$root/$libs/"
    done
done
busybox_root "$root"
copy_modules cloud-amd64 "$root" virtio_pci virtio_mmio virtio-rng virtio_net
add_udhcpc "$root"
mkdir -p "$root/etc/dropbear" "$root/var/run" "$root/var/log" "$root/www/cgi-bin"
gcc -O2 -static -o "$root/bin/netprobe" guests/net/netprobe.c
cp guests/net/netup "$root/bin/netup"
echo "root::0:0:root:/root:/bin/sh" >"$root/etc/passwd"
echo /bin/sh >"$root/etc/shells"
echo "hello from the guest" >"$root/www/index.html"
chmod 755 "$root/bin/netup"
pack_guest "$root" "$out/initrd.img"
