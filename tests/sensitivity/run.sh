#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/sensitivity/run.sh
# Runs `sosia sensitivity` on the software engine and checks what it found (check.py).
cd "$(dirname "$0")/../.." || exit 1
SOSIA=${SOSIA:-build/sosia}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
timeout 500 "$SOSIA" sensitivity --engine soft --json --html "$tmp/report.html" >"$tmp/report.json" || exit 1
python3 tests/sensitivity/check.py "$tmp/report.json" "$tmp/report.html"
