#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/storage/boot_disk.sh
# --boot disk: a qcow2 image with a GPT and an ext4 file system starts the newer of two kernels in it.
cd "$(dirname "$0")/../.." || exit 1
PATH=$PATH:/sbin:/usr/sbin
SOSIA=${SOSIA:-build/sosia}
guest=build/guests/linux-cloud-amd64
if ! command -v mke2fs >/dev/null || ! command -v sfdisk >/dev/null; then
    echo "SKIPPED: mke2fs or sfdisk is not there"
    echo "boot-disk: 0 passed, 0 failed, 1 skipped"
    exit 0
fi
tmp=$(mktemp -d build/tests/storage/tmp.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/root/boot" "$tmp/root/etc"
echo "not a kernel" >"$tmp/root/boot/vmlinuz-6.1.0-9"
cp $guest/vmlinuz "$tmp/root/boot/vmlinuz-6.1.0-10"
cp $guest/initrd.img "$tmp/root/boot/initrd.img-6.1.0-10"
mke2fs -q -t ext4 -d "$tmp/root" "$tmp/fs" 90M 2>/dev/null
truncate -s 100M "$tmp/disk"
printf 'label: gpt\nstart=2048,size=184320\n' | sfdisk -q "$tmp/disk"
dd if="$tmp/fs" of="$tmp/disk" bs=1M seek=1 conv=notrunc,sparse status=none
"$SOSIA" image convert --quiet "$tmp/disk" "$tmp/disk.qcow2"
uuid=$(dumpe2fs -h "$tmp/fs" 2>/dev/null | sed -n 's/^Filesystem UUID: *//p')
timeout 120 "$SOSIA" run --quiet --engine soft --memory 256M --disk "$tmp/disk.qcow2,readonly" --boot disk \
    </dev/null >"$tmp/log" 2>&1
if grep -qa "root=UUID=$uuid" "$tmp/log" && grep -qa "init reached" "$tmp/log"; then
    echo "boot-disk: 1 passed, 0 failed"
else
    tail -30 "$tmp/log"
    echo "boot-disk: 0 passed, 1 failed"
    exit 1
fi
