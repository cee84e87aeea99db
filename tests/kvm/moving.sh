#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: moving.sh (in the emulated AMD machine, called by inside.sh)
# A guest that checks itself goes from one engine to the other and back: by snapshots, saved in its first second,
# and while it runs.
# Prints a line for each; the exit status is the number of those that failed.
cd "$(dirname "$0")" || exit 1
. ./lib.sh

why() {
    tail -5 move.out ./*.log 2>/dev/null
    grep -h FAIL ./*.log
}

start() { # start ENGINE OPTIONS...: machine a
    engine=$1
    shift
    rm -f ./*.log
    ./sosia run -d --quiet --engine "$engine" --name a --cpus 2 --memory 64M --test-devices --console "file=$PWD/a.log" \
        --kernel moving.img --cmdline "$rounds loose-chips" "$@" >move.out 2>&1 && beats a.log 3
}

# the machine of state file $1 on engine $2 to its end: 65 when all checks were right
finish() {
    ./sosia restore "$1" --quiet --engine "$2" --name b --console "file=$PWD/b.log" </dev/null >>move.out 2>&1
    [ $? -eq 65 ] && grep -q ' 0 failures' b.log
}

rounds=brief
start kvm && ./sosia snapshot a s1 --stop >>move.out 2>&1 && finish s1 soft
result "a guest from kvm to soft, by a snapshot" $?

rm -f ./*.log
./sosia restore s1 -d --quiet --engine soft --name c --console "file=$PWD/c.log" >move.out 2>&1 && beats c.log 3 &&
    ./sosia snapshot c s2 --stop >>move.out 2>&1 && finish s2 kvm
result "and back to kvm" $?

start soft --portable && ./sosia snapshot a s3 --stop >>move.out 2>&1 && finish s3 kvm
result "a guest from soft to kvm, by a snapshot" $?

# The software engine offers what this KVM has not (SPEC_CTRL): that is said.
start soft && ./sosia snapshot a s4 --stop >>move.out 2>&1
finish s4 kvm || grep -q 'this host and engine lack' move.out
result "another guest from soft to kvm, or why not" $?

is_under() { # the machine a has the engine $1, and N more beats
    ./sosia ls | grep -q " $1 " && beats a.log $(($(grep -c beat a.log) + 3))
}

# These guests do not end by themselves.
rounds=long
start kvm --fence off && ./sosia engine a soft >>move.out 2>&1 && is_under soft &&
    ./sosia engine a kvm >>move.out 2>&1 && is_under kvm && ./sosia engine a soft >>move.out 2>&1 && is_under soft &&
    ! grep -q FAIL a.log
result "a guest between the engines while it runs" $?
./sosia kill a >>move.out 2>&1

start kvm && ./sosia engine a soft >>move.out 2>&1 && is_under soft && ./sosia engine a kvm >>move.out 2>&1 && is_under kvm &&
    ! grep -q FAIL a.log
result "a fenced machine between the engines while it runs" $?
./sosia kill a >>move.out 2>&1
exit $failed
