#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/api/guest.sh
# Makes what the API's tests boot: build/tests/api/initrd.img, which mounts the root drive, and
# rootfs.ext4, whose init counts on the console, or runs the kernel argument sosia.run="...".
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh
out=build/tests/api
mkdir -p "$out"
guests/linux/build.sh cloud-amd64
is_fresh "$out/initrd.img" tests/api/guest.sh guests/linux/udhcpc.script guests/lib.sh && exit 0
root=$(mktemp -d "$GUESTS/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
busybox_root "$root"
add_udhcpc "$root"
cat >"$root/init" <<'END'
#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
run=$(sed -n 's/.*sosia.run="\([^"]*\)".*/\1/p' /proc/cmdline)
echo "rootfs: $(grep ' / ' /proc/mounts | tail -1)"
[ -z "$run" ] || eval "$run"
n=0
while :; do
    echo "tick $n"
    n=$((n + 1))
    sleep 0.2
done
END
chmod 755 "$root" "$root/init"
mke2fs -q -t ext4 -d "$root" "$out/rootfs.ext4" 16M
copy_modules cloud-amd64 "$root" virtio_mmio virtio_pci virtio_blk virtio_net virtio_balloon ext4
cat >"$root/init" <<'END'
#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
for m in virtio_mmio virtio_pci virtio_blk virtio_net virtio_balloon ext4; do
    modprobe -q "$m"
done
mkdir -p /new
mount -t ext4 /dev/vda /new || echo "no root drive"
umount /dev /sys /proc
exec switch_root /new /init
END
pack_initramfs "$root" "$out/initrd.img"
