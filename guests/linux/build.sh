#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/linux/build.sh [META...]
# Makes the demo and test guests: for each Debian kernel flavour (default: cloud-amd64) the files
#   build/guests/linux-META/vmlinuz     the kernel, from its package
#   build/guests/linux-META/vmlinux     the ELF kernel inside it, when python3 is there (for tests)
#   build/guests/linux-META/initrd.img  busybox, the virtio modules and guests/linux/init
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh

for meta in "${@:-cloud-amd64}"; do
    out=$GUESTS/linux-$meta
    # made already, and the recipe has not changed since
    is_fresh "$out/initrd.img" guests/linux/* guests/lib.sh guests/agent/agent.c cmd/agent_proto.h && continue
    mkdir -p "$out"
    echo "guest linux-$meta: $(kernel_package "$meta")"
    cp "$(kernel_image "$meta")" "$out/vmlinuz"
    if command -v python3 >/dev/null; then
        guests/linux/vmlinux.py "$out/vmlinuz" "$out/vmlinux"
    fi
    root=$(mktemp -d "$GUESTS/root.XXXXXX")
    busybox_root "$root" "$(arch_of "$meta")"
    copy_modules "$meta" "$root" virtio_pci virtio_mmio virtio_blk virtio_console virtio-rng virtio_net virtiofs button evdev \
        vmw_vsock_virtio_transport
    case $meta in 686*) ;; *) agent_build "$root/bin/sosia-agent" ;; esac # 32-bit guests have none
    add_udhcpc "$root"
    mkdir -p "$root/etc/acpi/PWRF"
    printf '#!/bin/sh\nsync\npoweroff -f\n' >"$root/etc/acpi/PWRF/00000080"
    chmod 755 "$root/etc/acpi/PWRF/00000080"
    pack_guest "$root" "$out/initrd.img"
    rm -rf "$root"
done
