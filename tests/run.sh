#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/run.sh [STAGE...]
# Runs the test stages, cheapest first, each with a time limit; without arguments all of them. Each
# stage prints its own "NAME: N passed, N failed[, N skipped]"; the last line adds them up.
cd "$(dirname "$0")/.." || exit 1

LOGS=build/test-logs
JOBS=$(nproc)
mkdir -p "$LOGS"
passed=0
failed=0
skipped=0
started=$(date +%s)

# stage NAME SECONDS COMMAND...: runs the command; counts its closing line, or one test without it.
stage() {
    name=$1
    limit=$2
    shift 2
    begin=$(date +%s)
    timeout -k 10 "$limit" "$@" >"$LOGS/$name.log" 2>&1
    status=$?
    line=$(grep -aE '[0-9]+ passed, [0-9]+ failed' "$LOGS/$name.log" | tail -1)
    p=$(echo "$line" | sed -n 's/.*[^0-9]\([0-9][0-9]*\) passed.*/\1/p')
    f=$(echo "$line" | sed -n 's/.*[^0-9]\([0-9][0-9]*\) failed.*/\1/p')
    s=$(echo "$line" | sed -n 's/.*[^0-9]\([0-9][0-9]*\) skipped.*/\1/p')
    if [ -z "$line" ]; then
        p=0
        f=0
        [ $status -ne 0 ] || p=1
    fi
    [ $status -eq 0 ] || [ "${f:-0}" -ne 0 ] || f=1
    passed=$((passed + ${p:-0}))
    failed=$((failed + ${f:-0}))
    skipped=$((skipped + ${s:-0}))
    echo "$name: ${p:-0} passed, ${f:-0} failed, ${s:-0} skipped ($(($(date +%s) - begin)) s)"
    grep -a '^SKIPPED' "$LOGS/$name.log" | sed 's/^/    /'
    if [ "${f:-0}" -ne 0 ]; then
        [ $status -ne 124 ] || echo "    time limit of $limit s"
        tail -60 "$LOGS/$name.log" | cut -c1-300 | sed 's/^/    /'
    fi
}

stage_format() { stage format 180 scripts/format_check.sh; }
stage_layers() { stage layers 300 make -s -j"$JOBS" all check; }
stage_clang() { stage clang 600 make -s -j"$JOBS" CC=clang all unit-bin; }
stage_unit() { stage unit 900 sh -c "make -s -j$JOBS unit-bin && make -s unit"; }
stage_asan() { stage asan 1200 sh -c "make -s -j$JOBS MODE=asan unit-bin && make -s MODE=asan unit"; }
# Programs with threads only: the others would find nothing that ASan does not.
TSAN_UNITS="net_linux api_server vsock_unix share control feed loop blk_file blk_image stream fault host_linux irqchip vcpu vm soft_mem"
stage_tsan() { stage tsan 900 make -s -j"$JOBS" MODE=tsan unit UNITS="$TSAN_UNITS"; }
stage_tidy() { stage tidy 600 make -s -j"$JOBS" tidy; }
stage_fuzz() { stage fuzz 900 sh -c "make -s -j$JOBS MODE=asan fuzz-bin && make -s MODE=asan fuzz-replay"; }
stage_decoder() { stage decoder 300 make -s decode-zydis; }
# 45 seconds of random instructions with a fresh seed, which the log names, and those of the corpus.
stage_conform() { stage conform 300 make -s -j"$JOBS" conform; }
stage_guests() { stage guests 600 sh -c "guests/linux/build.sh cloud-amd64 amd64 rt-amd64 686-pae && guests/memtest/build.sh && guests/others/build.sh"; }
# gdb plays an intruder in the monitor: about 30 seconds.
stage_fence() { stage fence 200 tests/fence/run.sh; }
stage_cli() { stage cli 300 tests/cli/run.sh; }
stage_storage() { stage storage 700 make -s -j"$JOBS" storage-test; }
stage_sensitivity() { stage sensitivity 500 tests/sensitivity/run.sh; }
stage_guest() { stage guest 600 tests/guest/run.sh; }
stage_gdb() { stage gdb 300 tests/gdb/run.sh; }
stage_boot() { stage boot 1200 python3 tests/boot/run.py --engine soft --log "$LOGS/boot"; }
stage_stress() { stage stress 900 sh -c "tests/stress/build.sh && tests/stress/run.py --translator on --log $LOGS/stress"; }
stage_net() { stage net 480 sh -c "guests/net/build.sh && python3 tests/net/run.py"; }
stage_share() { stage share 480 sh -c "tests/share/guest.sh && python3 tests/share/run.py"; }
stage_api() { stage api 240 sh -c "tests/api/guest.sh && python3 tests/api/run.py"; }
stage_devices() { stage devices 400 sh -c "guests/devices/build.sh && python3 tests/devices/run.py"; }
stage_manage() { stage manage 300 sh -c "guests/linux/build.sh cloud-amd64 && python3 tests/manage/run.py"; }
stage_snapshot() { stage snapshot 400 sh -c "guests/linux/build.sh cloud-amd64 && { guests/linux/build.sh 6.12-cloud-amd64 || true; } && python3 tests/snapshot/run.py"; }
stage_debian() { stage debian 1100 tests/debian/run.sh; }
stage_amd() { stage amd 900 tests/kvm/run.sh; }

if [ $# -eq 0 ]; then
    set -- format layers tidy clang unit asan tsan fuzz decoder conform guests cli manage fence sensitivity storage guest gdb boot net snapshot share devices api debian stress amd
fi
for s in "$@"; do
    "stage_$s"
done
echo "total time: $(($(date +%s) - started)) s"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
