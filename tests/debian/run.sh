#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# usage: tests/debian/run.sh [cloud-init]
# A whole Debian system on a qcow2 disk: to its login prompt, network by DHCP, ssh in, a file that survives, power off;
# once with its kernel given, once with the kernel out of the image (--boot disk). With cloud-init: a system that is
# set up by Debian's cloud-init from --cloud-init (not part of tests/run.sh: the image takes minutes to make).
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
        -o LogLevel=ERROR -o ConnectTimeout=20 "${user:-root}@127.0.0.1" "$@"
}

export XDG_RUNTIME_DIR=$tmp # names of machines
mkdir "$tmp/shared" && echo from the host >"$tmp/shared/note"

start() { # start DISK-OPTIONS OPTION...: how the kernel is found
    disk=$1
    shift
    port=$(free_port)
    begin=$(date +%s)
    timeout 600 "$SOSIA" run --engine soft --memory 512M --disk "$tmp/disk.qcow2$disk" "$@" --agent --name "debian-$$" \
        --net "user,hostfwd=tcp:127.0.0.1:$port-:22" --share "$tmp/shared,tag=host" </dev/null >"$tmp/console" 2>&1 &
    pid=$!
    for _ in $(seq 500); do
        if grep -qa "$prompt" "$tmp/console" || ! kill -0 $pid 2>/dev/null; then break; fi
        sleep 0.5
    done
    grep -qa "$prompt" "$tmp/console"
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

end() {
    [ $failed -eq 0 ] || tail -30 "$tmp/console"
    echo "debian: $passed passed, $failed failed"
    [ $failed -eq 0 ]
    exit
}

cloud_init() {
    CLOUD_INIT=1 guests/debian/build.sh || exit 1
    debian=$GUESTS/debian-cloud
    cp "$debian/debian.qcow2" "$tmp/disk.qcow2" || exit 1
    printf '%s\n' '#cloud-config' 'hostname: cloudy' 'users:' '  - name: ada' "    ssh_authorized_keys: ['$(cat "$debian/id_ed25519.pub")']" \
        'write_files:' '  - path: /etc/note' '    content: from user-data' 'runcmd:' '  - [touch, /root/ran]' >"$tmp/user-data"
    prompt='cloudy login:'
    start "" --boot disk --cloud-init "user-data=$tmp/user-data"
    for _ in 1 2 3 4 5; do # each is ended after a minute
        state=$(guest 'cloud-init status --wait | tail -1')
        [ -z "$state" ] || break
    done
    [ "$state" = 'status: done' ]
    check "cloud-init is done without errors" $?
    [ "$(guest 'hostname; cat /etc/note; echo; ls /root/ran' | tr '\n' ' ')" = 'cloudy from user-data /root/ran ' ]
    check "hostname, file and command" $?
    [ "$(user=ada guest id -un)" = ada ]
    check "a user with a key" $?
    off
}

prompt='sosia login:'
if [ "${1:-}" = cloud-init ]; then
    cloud_init
    end
fi

guests/debian/build.sh || exit 1
cp "$debian/debian.qcow2" "$tmp/disk.qcow2" || exit 1

start "" --kernel "$debian/vmlinuz" --initrd "$debian/initrd.img" --cmdline "root=/dev/vda rw console=ttyS0 quiet"
state=$(guest systemctl is-system-running --wait)
check "no unit failed ($state)" "$([ "$state" = running ]; echo $?)"
[ "$(timeout 100 "$SOSIA" exec "debian-$$" --wait 90 -- sh -c 'id -un; systemctl is-active sosia-agent' | tr '\n' ' ')" = 'root active ' ]
check "its agent runs a command" $?
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

end
