#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tests/cli/run.sh
# The command line as a person meets it: help, version, and bad input, which must give one line that
# names the thing and the reason, exit status 2, and leave nothing behind.
cd "$(dirname "$0")/../.." || exit 1
SOSIA=${SOSIA:-build/sosia}
KERNEL=build/guests/linux-cloud-amd64/vmlinuz
INITRD=build/guests/linux-cloud-amd64/initrd.img
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0
failed=0

ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "FAILED: $*"
}

# good PATTERN ARGS...: exit status 0 and PATTERN on standard output
good() {
    pattern=$1
    shift
    out=$(timeout 20 "$SOSIA" "$@" 2>&1)
    status=$?
    if [ $status -eq 0 ] && echo "$out" | grep -qE "$pattern"; then ok; else bad "$* -> $status: $out"; fi
}

# refuse PATTERN ARGS...: exit status 2, exactly one line on standard error that matches, no other output
refuse() {
    pattern=$1
    shift
    out=$(timeout 20 "$SOSIA" "$@" 2>"$tmp/err" </dev/null)
    status=$?
    # the line about the chosen engine is not the message
    grep -v '^sosia: engine ' "$tmp/err" >"$tmp/message"
    if [ $status -eq 2 ] && [ -z "$out" ] && [ "$(wc -l <"$tmp/message")" -eq 1 ] &&
        grep -qE "$pattern" "$tmp/message"; then
        ok
    else
        bad "$* -> $status: $out $(cat "$tmp/err")"
    fi
}

good 'usage: sosia' --help
good 'usage: sosia run' run --help
good '^sosia [0-9]' version
good '^sosia [0-9]' --version
good "avx2" cpu
good 'usage: sosia sensitivity' sensitivity --help

refuse 'unknown verb' frobnicate
refuse 'no kernel' run
refuse "wrong or missing value of '--mode'" sensitivity --mode 16
refuse 'unknown option' sensitivity --frobnicate
refuse 'unknown option' run --frobnicate
refuse 'unknown option or missing value' run --kernel
refuse "not an option" run --kernel "$KERNEL" extra
refuse 'nowhere: No such file' run --kernel "$tmp/nowhere"
refuse 'is a directory' run --kernel "$tmp"
: >"$tmp/empty"
refuse 'empty: is empty' run --kernel "$tmp/empty"
head -c 5000 "$KERNEL" >"$tmp/short"
refuse "$tmp/short" run --kernel "$tmp/short"
head -c 300000 /dev/urandom >"$tmp/noise"
refuse "$tmp/noise" run --kernel "$tmp/noise"
head -c 3000000 "$KERNEL" >"$tmp/half"
refuse "$tmp/half" run --kernel "$tmp/half"
# an ELF kernel for another machine: e_machine (offset 18) becomes AArch64
if [ -f build/guests/linux-cloud-amd64/vmlinux ]; then
    head -c 65536 build/guests/linux-cloud-amd64/vmlinux >"$tmp/arm"
    printf '\267\000' | dd of="$tmp/arm" bs=1 seek=18 conv=notrunc 2>/dev/null
    refuse "$tmp/arm" run --kernel "$tmp/arm"
