#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: around.sh (in the emulated AMD machine, by `tests/kvm/run.sh around`; ENGINE=soft tries it
# anywhere, with the files of run.sh beside it)
# What stands around a machine, under kvm: one Linux with a shared folder, a qcow2 disk, a user network, vsock,
# balloon and cloud-init's disk at once; an incremental snapshot; one life cycle through the API.
# Prints a line for each; the exit status is the number of those that failed.
cd "$(dirname "$0")" || exit 1
. ./lib.sh
ENGINE=${ENGINE:-kvm}
choice=$ENGINE
[ "$choice" != kvm ] || choice=auto # where it is real, it is chosen
export LD_LIBRARY_PATH="$PWD" # libslirp, libmicrohttpd
export PATH="$PWD:$PATH"      # curl
mkdir -p shared www
servers=

why() { # once is enough
    cmp -s around.out shown || tail -25 around.out
    cp around.out shown
}

has() { grep -aqE "$2" "$1" 2>/dev/null; }

# --- devices

cat >shared/job.sh <<'END'
# what the guest does; it tells at the console what was right (Debian's static busybox has no wget that works)
grep -q 'from the host' /mnt/note && echo "from the guest" >/mnt/answer && echo "share right"
dd if=/bin/busybox of=/dev/vda bs=64k count=8 conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
cmp -n 524288 /bin/busybox /dev/vda && echo "disk right"
modprobe isofs
mkdir /seed
mount -t iso9660 -o ro /dev/vdb /seed && grep -q 'made for the test' /seed/user-data && echo "seed right"
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -q -n -t 20 -T 1 >/dev/null 2>&1
printf 'GET /page HTTP/1.0\r\n\r\n' | timeout 60 nc 10.0.2.2 8000 | tail -c 700000 >/tmp/page
md5sum </tmp/page >/mnt/sum
[ "$(wc -c </tmp/page)" = 700000 ] && echo "out right"
mkdir /www
cp /tmp/page /www/page
httpd -p 80 -h /www
modprobe vmw_vsock_virtio_transport
devtest echo 1000 1 >/tmp/echo 2>&1 &
before=$(awk '/^MemTotal/ {print $2}' /proc/meminfo)
modprobe virtio_balloon
touch /mnt/serving
i=0
while [ ! -f /mnt/done ] && [ $i -lt 400 ]; do
    sleep 0.2
    i=$((i + 1))
done
grep -q echoed /tmp/echo && echo "vsock right"
i=0
while [ $(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) + 60000)) -gt $before ] && [ $i -lt 150 ]; do
    sleep 0.2
    i=$((i + 1))
done
[ $i -lt 150 ] && echo "balloon right"
END
echo "from the host" >shared/note
printf '#cloud-config\n# made for the test\n' >user-data
head -c 700000 sosia >www/page

vsock_echo() { # curl ends with its input
    : >echo.out
    { printf 'CONNECT 1000\nhello over there\n' && until_true 30 has echo.out '^hello over there'; } |
        timeout 40 curl -sN --unix-socket "$PWD/vsock.sock" telnet://guest >echo.out
    has echo.out '^hello over there'
}

ask_guest() { # while it serves: its web server through the forwarded port, an echo through vsock
    until_true 200 [ -f shared/serving ] || return
    curl -s -m 60 -o page http://127.0.0.1:8080/page && cmp page www/page && echo "in right"
    until_true 60 vsock_echo
    cat echo.out
    touch shared/done
}

devices() {
    httpd -f -p 127.0.0.1:8000 -h www &
    servers=$!
    ./sosia image create disk.qcow2 64M >around.out 2>&1 || return
    ask_guest >asked 2>&1 &
    asker=$!
    timeout 300 ./sosia run --engine "$choice" --cpus 1 --memory 256M --kernel vmlinuz --initrd around.img \
        --cmdline "console=ttyS0 quiet panic=-1 sosia.run=\"modprobe virtiofs; mount -t virtiofs T /mnt; sh /mnt/job.sh\"" \
        --disk disk.qcow2 --share "$PWD/shared,tag=T" --net user,hostfwd=tcp:127.0.0.1:8080-:80 \
        --vsock 5,path="$PWD/vsock.sock" --balloon target=64 --cloud-init user-data=user-data \
        </dev/null >>around.out 2>&1
    touch shared/done
    wait $asker
    kill $servers
    cat asked >>around.out
    ./sosia image check disk.qcow2 >>around.out 2>&1 || echo "image check failed" >>around.out
}

