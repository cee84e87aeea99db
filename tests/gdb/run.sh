#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/gdb/run.sh [ENGINE...]
# The real gdb against each engine (default: soft). See run.py. Last line: "gdb: N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
SOSIA=${SOSIA:-build/sosia}
status=0

if ! command -v gdb >/dev/null; then
    echo "SKIPPED gdb: not installed"
    echo "gdb: 0 passed, 0 failed, 1 skipped"
    exit 0
fi
make -s guest-tests || exit 1
for engine in ${*:-soft}; do
    tests/gdb/run.py --engine "$engine" --sosia "$SOSIA" || status=1
done
exit $status
