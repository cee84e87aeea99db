#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/others/build.sh
# Kernels that are not Linux, out of Debian's packages, for the boot tests: build/guests/others/
#   gnumach     GNU Mach (Multiboot, 32-bit)
#   ipxe.lkrn   iPXE (bzImage)
#   xen         Xen 4.17 (Multiboot, an ELF file)
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh
out=$GUESTS/others
mkdir -p "$out"

# take PACKAGE PATH NAME: a file of a package, unpacked when it is compressed.
take() {
    [ ! -f "$out/$3" ] || return 0
    file=$(echo "$(unpack_deb "$1")"/$2)
    case $file in
    *.gz) gzip -dc "$file" >"$out/$3.tmp" ;;
    *) cp "$file" "$out/$3.tmp" ;;
    esac
    mv "$out/$3.tmp" "$out/$3"
}

take gnumach-image-1.8-486:i386 'boot/gnumach-1.8-486.gz' gnumach
take ipxe 'boot/ipxe.lkrn' ipxe.lkrn
take xen-hypervisor-4.17-amd64 'boot/xen-4.17-amd64.gz' xen
