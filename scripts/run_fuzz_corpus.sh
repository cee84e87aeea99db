#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: run_fuzz_corpus.sh REPLAY_PROGRAM...
# Feeds tests/fuzz/corpus/NAME/* to each harness, and then inputs made from a fixed seed.
passed=0
failed=0
for program in "$@"; do
    name=$(basename "$program" _replay)
    if timeout 300 "$program" "tests/fuzz/corpus/$name" >/tmp/fuzz_replay.$$ 2>&1; then
        passed=$((passed + 1))
    else
        tail -40 /tmp/fuzz_replay.$$
        echo "FAILED: $program"
        failed=$((failed + 1))
    fi
done
rm -f /tmp/fuzz_replay.$$
echo "fuzz: $passed passed, $failed failed"
[ $failed -eq 0 ]
