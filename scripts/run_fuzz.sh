#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: run_fuzz.sh SECONDS FUZZER...
# Runs libFuzzer programs one after another, from the seeds in tests/fuzz/corpus/NAME and what earlier
# runs found (build/fuzz/NAME/corpus). An input that crashes stays in build/fuzz/NAME.
seconds=$1
shift
passed=0
failed=0
for program in "$@"; do
    name=$(basename "$program" _fuzzer)
    out=build/fuzz/$name
    seeds=tests/fuzz/corpus/$name
    mkdir -p "$out/corpus" "$seeds"
    if timeout $((seconds + 120)) "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -max_len=8192 -print_final_stats=1 -artifact_prefix="$out/" "$out/corpus" "$seeds" >"$out/log" 2>&1; then
        echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$out/log") inputs"
        passed=$((passed + 1))
    else
        tail -40 "$out/log"
        echo "FAILED: $name, see $out"
        failed=$((failed + 1))
    fi
done
echo "fuzz: $passed passed, $failed failed"
[ $failed -eq 0 ]
