# SPDX-License-Identifier: Apache-2.0
# Shell functions for recipes: Debian packages as sources of guests, never installed on the host.
# Source it from the top of the tree. Everything is cached below build/guests and made atomically, so
# that a recipe that was interrupted starts again.

GUESTS=${GUESTS:-build/guests}

# is_fresh FILE SOURCE...: FILE is there and newer than all that it is made of.
is_fresh() {
    _made=$1
    shift
    for _f in "$@"; do
        [ "$_made" -nt "$_f" ] || return 1
    done
}

# mirror: the address of the Debian archive in apt's sources.
mirror() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 == "bookworm" {print $1; exit}'
}

# apt_i386 ARGUMENTS: apt-get for the i386 architecture, with package lists of its own.
apt_i386() {
    mkdir -p "$GUESTS/apt-i386/lists/partial" "$GUESTS/apt-i386/cache/archives/partial"
    : >"$GUESTS/apt-i386/status"
    _state=$(cd "$GUESTS/apt-i386" && pwd)
    # where this machine's own packages come from; without lists yet, after an update
    _uri=$(mirror)
    [ -n "$_uri" ] || { apt-get -qq update >/dev/null && _uri=$(mirror); }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $_uri bookworm main" >"$_state/sources.list"
    apt-get -qq -o APT::Sandbox::User=root -o APT::Architecture=i386 -o APT::Architectures::=i386 \
        -o Dir::State="$_state" -o Dir::State::status="$_state/status" -o Dir::Cache="$_state/cache" \
        -o Dir::Etc::sourcelist="$_state/sources.list" -o Dir::Etc::sourceparts=/dev/null "$@" >/dev/null
}

# fetch_deb_i386 NAME:i386
fetch_deb_i386() {
    if [ ! -f "$GUESTS/deb/$1.deb" ]; then
        [ -f "$GUESTS/apt-i386/updated" ] || apt_i386 update
        touch "$GUESTS/apt-i386/updated"
        _tmp=$(mktemp -d "$GUESTS/deb/tmp.XXXXXX")
        _lib=$(pwd)
        (GUESTS=$(cd "$GUESTS" && pwd) && cd "$_tmp" && apt_i386 download "${1%:i386}")
        cd "$_lib"
        mv "$_tmp"/*.deb "$GUESTS/deb/$1.deb"
        rmdir "$_tmp"
    fi
    echo "$GUESTS/deb/$1.deb"
}

# fetch_deb NAME: prints the path of the package file, downloaded once. NAME:i386 is the 32-bit package.
fetch_deb() {
    mkdir -p "$GUESTS/deb"
    case $1 in *:i386)
        fetch_deb_i386 "$1"
        return
        ;;
    esac
    if [ ! -f "$GUESTS/deb/$1.deb" ]; then
        _tmp=$(mktemp -d "$GUESTS/deb/tmp.XXXXXX")
        if ! (cd "$_tmp" && apt-get -qq -o APT::Sandbox::User=root download "$1" >/dev/null 2>&1); then
            # a fresh machine has no package lists
            apt-get -qq update >/dev/null
            (cd "$_tmp" && apt-get -qq -o APT::Sandbox::User=root download "$1" >/dev/null)
        fi
        mv "$_tmp"/*.deb "$GUESTS/deb/$1.deb"
        rmdir "$_tmp"
    fi
    echo "$GUESTS/deb/$1.deb"
}

# unpack_deb NAME: prints the folder that holds the package's files.
unpack_deb() {
    if [ ! -d "$GUESTS/unpacked/$1" ]; then
        mkdir -p "$GUESTS/unpacked"
        _deb=$(fetch_deb "$1")
        _dir=$(mktemp -d "$GUESTS/unpacked/tmp.XXXXXX")
        dpkg-deb -x "$_deb" "$_dir"
        chmod 755 "$_dir"
        mv "$_dir" "$GUESTS/unpacked/$1"
    fi
    echo "$GUESTS/unpacked/$1"
}

# arch_of META: ":i386" for kernels of the 32-bit architecture.
arch_of() {
    case $1 in 686*) echo :i386 ;; esac
}

# kernel_package META: the package that linux-image-META depends on ("cloud-amd64", "amd64").
kernel_package() {
    if [ ! -s "$GUESTS/kernel-$1.name" ]; then
        mkdir -p "$GUESTS"
        _meta=$(fetch_deb "linux-image-$1$(arch_of "$1")")
        dpkg-deb -f "$_meta" Depends | tr ',|' '\n\n' | sed 's/[ (].*//;s/^ *//' |
            grep '^linux-image-' | head -1 >"$GUESTS/kernel-$1.name.tmp"
        mv "$GUESTS/kernel-$1.name.tmp" "$GUESTS/kernel-$1.name"
    fi
    cat "$GUESTS/kernel-$1.name"
}

# kernel_image META: prints the path of the bzImage.
kernel_image() {
    _root=$(unpack_deb "$(kernel_package "$1")$(arch_of "$1")")
    echo "$_root"/boot/vmlinuz-*
}

