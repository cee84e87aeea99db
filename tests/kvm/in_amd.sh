#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# usage: tests/kvm/in_amd.sh [--file F[:NAME]]... [--memory MIB] [--cpus N] [--timeout SECONDS] -- COMMAND...
#
# Runs COMMAND inside an emulated AMD machine (QEMU's TCG with SVM and nested paging) under Debian's kernel
# with kvm_amd: there /dev/kvm is real hardware virtualisation, slow but true. The exit status is the
# command's, 124 on timeout, 125 when the machine died. Files are put into the command's directory, programs
# together with the shared libraries they need; a program is called as ./NAME. Standard input is empty.
#
# The processor has no XSAVE: QEMU 7.2 does not intercept XSETBV, so a guest of the guest would change its
# host's XCR0. It also keeps neither the intercept of #BP nor DR7: breakpoints do not work there.
# No SMAP: a program's IRET, by which the software engine serialises, reads its stack there as if the kernel did.
# It should have one processor (--cpus 1, the default). With more, QEMU 7.2 delivers an interrupt to the guest of
# the guest twice at times: helper_vmrun (target/i386/tcg/sysemu/svm_helper.c) leaves the vector that EVENTINJ
# names in exception_index, and a request to leave the loop before the next exit of that guest finds it there
# and delivers it as an exception, whatever IF says. Such requests come when processors take turns (every 100 ms)
# or run on threads of their own. Seen: a second timer interrupt at the first instruction of the handler of the
# first one, with IF clear and before SWAPGS, and so page faults in the kernel until its stack is used up.
# no_timer_check: a busy host starves the machine of the ticks that its kernel counts while it starts.
#
#   tests/kvm/in_amd.sh --file build/gcc-rel/tests/unit/kvm_test -- ./kvm_test
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
    sed -n '3s/^# //p' "$0" >&2
    exit 2
}

files=()
memory=1024
cpus=1
limit=900
while [ $# -gt 0 ]; do
    case $1 in
    --file) files+=("$2") && shift 2 ;;
    --memory) memory=$2 && shift 2 ;;
    --cpus) cpus=$2 && shift 2 ;;
    --timeout) limit=$2 && shift 2 ;;
    --) shift && break ;;
    *) usage ;;
    esac
done
[ $# -gt 0 ] || usage
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "in_amd: qemu-system-x86_64 is missing: apt-get install qemu-system-x86" >&2
    exit 2
fi

guests/amd/build.sh
. guests/lib.sh
amd=$GUESTS/amd
work=$(mktemp -d "$GUESTS/amd.XXXXXX")
trap 'rm -rf "$work"' EXIT

# the libraries of a dynamically linked program, at the paths where the loader looks for them
copy_libraries() {
    { ldd "$1" 2>/dev/null || true; } | sed -n 's,^[^/]*\(/[^ ]*\).*,\1,p' | while read -r lib; do
        mkdir -p "$work/root$(dirname "$lib")"
        cp -L -n "$lib" "$work/root$lib"
    done
}

mkdir -p "$work/root/job"
for spec in "${files[@]}"; do
    file=${spec%%:*}
    name=${spec#*:}
    [ "$name" != "$spec" ] || name=$(basename "$file")
    [ -f "$file" ] || { echo "in_amd: $file: no such file" >&2 && exit 2; }
    cp -L "$file" "$work/root/job/$name"
    copy_libraries "$file"
done
printf '%q ' "$@" >"$work/root/job/command"
echo >>"$work/root/job/command"

# Linux unpacks archives that follow one another
pack_initramfs "$work/root" "$work/job.img"
cat "$amd/base.img" "$work/job.img" >"$work/initrd.img"
: >"$work/status"

set +e
timeout --foreground "$limit" qemu-system-x86_64 \
    -machine pc -accel tcg,thread=single -cpu max,+svm,+npt,-xsave,-smap -smp "$cpus" -m "$memory" \
    -nodefaults -no-user-config -display none -no-reboot \
    -serial stdio -serial "file:$work/status" \
    -kernel "$amd/vmlinuz" -initrd "$work/initrd.img" \
    -append "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check" </dev/null
qemu=$?
set -e
if [ $qemu -eq 124 ]; then
    echo "in_amd: no end within $limit s" >&2
    exit 124
fi
status=$(tr -dc 0-9 <"$work/status")
if [ -z "$status" ]; then
    echo "in_amd: the machine ended without a status (qemu: $qemu)" >&2
    exit 125
fi
exit "$status"
