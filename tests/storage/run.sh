#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/storage/run.sh
# The storage tests in their bounded form (about two minutes); make crash-test has the long one.
cd "$(dirname "$0")/../.." || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
broken=0
part() {
    "$@" >"$log.part" 2>&1 || [ "$(grep -c ' [1-9][0-9]* failed' "$log.part")" -gt 0 ] || broken=$((broken + 1))
    cat "$log.part"
    cat "$log.part" >>"$log"
    rm -f "$log.part"
}
part tests/storage/interop.py
part tests/storage/boot_disk.sh
part tests/storage/full.py
part tests/storage/crash.py --boots 5 --stops 5
sum() { sed -n "s/^[a-z-]*: .*[^0-9]*\\b\\([0-9][0-9]*\\) $1.*/\\1/p" "$log" | awk '{n += $1} END {print n + 0}'; }
failed=$(($(sum failed) + broken))
echo "storage: $(sum passed) passed, $failed failed, $(sum skipped) skipped"
[ "$failed" -eq 0 ]