# copy_modules META ROOT MODULE...: copies modules and what they depend on into ROOT, with modules.dep.
copy_modules() {
    _root=$(unpack_deb "$(kernel_package "$1")$(arch_of "$1")")
    _dest=$2
    shift 2
    _version=$(basename "$(echo "$_root"/lib/modules/*)")
    [ -f "$_root/lib/modules/$_version/modules.dep" ] || depmod -b "$_root" "$_version"
    mkdir -p "$_dest/lib/modules/$_version"
    for _m in "$@"; do
        modprobe -d "$_root" -S "$_version" --show-depends "$_m" 2>/dev/null | awk '$1 == "insmod" {print $2}'
    done | sort -u | while read -r _file; do
        _rel=${_file#*"/lib/modules/$_version/"}
        mkdir -p "$_dest/lib/modules/$_version/$(dirname "$_rel")"
        cp "$_root/lib/modules/$_version/$_rel" "$_dest/lib/modules/$_version/$_rel"
    done
    cp "$_root/lib/modules/$_version/"modules.builtin* "$_root/lib/modules/$_version/modules.order" \
        "$_dest/lib/modules/$_version/"
    depmod -b "$_dest" "$_version"
}

# busybox_root DIR [:i386]: a root folder with busybox and its links.
busybox_root() {
    _bb=$(unpack_deb "busybox-static${2:-}")
    mkdir -p "$1/bin" "$1/sbin" "$1/proc" "$1/sys" "$1/dev" "$1/tmp" "$1/mnt" "$1/etc" "$1/root"
    cp "$_bb/bin/busybox" "$1/bin/busybox"
    for _app in $("$1/bin/busybox" --list); do
        [ "$_app" = busybox ] || ln -sf busybox "$1/bin/$_app"
    done
}

# agent_build FILE: the agent that `sosia exec` talks to, for 64-bit guests.
agent_build() {
    gcc -std=gnu11 -Os -Wall -Wextra -Werror -D_GNU_SOURCE -I. -static -s -o "$1" guests/agent/agent.c
}

# pack_initramfs DIR FILE: newc archive, uncompressed: unpacking it costs the guest nothing.
pack_initramfs() {
    (cd "$1" && find . -print0 | LC_ALL=C sort -z |
        cpio --quiet --null --create --format=newc --owner=0:0 --reproducible) >"$2.tmp"
    mv "$2.tmp" "$2"
}

# pack_guest DIR FILE: the same, with guests/linux/init as the first process.
pack_guest() {
    cp guests/linux/init "$1/init"
    chmod 755 "$1" "$1/init"
    pack_initramfs "$1" "$2"
}

# add_udhcpc DIR: what busybox's udhcpc does with an address.
add_udhcpc() {
    mkdir -p "$1/etc/udhcpc"
    cp guests/linux/udhcpc.script "$1/etc/udhcpc/default.script"
    chmod 755 "$1/etc/udhcpc/default.script"
}

# fetch_debs NAME...: downloads those that are missing with one call.
fetch_debs() {
    _missing=
    mkdir -p "$GUESTS/deb"
    for _p in "$@"; do
        [ -f "$GUESTS/deb/$_p.deb" ] || _missing="$_missing $_p"
    done
    [ -n "$_missing" ] || return 0
    _tmp=$(mktemp -d "$GUESTS/deb/tmp.XXXXXX")
    # shellcheck disable=SC2086
    (cd "$_tmp" && apt-get -qq -o APT::Sandbox::User=root download $_missing >/dev/null)
    for _f in "$_tmp"/*.deb; do
        _p=$(basename "$_f")
        mv "$_f" "$GUESTS/deb/${_p%%_*}.deb"
    done
    rmdir "$_tmp"
}

# What only drivers of graphic cards need, and what configures a system that is installed
DEB_SKIP='^(libgl1-mesa-dri|libllvm[0-9]*|libz3-4|adduser|debconf|cdebconf|passwd|login|libpam.*|init-system-helpers|systemd.*|udev)$'

# deb_root DIR PACKAGE...: the files of packages and all they depend on, as one root folder with /usr
# merged. Nothing is installed on the host and no package script runs.
deb_root() {
    _into=$1
    shift
    for _try in 1 2; do
        _names=$(apt-get -s -o Dir::State::status=/dev/null -o Debug::NoLocking=1 \
            --no-install-recommends install "$@" 2>/dev/null |
            awk '$1 == "Inst" {print $2}' | grep -vE "$DEB_SKIP" | sort -u)
        [ -z "$_names" ] || break
        apt-get -qq update >/dev/null # a fresh machine has no package lists
    done
    [ -n "$_names" ] || return 1
    # shellcheck disable=SC2086
    fetch_debs $_names
    for _d in bin sbin lib lib32 lib64 libx32; do
        mkdir -p "$_into/usr/$_d"
        ln -s "usr/$_d" "$_into/$_d"
    done
    for _name in $_names; do
        dpkg-deb --fsys-tarfile "$GUESTS/deb/$_name.deb" |
            tar -x --no-same-owner --keep-directory-symlink -C "$_into"
    done
    chmod 755 "$_into"
    [ -e "$_into/bin/sh" ] || ln -s bash "$_into/bin/sh"
    mkdir -p "$_into/proc" "$_into/sys" "$_into/dev" "$_into/tmp" "$_into/root"
}

# in_root DIR COMMAND...: runs a program of a guest's root folder natively.
in_root() {
    _dir=$1
    shift
    if [ "$(id -u)" -eq 0 ]; then
        chroot "$_dir" "$@"
    else
        unshare -Ur chroot "$_dir" "$@"
    fi
}
