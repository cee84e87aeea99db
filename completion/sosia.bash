# SPDX-License-Identifier: Apache-2.0
# bash completion for sosia: source it, or copy it to /usr/share/bash-completion/completions/sosia
# tests/cli/words.py compares it with each verb's --help.

_sosia_verbs="run snapshot restore clone engine api jail image verify cpu sensitivity switch ls stop kill pause
    resume balloon console exec cp logs wait top stats version help"

# The options of a verb.
_sosia_options() {
    case $1 in
    run | verify)
        echo "--boot --kernel --initrd --module --cmdline --engine --cpus --memory --disk --net --share --console
            --serial --virtio-console --debugcon --name --detach --log --transport --rng --cloud-init --vsock --agent
            --balloon --gdb --trace --test-devices --config --quiet --fence --merge-pages --stats --perf-map --portable --translator
            --code-cache --verify --audit --help"
        ;;
    restore)
        echo "--name --engine --detach --console --disk --net --share --vsock --overlay --memory-file --uffd --check --track
            --paused --force --fence --merge-pages --translator --trace --quiet --stats --help"
        ;;
    snapshot) echo "--incremental --track --keep-paused --stop --no-sync --json --check --help" ;;
    clone) echo "--stop --dir --help" ;;
    api)
        echo "--api-sock --id --config-file --no-api --metadata --log-path --level --module --show-level
            --show-log-origin --metrics-path --http-api-max-payload-size --mmds-size-limit --enable-pci
            --start-time-us --start-time-cpu-us --parent-cpu-time-us --seccomp-filter --no-seccomp --boot-timer
            --quiet --version --snapshot-version --describe-snapshot --help"
        ;;
    jail)
        echo "--id --uid --gid --exec-file --chroot-base-dir --cgroup --cgroup-version --parent-cgroup --netns
            --resource-limit --daemonize --new-pid-ns --help"
        ;;
    image)
        echo "--format --to --backing --backing-dir --backing-file --backing-format --cluster-size --refcount-bits
            --lazy-refcounts --version --repair --shrink --quiet --json --help"
        ;;
    sensitivity) echo "--engine --mode --no-native --only --all --json --html --help" ;;
    switch) echo "--serve --help" ;;
    ls) echo "--json --help" ;;
    stop) echo "--timeout --help" ;;
    console) echo "--port --escape --no-replay --help" ;;
    exec) echo "--tty --escape --user --env --cwd --timeout --wait --set-time --help" ;;
    logs) echo "--follow --port --help" ;;
    top) echo "--once --json --interval --help" ;;
    stats) echo "--json --prometheus --help" ;;
    *) echo "--help" ;;
    esac
}

# What may stand behind an option, where that is not any text: words, or FILES.
_sosia_values() {
    case $1:$2 in
    api:--level) echo "Off Error Warn Info Debug Trace" ;;
    image:--format | image:--to | image:--backing-format) echo "raw qcow2" ;;
    image:--repair) echo "leaks all" ;;
    sensitivity:--mode) echo "64 32" ;;
    jail:--cgroup-version) echo "1 2" ;;
    api:--api-sock | api:--config-file | api:--metadata | api:--log-path | api:--metrics-path | api:--describe-snapshot | \
        *:--kernel | *:--initrd | *:--config | *:--disk | *:--module | *:--share | *:--memory-file | *:--uffd | *:--dir | \
        *:--html | *:--exec-file | *:--chroot-base-dir | *:--netns | *:--backing-dir | *:--backing-file) echo FILES ;;
    *:--engine) echo "auto kvm soft" ;;
    *:--boot) echo "disk" ;;
    *:--net) echo "user user,hostfwd=tcp:127.0.0.1:2222-:22 user,restrict tap= switch= passt= none" ;;
    *:--console | *:--virtio-console | *:--debugcon) echo "stdio pty ring none file= socket= pty=" ;;
    *:--port) echo "serial0 serial1 serial2 serial3 virtio" ;;
    *:--transport) echo "pci mmio mmio-cmdline" ;;
    *:--rng | *:--translator | *:--fence) echo "on off" ;;
    *:--cloud-init) echo "user-data=" ;;
    *:--vsock) echo "3,path=" ;;
    *:--balloon) echo "on reporting target= deflate-on-oom stats= hinting" ;;
    *:--gdb) echo "tcp:127.0.0.1:1234 unix:" ;;
    *:--trace) echo "exits pio mmio irq msr virtio pci boot vcpu gdb translator all" ;;
    esac
}

_sosia_machines() {
    sosia stats 2>/dev/null | cut -d' ' -f1
}

# What else a verb takes: words, or FILES.
_sosia_operands() {
    case $1 in
    run | api | jail | ls | cpu | sensitivity | top | version | help) ;;
    image) [ "$COMP_CWORD" -eq 2 ] && echo "create info check resize convert commit compare" || echo FILES ;;
    snapshot) [ "$COMP_CWORD" -eq 2 ] && echo "info merge $(_sosia_machines)" || echo FILES ;;
    engine) [ "$COMP_CWORD" -eq 2 ] && _sosia_machines || echo "soft kvm" ;;
    clone | exec) [ "$COMP_CWORD" -ne 2 ] || _sosia_machines ;;
    restore | verify | cp) echo FILES ;;
    switch) ;;
    *) _sosia_machines ;;
    esac
}

_sosia() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]} words=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="$_sosia_verbs --help --version"
    elif [[ $cur == -* ]]; then
        words=$(_sosia_options "$verb")
    else
        [[ $prev != --* ]] || words=$(_sosia_values "$verb" "$prev")
        words=${words:-$(_sosia_operands "$verb")}
    fi
    if [ "$words" = FILES ]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
}
complete -F _sosia sosia
