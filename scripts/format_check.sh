#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: format_check.sh
# Every C file is formatted by .clang-format; every source file names its licence.
set -u
status=0
files=$(git ls-files '*.c' '*.h')
for f in $files; do
    clang-format --dry-run -Werror "$f" >/dev/null 2>&1 || {
        echo "not formatted: $f (run make format)"
        status=1
    }
done
for f in $(git ls-files '*.c' '*.h' '*.S' '*.s' '*.py' '*.sh' '*.def' Makefile '*.mk'); do
    [ ! -s "$f" ] || head -3 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || {
        echo "no SPDX line: $f"
        status=1
    }
done
exit $status
