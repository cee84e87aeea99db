# SPDX-License-Identifier: Apache-2.0
# bash completion for sosia: source it, or copy it to /usr/share/bash-completion/completions/sosia
_sosia() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local options="--boot --kernel --initrd --module --cmdline --engine --cpus --memory --disk --net --share --console --serial --name --detach --log
        --virtio-console --debugcon --transport --rng --cloud-init --vsock --agent --balloon --gdb --trace --test-devices --config --quiet --fence --merge-pages --stats --stats=full --perf-map --portable --translator
        --code-cache --verify --audit --help"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "run snapshot restore clone engine api jail image verify cpu sensitivity switch ls stop kill pause resume balloon console exec cp logs wait top stats version help --help --version" -- "$cur")
        return
    fi
    if [ "${COMP_WORDS[1]}" = image ]; then
        if [ "$COMP_CWORD" -eq 2 ]; then
            mapfile -t COMPREPLY < <(compgen -W "create info check resize convert commit compare" -- "$cur")
            return
        fi
        case $prev in
        --format | --to | --backing-format) mapfile -t COMPREPLY < <(compgen -W "raw qcow2" -- "$cur") ;;
        --repair) mapfile -t COMPREPLY < <(compgen -W "leaks all" -- "$cur") ;;
        *)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -W "--format --to --backing --backing-dir --backing-file
                --backing-format --cluster-size --refcount-bits --lazy-refcounts --version --repair --shrink
                --quiet --json --help" -- "$cur")
            ;;
        esac
        return
    fi
    case ${COMP_WORDS[1]} in
    restore)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -W "--name --engine --detach --console --disk --net --share --overlay --memory-file --uffd
            --check --track --paused --force --fence --merge-pages --translator --trace --quiet --stats --help" -- "$cur")
        return ;;
    snapshot)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -W "info merge --incremental --track --keep-paused --stop --no-sync --json --check
            --help" -- "$cur")
        return ;;
    clone) mapfile -t COMPREPLY < <(compgen -W "--stop --dir --help" -- "$cur"); return ;;
    engine) mapfile -t COMPREPLY < <(compgen -W "soft kvm --help" -- "$cur"); return ;;
    esac
    if [ "${COMP_WORDS[1]}" = api ]; then
        case $prev in
        --level) mapfile -t COMPREPLY < <(compgen -W "Off Error Warn Info Debug Trace" -- "$cur") ;;
        --api-sock | --config-file | --metadata | --log-path | --metrics-path | --describe-snapshot)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "--api-sock --id --config-file --no-api --metadata --log-path --level
                --module --show-level --show-log-origin --metrics-path --http-api-max-payload-size --mmds-size-limit
                --enable-pci --quiet --version --snapshot-version --describe-snapshot --help" -- "$cur")
            ;;
        esac
        return
    fi
    case ${COMP_WORDS[1]}$cur in
    exec-*)
        mapfile -t COMPREPLY < <(compgen -W "--tty --escape --user --env --cwd --timeout --wait --set-time --help" -- "$cur")
        return
        ;;
    cp*)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -W "--help" -- "$cur")
        return
        ;;
    esac
    case ${COMP_WORDS[1]} in
    exec | stop | kill | pause | resume | balloon | console | logs | wait | stats)
        mapfile -t COMPREPLY < <(compgen -W "$(sosia stats 2>/dev/null | cut -d' ' -f1)" -- "$cur")
        return
        ;;
    esac
    case ${COMP_WORDS[1]} in run | verify) ;; *) return ;; esac
    case $prev in
    --kernel | --initrd | --config | --disk | --module | --share) compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    --engine) mapfile -t COMPREPLY < <(compgen -W "auto kvm soft" -- "$cur") ;;
    --boot) mapfile -t COMPREPLY < <(compgen -W "disk" -- "$cur") ;;
    --net) mapfile -t COMPREPLY < <(compgen -W "user user,hostfwd=tcp:127.0.0.1:2222-:22 user,restrict tap= switch= passt= none" -- "$cur") ;;
    --console | --virtio-console | --debugcon)
        mapfile -t COMPREPLY < <(compgen -W "stdio pty ring none file= socket= pty=" -- "$cur") ;;
    --transport) mapfile -t COMPREPLY < <(compgen -W "pci mmio mmio-cmdline" -- "$cur") ;;
    --rng | --translator) mapfile -t COMPREPLY < <(compgen -W "on off" -- "$cur") ;;
    --cloud-init) mapfile -t COMPREPLY < <(compgen -W "user-data=" -- "$cur") ;;
    --vsock) mapfile -t COMPREPLY < <(compgen -W "3,path=" -- "$cur") ;;
    --balloon) mapfile -t COMPREPLY < <(compgen -W "on reporting target= deflate-on-oom stats= hinting" -- "$cur") ;;
    --gdb) mapfile -t COMPREPLY < <(compgen -W "tcp:127.0.0.1:1234 unix:" -- "$cur") ;;
    --trace) mapfile -t COMPREPLY < <(compgen -W "exits pio mmio irq msr virtio pci boot vcpu gdb translator all" -- "$cur") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur") ;;
    esac
}
complete -F _sosia sosia