fi
refuse 'initrd.*No such file' run --kernel "$KERNEL" --initrd "$tmp/nowhere"
truncate -s 300M "$tmp/huge"
refuse "initrd" run --kernel "$KERNEL" --initrd "$tmp/huge" --memory 256M
truncate -s 1T "$tmp/huge" && refuse "initrd" run --kernel "$KERNEL" --initrd "$tmp/huge" --memory 256M
rm -f "$tmp/huge"
good 'usage: sosia image' image --help
good '^$' image create "$tmp/d.qcow2" 10M
good 'format: qcow2' image info "$tmp/d.qcow2"
good '"virtual-size": 10485760' image info --json "$tmp/d.qcow2"
good 'no errors' image check "$tmp/d.qcow2"
good '^$' image resize "$tmp/d.qcow2" +10M
good 'size: 20 MiB' image info "$tmp/d.qcow2"
good '^$' image convert --to raw "$tmp/d.qcow2" "$tmp/d.raw"
good 'same' image compare "$tmp/d.raw" "$tmp/d.qcow2"
good '^$' image create --backing-file d.qcow2 --backing-format qcow2 "$tmp/o.qcow2"
good '^$' image commit --backing "$tmp/o.qcow2"
refuse 'has no ext4 file system' run --disk "$tmp/d.qcow2" --boot disk
refuse 'needs a --disk' run --boot disk
refuse "only 'disk'" run --boot floppy --disk "$tmp/d.qcow2"
refuse 'not create, info' image bogus
refuse 'wrong number of files' image info
refuse 'needs a file and a size' image create "$tmp/x"
refuse 'size 12Q' image create "$tmp/x" 12Q
refuse 'cluster-size 3K' image create --cluster-size 3K "$tmp/x" 1M
refuse 'smaller than' image resize "$tmp/d.qcow2" 1M
refuse 'nowhere: No such file' image check "$tmp/nowhere"
refuse 'nothing to check' image check "$tmp/d.raw"
refuse "stands on the backing file" image convert "$tmp/o.qcow2" "$tmp/x"
refuse "stands on the backing file" run --kernel "$KERNEL" --disk "$tmp/o.qcow2"
refuse 'not a qcow2 image' run --kernel "$KERNEL" --disk "$tmp/d.raw,format=qcow2"
refuse "not raw or qcow2" run --kernel "$KERNEL" --disk "$tmp/d.raw,format=vdi"
refuse 'memory' run --kernel "$KERNEL" --memory 0
refuse 'memory' run --kernel "$KERNEL" --memory 12X
refuse 'memory' run --kernel "$KERNEL" --memory 900G
refuse 'memory' run --kernel "$KERNEL" --memory 99999999999999999999G
refuse 'cpus' run --kernel "$KERNEL" --cpus 0
refuse 'cpus' run --kernel "$KERNEL" --cpus 65
refuse 'cpus' run --kernel "$KERNEL" --cpus two
refuse 'verify.*one CPU' run --kernel "$KERNEL" --verify --cpus 2
refuse 'verify.*software engine' run --kernel "$KERNEL" --verify --engine kvm
refuse 'verify=0' run --kernel "$KERNEL" --verify=0
refuse 'engine' run --kernel "$KERNEL" --engine warp
refuse 'trace' run --kernel "$KERNEL" --trace everything-else
refuse 'console' run --kernel "$KERNEL" --console printer
refuse 'console.*No such file' run --kernel "$KERNEL" --console "file=$tmp/nowhere/x"
refuse 'net' run --kernel "$KERNEL" --net carrier-pigeon
refuse 'gdb' run --kernel "$KERNEL" --gdb 1234
refuse 'is a directory' run --kernel "$KERNEL" --disk "$tmp"
refuse 'No such file' run --kernel "$KERNEL" --disk "$tmp/nowhere"
refuse 'is empty' run --kernel "$KERNEL" --disk "$tmp/empty"
refuse 'neither a file nor a block device' run --kernel "$KERNEL" --disk /dev/null
refuse "unknown option 'rw'" run --kernel "$KERNEL" --disk "$tmp/noise,rw"
refuse 'command line' run --engine soft --kernel "$KERNEL" --cmdline "$(head -c 9000 /dev/zero | tr '\0' x)"

# configuration files
config() { # config PATTERN JSON
    printf '%s' "$2" >"$tmp/c.json"
    refuse "$1" run --config "$tmp/c.json"
}
config 'line 1' '{'
config 'expected struct BootSourceConfig' '{"boot-source": 3}'
config 'missing field `boot-source`' '{}'
config 'missing field `kernel_image_path`' '{"boot-source": {}}'
config 'unknown field `colour`' '{"boot-source": {"kernel_image_path": "x", "colour": 1}}'
config 'unknown field `planet`' '{"boot-source": {"kernel_image_path": "x"}, "planet": {}}'
config 'number of vCPUs' '{"boot-source": {"kernel_image_path": "x"}, "machine-config": {"vcpu_count": 0, "mem_size_mib": 64}}'
config 'expected u8' '{"boot-source": {"kernel_image_path": "x"}, "machine-config": {"vcpu_count": "2"}}'
config 'integer `-5`' '{"boot-source": {"kernel_image_path": "x"}, "machine-config": {"mem_size_mib": -5}}'
config 'duplicate' '{"boot-source": {"kernel_image_path": "x"}, "boot-source": {}}'
config 'alphanumeric' '{"boot-source": {"kernel_image_path": "x"}, "drives": [{"drive_id": "a/b", "is_root_device": false}]}'
config 'path_on_host' '{"boot-source": {"kernel_image_path": "x"}, "drives": [{"drive_id": "a", "is_root_device": false}]}'
config 'only `sosia api' '{"boot-source": {"kernel_image_path": "x"}, "logger": {}}'
config 'x: No such file' '{"boot-source": {"kernel_image_path": "x"}}'
refuse 'No such file' run --config "$tmp/nowhere.json"
refuse 'is a directory' run --config "$tmp"

