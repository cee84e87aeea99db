#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/debian/build.sh [DIR]
# A Debian 12 system on a disk image: build/guests/debian/debian.qcow2 with the kernel and initial RAM disk
# from it beside. ext4 on the whole disk, systemd, DHCP by systemd-networkd, ssh, login on ttyS0: root
# without a password there; over ssh with the key id_ed25519 beside the image (made here, or SSH_KEY=FILE.pub).
# Needs root, as debootstrap does. SIZE=4G and PACKAGES="..." may be given; CLOUD_INIT=1 makes a system that is set up by
# cloud-init at its first start (sosia run --cloud-init), in build/guests/debian-cloud.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh
out=${1:-$GUESTS/debian${CLOUD_INIT:+-cloud}}
size=${SIZE:-4G}
# shellcheck disable=SC2086
extra=$(echo ${PACKAGES:-} ${CLOUD_INIT:+cloud-init} | tr ' ' ',')
recipe="$size $extra"
sosia=${SOSIA:-build/sosia}

[ "$(id -u)" -eq 0 ] || { echo "debian image: needs root to unpack a system" >&2 && exit 1; }
if is_fresh "$out/debian.qcow2" guests/debian/build.sh guests/agent/* cmd/agent_proto.h &&
    [ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ]; then
    echo "guest debian: $out/debian.qcow2"
    exit 0
fi
[ -x "$sosia" ] || { echo "debian image: $sosia is missing: make" >&2 && exit 1; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d "$out/tmp.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

key() {
    if [ -n "${SSH_KEY:-}" ]; then
        cat "$SSH_KEY"
        return
    fi
    [ -f "$out/id_ed25519" ] || ssh-keygen -q -t ed25519 -N "" -C sosia-guest -f "$out/id_ed25519"
    cat "$out/id_ed25519.pub"
}

echo "debian image: unpacking the system"
# shellcheck disable=SC2086
mmdebstrap --mode=root --variant=important --format=directory \
    --include="systemd-sysv,systemd-resolved,dbus,udev,linux-image-cloud-amd64,openssh-server,ca-certificates,e2fsprogs${extra:+,$extra}" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$root" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2 && exit 1; }

echo "debian image: configuring"
echo sosia >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 sosia\n::1 localhost ip6-localhost\n' >"$root/etc/hosts"
echo "/dev/vda / ext4 defaults,errors=remount-ro 0 1" >"$root/etc/fstab"
mkdir -p "$root/etc/systemd/network" "$root/root/.ssh" "$root/etc/systemd/system/ssh.service.d"
printf '[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/80-dhcp.network"
# each copy of the image gets host keys and a machine id of its own; no RSA key, whose primes take seconds to find
# where the processor is emulated, and getty waits for ssh
rm -f "$root"/etc/ssh/ssh_host_*
cat >"$root/etc/systemd/system/ssh.service.d/keys.conf" <<'END'
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'for t in ecdsa ed25519; do f=/etc/ssh/ssh_host_$${t}_key; [ -s $$f ] || { rm -f $$f; ssh-keygen -q -N "" -t $$t -f $$f; } || exit 1; done'
ExecStartPre=/usr/sbin/sshd -t
END
: >"$root/etc/machine-id"
key >"$root/root/.ssh/authorized_keys"
chmod 700 "$root/root/.ssh"
chroot "$root" passwd -q -d root
# what answers `sosia exec` (docs/exec.md)
agent_build "$root/usr/local/sbin/sosia-agent"
cp guests/agent/sosia-agent.service "$root/etc/systemd/system/"
cp guests/agent/90-sosia-agent.rules "$root/etc/udev/rules.d/"
echo vmw_vsock_virtio_transport >"$root/etc/modules-load.d/sosia-agent.conf"
chroot "$root" systemctl -q enable systemd-networkd systemd-resolved ssh serial-getty@ttyS0
# nothing waits for the network before the login prompt
chroot "$root" systemctl -q mask systemd-networkd-wait-online.service
# cloud-init would call locale-gen, which is not there
[ -z "${CLOUD_INIT:-}" ] || echo "locale: false" >"$root/etc/cloud/cloud.cfg.d/10-locale.cfg"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
cp -L "$root/vmlinuz" "$work/vmlinuz"
cp -L "$root/initrd.img" "$work/initrd.img"

echo "debian image: writing $size of ext4"
truncate -s "$size" "$work/raw"
mke2fs -q -t ext4 -L root -E lazy_itable_init=1 -d "$root" "$work/raw"
"$sosia" image convert "$work/raw" "$work/debian.qcow2"
mv "$work/vmlinuz" "$work/initrd.img" "$out/"
mv "$work/debian.qcow2" "$out/debian.qcow2"
echo "$recipe" >"$out/recipe"
echo "guest debian: $out/debian.qcow2"
