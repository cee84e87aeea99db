#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: format_check.sh
# Every C file is formatted by .clang-format; every source file names its licence; no file has what a merge left.
set -u
status=0
# not git ls-files: there may be no git, or it may distrust the folder's owner, and say nothing
sources() {
    find . -path ./build -prune -o -path ./.git -prune -o -type f "$@" -print | sort
}
files=$(sources \( -name '*.c' -o -name '*.h' \))
[ -n "$files" ] || { echo "no source files found"; exit 1; }
# shellcheck disable=SC2086
if ! clang-format --dry-run -Werror $files >/dev/null 2>&1; then
    for f in $files; do
        clang-format --dry-run -Werror "$f" >/dev/null 2>&1 || echo "not formatted: $f (run make format)"
    done
    status=1
fi
for f in $(sources \( -name '*.[chsS]' -o -name '*.py' -o -name '*.sh' -o -name '*.def' -o -name Makefile \)); do
    [ ! -s "$f" ] || head -3 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || {
        echo "no SPDX line: $f"
        status=1
    }
done
left=$(sources \( -name '*.[chsS]' -o -name '*.py' -o -name '*.sh' -o -name '*.md' -o -name '*.1' -o -name '*.yaml' \) |
    xargs grep -lE '^(<<<<<<<|>>>>>>>) ')
[ -z "$left" ] || { echo "marks of a merge: $left"; status=1; }
exit $status
