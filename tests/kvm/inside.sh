#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: inside.sh (in the emulated AMD machine, files beside it; see run.sh)
# The KVM engine on real hardware virtualisation: its unit tests, the freestanding guests, Linux.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

why() { tail -25 out; }

for test in kvm_test cpuid_test state_test; do
    ./$test >out 2>&1
    result "$test" $?
done

for image in *.elf; do
    timeout 60 ./sosia run --quiet --engine kvm --cpus 4 --memory 64M --test-devices --kernel "$image" --cmdline "test loose-chips" \
        </dev/null >out 2>&1
    status=$?
    [ $status -eq 65 ]
    result "guest $(basename "$image" .elf) (status $status)" $?
done

# A boot that ends in a guest's panic or triple fault is repeated, up to two times, and that is printed. The
# fault was always the emulated processor's (in_amd.sh tells which); one of the engine fails all three.
linux() { # linux NAME CPUS COMMAND PATTERN OPTIONS...
    name=$1 cpus=$2 command=$3 pattern=$4
    shift 4
    for try in 1 2 3; do
        timeout 200 ./sosia run --cpus "$cpus" --memory 256M --kernel vmlinuz --initrd initrd.img \
            --cmdline "console=ttyS0 quiet panic=-1 sosia.run=\"$command\"" "$@" </dev/null >out 2>&1
        status=$?
        [ $status -eq 0 ] && grep -q 'engine kvm' out && grep -qE "$pattern" out
        good=$?
        why=$(grep -aoE 'Kernel panic[^\r]*|triple fault' out | head -1)
        [ $good -ne 0 ] && [ -n "$why" ] && [ $try -lt 3 ] || break
        echo "AGAIN   amd $name: try $try ended in: $why"
        grep -aE 'RIP:|RSP:|CR2:|rip|cr2' out | head -12
    done
    result "$name" $good
}

linux "Linux, 1 vCPU, engine chosen by auto" 1 "echo cpus \$(nproc)" "cpus 1"
dd if=/dev/zero of=disk.img bs=1M count=8 2>/dev/null
linux "Linux, 4 vCPUs, disk" 4 \
    "echo cpus \$(nproc); dd if=/bin/busybox of=/dev/vda bs=64k count=8 conv=fsync; cmp -n 524288 /bin/busybox /dev/vda && echo same" \
    "same" --disk disk.img
linux "Linux, virtio over MMIO" 2 "dd if=/dev/hwrng bs=64 count=1 | wc -c; echo cpus \$(nproc)" "cpus 2" --transport mmio

# A guest that checks itself, moved between the engines. (around.sh is run by hand: it takes minutes on a busy host.)
./moving.sh >out 2>&1
status=$?
grep -E '^(ok|FAILED) ' out
passed=$((passed + $(grep -c '^ok ' out)))
failed=$((failed + status))
[ $status -eq 0 ] || tail -60 out
last=$(date +%s)

# The analyser finds here what it finds on the software engine (tests/sensitivity).
for name in POPF PUSHF SMSW SGDT LAR; do
    timeout 100 ./sosia sensitivity --engine kvm --mode 64 --no-native --only $name >out 2>&1 &&
        grep -q 'SENSITIVE, UNPRIVILEGED' out && grep -q 'Theorem 1.*does not hold' out
    result "sensitivity of $name" $?
done
for name in HLT WRMSR LGDT; do
    timeout 100 ./sosia sensitivity --engine kvm --mode 64 --no-native --all --only $name >out 2>&1 &&
        grep -q 'sensitive, privileged' out && grep -q 'Theorem 1.*: holds' out
    result "sensitivity of $name" $?
done

echo "amd: $passed passed, $failed failed"
[ $failed -eq 0 ]
