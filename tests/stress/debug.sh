#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Debian's gdb inside: breakpoints, stepping, finish, a data breakpoint and a call, on a program built
# here. What it prints is compared with what it prints natively.
cd /tmp || exit 1
cat >debugged.c <<'END'
#include <stdio.h>
int total;
static int twice(int v) { return v * 2; }
static __attribute__((noinline)) int add(int v)
{
    int before = total;
    total = before + twice(v);
    return total;
}
int main(void)
{
    for (int i = 0; i < 50; i++)
        add(i);
    printf("%d\n", total);
    return 0;
}
END
gcc -g -O0 -static -o debugged debugged.c || exit 1
gdb -nx -batch -ex 'set confirm off' -ex 'set disable-randomization off' -ex 'set startup-with-shell off' -ex 'break add if v == 7' \
    -ex run -ex backtrace -ex 'print total' -ex next -ex step -ex finish -ex 'stepi 5' -ex 'print $pc' \
    -ex 'watch total' -ex continue -ex continue -ex 'print total' -ex 'delete' -ex 'print twice(21)' \
    -ex continue debugged 2>&1 | grep -vE 'process [0-9]|^warning:'
