#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/fence/run.sh
# What an intruder in the monitor's process can still do, and the jail around it.
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for part in intruder jail; do
    tests/fence/$part.py >"$tmp/$part" 2>&1 || echo "FAILED: $part ended with status $?" >>"$tmp/$part"
    cat "$tmp/$part"
done
sum() { cat "$tmp"/* | sed -n "s/^[a-z]*: .*\b\([0-9][0-9]*\) $1.*/\1/p" | awk '{n += $1} END {print n + 0}'; }
broken=$(grep -c '^FAILED: .* ended with status' "$tmp"/* | awk -F: '{n += $2} END {print n}')
failed=$(sum failed)
[ "$failed" -ne 0 ] || failed=$broken
echo "fence: $(sum passed) passed, $failed failed, $(sum skipped) skipped"
[ "$failed" -eq 0 ]
