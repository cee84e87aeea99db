#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# usage: tests/debian/run.sh
# A whole Debian system on a qcow2 disk: to its login prompt, network by DHCP, ssh in, a file that survives, power off;
# once with its kernel given, once with the kernel out of the image (--boot disk).
cd "$(dirname "$0")/../.." || exit 1
. guests/lib.sh
SOSIA=${SOSIA:-build/sosia}
debian=$GUESTS/debian
tmp=$(mktemp -d)
pid=
trap 'if [ -n "$pid" ]; then kill "$pid" 2>/dev/null; fi; rm -rf "$tmp"' EXIT
passed=0
failed=0

check() { # check NAME STATUS
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $1"
    fi
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

guest() {
    timeout 60 ssh -i "$debian/id_ed25519" -p "$port" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o LogLevel=ERROR -o ConnectTimeout=20 root@127.0.0.1 "$@"
}

mkdir "$tmp/shared" && echo from the host >"$tmp/shared/note"

start() { # start DISK-OPTIONS OPTION...: how the kernel is found
    disk=$1
    shift
    port=$(free_port)
    begin=$(date +%s)
    timeout 300 "$SOSIA" run --engine soft --memory 512M --disk "$tmp/disk.qcow2$disk" "$@" \
        --net "user,hostfwd=tcp:127.0.0.1:$port-:22" --share "$tmp/shared,tag=host" </dev/null >"$tmp/console" 2>&1 &
    pid=$!
    for _ in $(seq 200); do
        if grep -qa 'sosia login:' "$tmp/console" || ! kill -0 $pid 2>/dev/null; then break; fi
        sleep 0.5
    done
    grep -qa 'sosia login:' "$tmp/console"
    check "login prompt" $?
    echo "login prompt after $(($(date +%s) - begin)) s"
    for _ in $(seq 40); do
        if guest true 2>/dev/null; then break; fi
        sleep 1
    done
}

off() {
    guest poweroff
    for _ in $(seq 120); do
        kill -0 $pid 2>/dev/null || break
        sleep 0.5
    done
    wait $pid
    check "power off ends the machine with status 0" $?
    pid=
}

guests/debian/build.sh || exit 1
cp "$debian/debian.qcow2" "$tmp/disk.qcow2" || exit 1

start "" --kernel "$debian/vmlinuz" --initrd "$debian/initrd.img" --cmdline "root=/dev/vda rw console=ttyS0 quiet"
state=$(guest systemctl is-system-running --wait)
check "no unit failed ($state)" "$([ "$state" = running ]; echo $?)"
guest ip -4 addr show | grep -q 'inet 10\.0\.2\.'
check "an address by DHCP" $?
guest "mount -t virtiofs host /mnt && grep -q 'from the host' /mnt/note && echo from the guest >/mnt/answer && umount /mnt"
check "a shared folder is mounted" $?
grep -q 'from the guest' "$tmp/shared/answer"
check "what the guest wrote there is on the host" $?
guest "echo survives >/root/file && sync"
off
"$SOSIA" image check "$tmp/disk.qcow2" >/dev/null
check "the image is consistent" $?

start ,snapshot --boot disk
[ "$(guest cat /root/file)" = survives ]
check "the file is there after a restart" $?
guest "rm /root/file && sync"
off
"$SOSIA" image convert --to raw "$tmp/disk.qcow2" "$tmp/raw" && e2fsck -fn "$tmp/raw" >/dev/null 2>&1
check "the file system is clean" $?
debugfs -R "stat /root/file" "$tmp/raw" 2>&1 | grep -q Inode:
check "a snapshot disk keeps nothing" $?

[ $failed -eq 0 ] || tail -30 "$tmp/console"
echo "debian: $passed passed, $failed failed"
[ $failed -eq 0 ]
