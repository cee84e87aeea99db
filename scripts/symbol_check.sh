#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: symbol_check.sh LIBCORE LIBSOFT LIBIMAGE
# Proves that core needs nothing but memcpy, memmove, memset and memcmp, that the software engine and
# the disk image library need only those and core, and that none of them has a mutable global.
set -eu
core=$1
soft=$2
image=$3
status=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

defined() { nm -g --defined-only "$@" 2>/dev/null | awk 'NF==3 {print $3}' | sort -u; }
undefined() { nm -u "$@" 2>/dev/null | awk 'NF==2 {print $2}' | sort -u; }

printf 'memcmp\nmemcpy\nmemmove\nmemset\n_GLOBAL_OFFSET_TABLE_\n' | sort >"$tmp/allowed"
defined "$core" >"$tmp/core"
sort -u "$tmp/core" "$tmp/allowed" >"$tmp/core_ok"
undefined "$core" | comm -23 - "$tmp/core_ok" >"$tmp/bad"
if [ -s "$tmp/bad" ]; then
    echo "core has undefined symbols beyond the four it may have:"
    cat "$tmp/bad"
    status=1
fi

for lib in "$soft" "$image"; do
    defined "$lib" | sort -u - "$tmp/core_ok" >"$tmp/lib_ok"
    undefined "$lib" | comm -23 - "$tmp/lib_ok" >"$tmp/bad"
    if [ -s "$tmp/bad" ]; then
        echo "$(basename "$lib") has undefined symbols beyond core's:"
        cat "$tmp/bad"
        status=1
    fi
done

# Constant tables that hold pointers sit in .data.rel.ro, which is read-only once relocated.
objdump -t "$core" "$soft" "$image" 2>/dev/null |
    awk 'NF > 4 && $2 != "df" && $(NF-2) ~ /^(\.data|\.bss|\.tdata|\.tbss|\*COM\*)/ && $(NF-2) !~ /^\.data\.rel\.ro/ &&
         $NF !~ /^\./ {print $NF}' >"$tmp/bad"
if [ -s "$tmp/bad" ]; then
    echo "mutable globals in core, engines/soft or image:"
    cat "$tmp/bad"
    status=1
fi
[ $status -eq 0 ] && echo "symbol check: ok"
exit $status
