#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: run_unit.sh [translator:|verify:]PROGRAM...
# Runs cmocka programs one after another, with "translator:" on the software engine's translator, with
# "verify:" in lock-step with the interpreter. Prints the output of those that fail, and a last line
# "unit: N passed, N failed, N skipped" that counts single tests.
passed=0
failed=0
skipped=0
for program in "$@"; do
    case $program in
    translator:*) out=$(SOSIA_TEST_TRANSLATOR=1 timeout 600 "${program#*:}" 2>&1) ;;
    verify:*) out=$(SOSIA_TEST_TRANSLATOR=verify timeout 600 "${program#*:}" 2>&1) ;;
    *) out=$(timeout 600 "$program" 2>&1) ;;
    esac
    status=$?
    p=$(printf '%s\n' "$out" | grep -c '^\[       OK \]')
    f=$(printf '%s\n' "$out" | grep '^\[  FAILED  \] [a-z]' | sort -u | wc -l)
    if [ $status -eq 77 ]; then # says why; counted and named, never passed in silence
        echo "SKIPPED: $program: $(printf '%s\n' "$out" | tail -1)"
        skipped=$((skipped + 1))
        continue
    fi
    if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    if [ $status -ne 0 ]; then
        printf '%s\n' "$out" | tail -60
        echo "FAILED ($status): $program"
    fi
    passed=$((passed + p))
    failed=$((failed + f))
done
echo "unit: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
