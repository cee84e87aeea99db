#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: guests/memtest/build.sh
# Takes memtest86+ out of Debian's package: build/guests/memtest/memtest.bin, which is a bzImage.
set -eu
cd "$(dirname "$0")/../.."
. guests/lib.sh
[ ! -f "$GUESTS/memtest/memtest.bin" ] || exit 0
root=$(unpack_deb memtest86+)
mkdir -p "$GUESTS/memtest"
find "$root/boot" -name 'memtest86+x64.bin' -exec cp {} "$GUESTS/memtest/memtest.bin" \;
[ -f "$GUESTS/memtest/memtest.bin" ] || cp "$root"/boot/memtest86+*.bin "$GUESTS/memtest/memtest.bin"
