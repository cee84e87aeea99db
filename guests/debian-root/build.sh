#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/debian-root/build.sh NAME PACKAGE...
# Makes a guest with programs of Debian: the packages and what they depend on, unpacked (no maintainer
# scripts run, so it needs no root), without recommended packages.
#   build/guests/debian-NAME/root/       the files; `chroot` there runs the same programs natively
#   build/guests/debian-NAME/root.img    the same as ext4, for --disk FILE,readonly
#   build/guests/debian-NAME/initrd.img  busybox, modules and guests/debian-root/init, which mounts the
#                                        disk and runs sosia.run="..." in it
# The kernel is build/guests/linux-cloud-amd64/vmlinuz. More files for a guest: put them below extra/ in
# an archive of their own (pack_initramfs) and append it to initrd.img; they appear as /extra.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh
[ $# -ge 2 ] || { sed -n '3,4s/^# //p' "$0" >&2; exit 2; }
name=$1
shift
out=$GUESTS/debian-$name
guests/linux/build.sh cloud-amd64

stamp="$* $(cat guests/debian-root/build.sh guests/debian-root/init guests/lib.sh | cksum)"
if [ -f "$out/stamp" ] && [ "$(cat "$out/stamp")" = "$stamp" ]; then
    exit 0
fi
echo "guest debian-$name: $*"
rm -rf "$out"
mkdir -p "$out/root"

root=$out/root
deb_root "$root" "$@"
rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale "$root"/usr/share/info
mkdir -p "$root/run" "$root/extra" "$root/etc"
[ -e "$root/usr/bin/awk" ] || ln -s mawk "$root/usr/bin/awk"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
# natively some programs want this one; a file will do where devices cannot be made
mknod -m 666 "$root/dev/null" c 1 3 2>/dev/null || : >"$root/dev/null"
chmod 755 "$root"
chmod 1777 "$root/tmp"

# a quarter more than the files take, for the file system itself
size=$(($(du -sm "$root" | cut -f1) * 5 / 4 + 32))
mke2fs -q -F -t ext4 -O ^has_journal -E root_owner=0:0 -d "$root" "$out/root.img" "${size}M" >/dev/null

initrd=$(mktemp -d "$GUESTS/root.XXXXXX")
busybox_root "$initrd"
copy_modules cloud-amd64 "$initrd" virtio_pci virtio_mmio virtio_blk virtio-rng ext4
cp guests/debian-root/init "$initrd/init"
chmod 755 "$initrd/init" "$initrd"
pack_initramfs "$initrd" "$out/initrd.img"
rm -rf "$initrd"
echo "$stamp" >"$out/stamp"