# and a good one
cat >"$tmp/good.json" <<JSON
{"boot-source": {"kernel_image_path": "$KERNEL", "initrd_path": "$INITRD",
  "boot_args": "console=ttyS0 reboot=k panic=1 quiet sosia.run=\"echo cpus \$(nproc)\""},
 "drives": [], "machine-config": {"vcpu_count": 2, "mem_size_mib": 256, "smt": false,
  "track_dirty_pages": false, "huge_pages": "None"}}
JSON
out=$(timeout 120 "$SOSIA" run --engine soft --config "$tmp/good.json" </dev/null 2>&1)
if [ $? -eq 0 ] && echo "$out" | grep -q 'cpus 2'; then ok; else bad "good config: $(echo "$out" | tail -5)"; fi

# Lock-step of translated code and interpreter over a boot, one of 4 entries of translated code.
out=$(timeout 250 "$SOSIA" verify "$KERNEL" "$INITRD" --verify=4 --cmdline 'console=ttyS0 quiet sosia.run="uname -m"' \
    </dev/null 2>&1)
if [ $? -eq 0 ] && echo "$out" | grep -q x86_64 && echo "$out" | grep -q 'verify: .* 0 differences'; then
    ok
else
    bad "sosia verify: $(echo "$out" | tail -60)"
fi

# Counters of a running machine, names for perf and the translator's trace.
mkdir -m 700 "$tmp/runtime"
XDG_RUNTIME_DIR=$tmp/runtime "$SOSIA" run --name cli --engine soft --translator on --quiet --kernel "$KERNEL" --console none \
    --gdb "unix:$tmp/gdb,wait" </dev/null 2>"$tmp/err" &
pid=$!
for _i in $(seq 100); do
    XDG_RUNTIME_DIR=$tmp/runtime "$SOSIA" stats cli >/dev/null 2>&1 && break
    sleep 0.1
done
export XDG_RUNTIME_DIR="$tmp/runtime"
good '^vCPU 0: instructions 0' stats $pid
good '^vCPU 0: instructions 0' stats "$tmp/runtime/sosia/cli.ctl"
good "^cli $pid\$" stats
kill $pid
wait $pid
refuse "no machine is called $pid" stats $pid
mkdir "$tmp/open"
chmod 777 "$tmp/open"
mkdir -m 777 "$tmp/open/sosia"
chmod 777 "$tmp/open/sosia"
refuse 'nosuchfile: No such file' run --kernel "$KERNEL" --engine soft --perf-map=nosuchfile
printf 'ffffffff81000000 T _text\n' >"$tmp/map"
XDG_RUNTIME_DIR=$tmp/open timeout 200 "$SOSIA" run --engine soft --translator on --quiet --kernel "$KERNEL" --initrd "$INITRD" \
    --perf-map="$tmp/map" --trace translator --cmdline "console=ttyS0 nokaslr sosia.nomodules sosia.run=true" \
    </dev/null >"$tmp/out" 2>"$tmp/err" &
pid=$!
for _i in $(seq 200); do
    map=$(ls "/tmp/perf-$(pgrep -P $pid 2>/dev/null).map" 2>/dev/null) && break
    sleep 0.1
done
wait $pid
if [ -n "$map" ] && grep -qE '^[0-9a-f]+ [0-9a-f]+ guest:_text\+0x' "$map" && grep -q 'translate: 0x' "$tmp/err" &&
    grep -q 'outdate: 0x' "$tmp/err" && [ -z "$(ls "$tmp/open/sosia")" ]; then
    ok
else
    bad "perf map '$map', trace: $(tail -3 "$tmp/err")"
fi
[ -z "$map" ] || rm -f "$map"

# Closed standard streams: nothing that is opened later takes their place, least of all the disk.
truncate -s 1M "$tmp/disk"
timeout 120 "$SOSIA" run --engine soft --kernel "$KERNEL" --initrd "$INITRD" --disk "$tmp/disk" \
    --cmdline "console=ttyS0 sosia.run=true" <&- >&- 2>&-
status=$?
if [ $status -eq 0 ] && cmp -s -n 1048576 "$tmp/disk" /dev/zero; then ok; else bad "closed streams -> $status"; fi

# --help, manual and completion name the same verbs and options
if tests/cli/words.py >"$tmp/out" 2>&1; then ok; else bad "words: $(grep -v ' passed' "$tmp/out")"; fi

echo "cli: $passed passed, $failed failed"
[ $failed -eq 0 ]