devices
[ $choice != auto ] || has around.out 'engine kvm'
result "devices: engine" $?
for what in share disk seed out in vsock balloon; do
    has around.out "^$what right"
    result "devices: $what" $?
done
has around.out '^OK [0-9]+' && has around.out '^hello over there' && has shared/answer 'from the guest' &&
    [ "$(cat shared/sum)" = "$(md5sum <www/page)" ] && ! has around.out 'image check failed'
result "devices: what the host sees of them" $?

# --- an incremental snapshot

incremental() {
    rm -f ./*.log
    ./sosia run -d --quiet --engine "$ENGINE" --name i --cpus 2 --memory 64M --test-devices --console "file=$PWD/i.log" \
        --kernel moving.img --cmdline "brief loose-chips" && beats i.log 3 &&
        ./sosia snapshot i i1 --track && beats i.log 8 && ./sosia snapshot i i2 --incremental --stop &&
        [ "$(du -k i2.mem | cut -f1)" -lt "$(du -k i1.mem | cut -f1)" ] &&
        ./sosia snapshot merge i1 i2 i3 || return
    for file in i2 i3; do
        ./sosia restore $file --quiet --engine "$ENGINE" --name j --console "file=$PWD/j.log" </dev/null
        [ $? -eq 65 ] && grep -q ' 0 failures' j.log || return
    done
}

incremental >around.out 2>&1
result "an incremental snapshot, and merged" $?

# --- the API

api_start() { # api_start N: a server at apiN.sock; its console and log in apiN.out
    ./sosia api --api-sock "$PWD/api$1.sock" </dev/null >"api$1.out" 2>&1 &
    servers="$servers $!"
    server=$!
    socket=$PWD/api$1.sock
    until_true 30 [ -S "$socket" ]
}

call() { # call STATUS METHOD PATH [BODY]
    status=$(curl -s -o reply -w '%{http_code}' --unix-socket "$socket" -X "$2" "http://localhost$3" ${4:+-d "$4"})
    echo "$2 $3: $status $(cat reply 2>/dev/null)"
    [ "$status" = "$1" ]
}

life() { # with the guest that checks itself
    dd if=/dev/zero of=api.disk bs=1M count=4 2>/dev/null
    api_start 1 && call 204 PUT /sosia "{\"engine\":\"$ENGINE\"}" &&
        call 204 PUT /machine-config '{"vcpu_count":2,"mem_size_mib":64,"track_dirty_pages":true}' &&
        call 204 PUT /boot-source '{"kernel_image_path":"moving.img","boot_args":"long loose-chips"}' &&
        call 204 PUT /drives/d '{"drive_id":"d","path_on_host":"api.disk","is_root_device":false,"is_read_only":false}' &&
        call 204 PUT /actions '{"action_type":"InstanceStart"}' && beats api1.out 3 &&
        call 200 GET /sosia && has reply "\"$ENGINE\"" &&
        call 204 PATCH /vm '{"state":"Paused"}' && call 200 GET / && has reply Paused &&
        call 204 PUT /snapshot/create '{"snapshot_type":"Full","snapshot_path":"f1","mem_file_path":"f1.mem"}' &&
        was=$(grep -ac beat api1.out) && call 204 PATCH /vm '{"state":"Resumed"}' && beats api1.out $((was + 3)) &&
        call 204 PATCH /vm '{"state":"Paused"}' &&
        call 204 PUT /snapshot/create '{"snapshot_type":"Diff","snapshot_path":"f2","mem_file_path":"f2.mem"}' || return
    kill $server
    wait $server
    for file in f1 f2; do
        api_start $file && call 204 PUT /sosia "{\"engine\":\"$ENGINE\"}" &&
            call 204 PUT /snapshot/load "{\"snapshot_path\":\"$file\",\"mem_backend\":{\"backend_path\":\"$file.mem\",\"backend_type\":\"File\"},\"resume_vm\":true}" &&
            beats api$file.out 5 && ! has api$file.out '^beat 1$' || return
        kill $server
        wait $server
    done
    ! grep -aq FAIL api*.out
}

life >around.out 2>&1
good=$?
cat api*.out >>around.out
result "a life through the API: start, pause, full and incremental snapshot, load" $good
# shellcheck disable=SC2086
kill $servers 2>/dev/null
exit $failed
