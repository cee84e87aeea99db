#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guest.sh SECONDS ITEM...
# Runs in the guest. ITEM: NAME of a program in /extra; ng:CLASS for stress-ng; userland; debug. Prints
# "stress: begin ITEM" and "stress: end ITEM STATUS" around what the item prints.
seconds=$1
shift
export STRESS_SECONDS=$seconds
cd /tmp || exit 1

ng() { # ng CLASS: bounded by operations of no kind, by time only
    case $1 in
    cpu) set -- --cpu 2 --cpu-method all ;;
    vm) set -- --vm 2 --vm-bytes 16M --vm-method all ;;
    memory) set -- --memcpy 1 --memthrash 1 --stream 1 --stream-l3-size 2M ;;
    futex) set -- --futex 2 ;;
    switch) set -- --switch 2 ;;
    fork) set -- --fork 2 ;;
    mmap) set -- --mmap 2 --mmap-bytes 8M ;;
    *) set -- "--$1" 2 ;;
    esac
    stress-ng "$@" --verify --timeout "$seconds" --metrics-brief --temp-path /tmp 2>&1
}

one() {
    case $1 in
    ng:*) ng "${1#ng:}" ;;
    userland) /extra/userland.sh ;;
    debug) /extra/debug.sh ;;
    *) "/extra/$1" ;;
    esac
}

for item in "$@"; do
    echo "stress: begin $item"
    one "$item"
    echo "stress: end $item $?"
done

echo "stress: kernel"
dd if=/dev/kmsg iflag=nonblock bs=8192 2>/dev/null | grep -E '^[0-4],'
true
