#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: setup.sh build|run|test|image|bench
# Installs the Debian packages that a purpose needs and that are not there yet. Needs root only when
# something is missing.
set -eu
purpose=${1:-build}

packages="gcc libc6-dev make libjansson-dev libmicrohttpd-dev libseccomp-dev libslirp-dev liburing-dev zlib1g-dev libzstd-dev"
case $purpose in
build) ;;
run) packages="$packages cpio kmod" ;;
test) packages="$packages cpio e2fsprogs fdisk kmod lz4 xz-utils zstd clang clang-format clang-tidy libclang-rt-14-dev binutils
    libcmocka-dev libzydis-dev python3 gdb qemu-system-x86 qemu-utils procps iproute2 iperf3 curl openssh-client
    passt mmdebstrap" ;;
image) packages="$packages e2fsprogs mmdebstrap openssh-client" ;;
bench) packages="$packages cpio e2fsprogs kmod lz4 xz-utils zstd python3 qemu-system-x86 procps libslirp0" ;;
*)
    echo "usage: setup.sh build|run|test|image|bench" >&2
    exit 2
    ;;
esac

missing=
for p in $packages; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "setup: these packages are missing, install them as root: apt-get install$missing" >&2
    exit 1
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
