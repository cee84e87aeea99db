#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/guest/run.sh [ENGINE...]
# Builds the freestanding guests and runs each on each engine (default: soft interpreted, soft translated,
# and kvm where it really executes guests). QEMU=1 runs them on QEMU as well, to check the tests themselves; QEMU fails some of
# them, being less exact. GUESTS="apic paging" runs only these.
cd "$(dirname "$0")/../.." || exit 1
SOSIA=${SOSIA:-build/sosia}
OUT=build/guest-tests
passed=0
failed=0
skipped=0

make -s guest-tests || exit 1
# protection keys, which soft offers on any host when asked; such a machine has no PCI
echo '{"boot-source": {"kernel_image_path": "given by --kernel"}, "cpu-config": {"cpuid_modifiers": [
    {"leaf": "0x7", "subleaf": "0x0", "flags": 1, "modifiers": [{"register": "ecx", "bitmap": "0b1xxx"}]}]}}' >"$OUT/cpu.json"
engines=${*:-soft translated kvm}
[ -z "${QEMU:-}" ] || engines="$engines qemu"

run_guest() { # run_guest ENGINE NAME: exit status of the machine
    case $1 in
    qemu) timeout 30 qemu-system-x86_64 -accel tcg -cpu max -smp 4 -m 64 -display none -serial stdio -monitor none -no-reboot \
        -device isa-debug-exit,iobase=0xf4,iosize=4 -device pc-testdev -device virtio-rng-pci,disable-legacy=on -kernel "$OUT/$2.elf" -append loose-chips ;;
    translated) timeout 120 "$SOSIA" run --quiet $config --engine soft --translator on --cpus 4 --memory 64M --test-devices \
        --kernel "$OUT/$2.elf" --cmdline "$cmdline" ;;
    soft) timeout 120 "$SOSIA" run --quiet $config --engine soft --translator off --cpus 4 --memory 64M --test-devices \
        --kernel "$OUT/$2.elf" --cmdline "$cmdline" ;;
    *) timeout 120 "$SOSIA" run --quiet --engine "$1" --cpus 4 --memory 64M --test-devices \
        --kernel "$OUT/$2.elf" --cmdline "$cmdline" ;;
    esac
}

# --engine auto takes kvm only where that executes guests; where it does not, the line says why.
kvm_refused() {
    "$SOSIA" run --engine auto --memory 64M --test-devices --kernel "$OUT/first.elf" </dev/null 2>&1 |
        grep '^sosia: engine soft'
}

for engine in $engines; do
    cmdline=test
    [ "$engine" = kvm ] && cmdline=loose-chips
    if [ "$engine" = kvm ] && [ $# -eq 0 ] && why=$(kvm_refused); then
        echo "SKIPPED engine kvm: $why"
        skipped=$((skipped + 1))
        continue
    fi
    for image in "$OUT"/*.elf; do
        name=$(basename "$image" .elf)
        case " ${GUESTS:-$name} " in *" $name "*) ;; *) continue ;; esac
        case $name in paging | implicit) config="--config $OUT/cpu.json" ;; *) config= ;; esac
        out=$(run_guest "$engine" "$name" </dev/null 2>&1)
        status=$?
        if [ $status -eq 65 ]; then
            passed=$((passed + 1))
            echo "ok      $engine $name: $(echo "$out" | tail -1)"
        else
            failed=$((failed + 1))
            echo "FAILED  $engine $name: status $status"
            echo "$out" | tail -20
        fi
    done
done
echo "guest: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
