# SPDX-License-Identifier: Apache-2.0
# Shell functions for the scripts that run in the emulated AMD machine (run.sh puts them beside each other).
# Source it from their folder. A script defines why, which tells more of what failed.

export XDG_RUNTIME_DIR="$PWD/rt"
mkdir -p -m 700 rt
passed=0
failed=0
last=$(date +%s)

result() { # result NAME OK: a line, with the time since the last one
    now=$(date +%s)
    took="$((now - last)) s"
    last=$now
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok      amd $1 ($took)"
    else
        failed=$((failed + 1))
        echo "FAILED  amd $1 ($took)"
        why
    fi
}

# until_true SECONDS COMMAND...
until_true() {
    end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $end ] || return 1
        sleep 0.2
    done
}

# beats LOG N: waits until the guest that checks itself (moving.elf) has told so many
beats() { until_true 150 reached "$@"; }
reached() { [ "$(grep -ac beat "$1" 2>/dev/null)" -ge "$2" ]; }
