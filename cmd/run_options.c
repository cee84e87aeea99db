/* SPDX-License-Identifier: Apache-2.0 */
/* The options of `sosia run`. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/consoles.h"
#include "core/board/config.h"
#include "core/if/trace.h"
#include "core/virtio/vsock.h"

enum option_id {
    OPT_ENGINE = 256,
    OPT_CPUS,
    OPT_MEMORY,
    OPT_KERNEL,
    OPT_INITRD,
    OPT_CMDLINE,
    OPT_DISK,
    OPT_BOOT,
    OPT_NET,
    OPT_SHARE,
    OPT_CONSOLE,
    OPT_VIRTIO_CONSOLE,
    OPT_DEBUGCON,
    OPT_GDB,
    OPT_TRACE,
    OPT_TEST_DEVICES,
    OPT_CONFIG,
    OPT_MODULE,
    OPT_NAME,
    OPT_SERIAL,
    OPT_LOG,
    OPT_TRANSPORT,
    OPT_RNG,
    OPT_BALLOON,
    OPT_VSOCK,
    OPT_AGENT,
    OPT_CLOUD_INIT,
    OPT_QUIET,
    OPT_STATS,
    OPT_FENCE,
    OPT_MERGE_PAGES,
    OPT_PERF_MAP,
    OPT_TRANSLATOR,
    OPT_CODE_CACHE,
    OPT_VERIFY,
    OPT_AUDIT,
    OPT_PORTABLE,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"cpus", required_argument, NULL, OPT_CPUS},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"initrd", required_argument, NULL, OPT_INITRD},
    {"cmdline", required_argument, NULL, OPT_CMDLINE},
    {"disk", required_argument, NULL, OPT_DISK},
    {"boot", required_argument, NULL, OPT_BOOT},
    {"net", required_argument, NULL, OPT_NET},
    {"share", required_argument, NULL, OPT_SHARE},
    {"console", required_argument, NULL, OPT_CONSOLE},
    {"virtio-console", required_argument, NULL, OPT_VIRTIO_CONSOLE},
    {"debugcon", required_argument, NULL, OPT_DEBUGCON},
    {"gdb", required_argument, NULL, OPT_GDB},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"test-devices", no_argument, NULL, OPT_TEST_DEVICES},
    {"config", required_argument, NULL, OPT_CONFIG},
    {"module", required_argument, NULL, OPT_MODULE},
    {"name", required_argument, NULL, OPT_NAME},
    {"detach", no_argument, NULL, 'd'},
    {"serial", required_argument, NULL, OPT_SERIAL},
    {"log", required_argument, NULL, OPT_LOG},
    {"transport", required_argument, NULL, OPT_TRANSPORT},
    {"rng", required_argument, NULL, OPT_RNG},
    {"balloon", required_argument, NULL, OPT_BALLOON},
    {"vsock", required_argument, NULL, OPT_VSOCK},
    {"agent", no_argument, NULL, OPT_AGENT},
    {"cloud-init", required_argument, NULL, OPT_CLOUD_INIT},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"fence", required_argument, NULL, OPT_FENCE},
    {"merge-pages", no_argument, NULL, OPT_MERGE_PAGES},
    {"stats", optional_argument, NULL, OPT_STATS},
    {"perf-map", optional_argument, NULL, OPT_PERF_MAP},
    {"translator", required_argument, NULL, OPT_TRANSLATOR},
    {"code-cache", required_argument, NULL, OPT_CODE_CACHE},
    {"verify", optional_argument, NULL, OPT_VERIFY},
    {"audit", no_argument, NULL, OPT_AUDIT},
    {"portable", no_argument, NULL, OPT_PORTABLE},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static const char help_text[] =
    "usage: sosia run --kernel FILE [OPTIONS]\n"
    "       sosia run --config FILE [OPTIONS]\n\n"
    "Runs a virtual machine until the guest powers off or resets. Ctrl-A x leaves at once.\n\n"
    "  --boot disk              the kernel and initial RAM disk in the first disk's ext4 "
    "(/vmlinuz,\n"
    "                           /boot/vmlinuz-VERSION) instead of --kernel\n"
    "  --kernel FILE            bzImage, vmlinux with a PVH note, or Multiboot image\n"
    "  --initrd FILE            initial RAM disk\n"
    "  --module 'FILE [ARGS]'   a further Multiboot or PVH module; may be repeated\n"
    "  --cmdline STRING         kernel command line (default: console=ttyS0)\n"
    "  --engine auto|kvm|soft   how instructions execute (default: auto)\n"
    "  --cpus N                 1 to 64 (default: 1)\n"
    "  --memory SIZE            such as 512M or 4G; a plain number is MiB (default: 512M)\n"
    "  --disk FILE[,OPTION...]  a disk image on virtio-blk; may be repeated. Options:\n"
    "                           format=raw|qcow2, readonly, snapshot, serial=S, iops=N, bps=N,\n"
    "                           queues=N, on-full=error|pause, backing, backing-dir=DIR,\n"
    "                           aio=auto|threads|io_uring; see sosia(1)\n"
    "  --net user[,hostfwd=tcp:127.0.0.1:2222-:22][,restrict][,host-loopback=off]\n"
    "                           a network card behind NAT, without privileges; may be repeated\n"
    "  --net tap=NAME|switch=NAME[,vlan=N]|passt=SOCKET|none\n"
    "                           a tap device, a switch between machines, passt, no cable; for "
    "all:\n"
    "                           mac=M, mtu=N, queues=N, rx-bps=N, tx-bps=N, rx-pps=N, tx-pps=N\n"
    "  --share DIR,tag=T[,readonly]\n"
    "                           a folder of the host; in the guest: mount -t virtiofs T /mnt\n"
    "  --console PLACE          where the first serial port goes (default: stdio): stdio, none, "
    "ring,\n"
    "                           pty[=LINK], file=PATH, socket=PATH\n"
    "  --serial N=PLACE         the same for COM1 to COM4; may be repeated\n"
    "  --virtio-console PLACE   a virtio console as well (default: none)\n"
    "  --debugcon file=PATH     where bytes written to port 0xe9 go\n"
    "  --name NAME              what `sosia ls` calls it (default: from the disk or kernel)\n"
    "  -d, --detach             into the background once it runs; prints its name\n"
    "  --log PLACE[,format=text|json][,level=error|warning|info|debug]\n"
    "                           a file, fd=N, or syslog (default: standard error)\n"
    "  --transport pci|mmio|mmio-cmdline\n"
    "                           how virtio devices are attached (default: pci); mmio-cmdline also\n"
    "                           names them on the kernel command line, for acpi=off\n"
    "  --rng on|off             virtio entropy device (default: on)\n"
    "  --cloud-init user-data=FILE[,meta-data=FILE][,network-config=FILE]\n"
    "                           what cloud-init in the guest is to do, on a read-only disk\n"
    "  --vsock CID,path=SOCKET  sockets between programs of the guest and the host, as in "
    "Firecracker\n"
    "  --agent                  let `sosia exec` reach the agent in the guest; --vsock does, too\n"
    "  --balloon [target=SIZE][,deflate-on-oom][,stats=SECONDS][,reporting][,hinting]\n"
    "                           a memory balloon: what the guest does not use goes back to the "
    "host\n"
    "  --gdb tcp:ADDRESS:PORT|unix:PATH[,wait]\n"
    "                           serve a debugger; with wait nothing runs before it says so\n"
    "  --trace LIST             exits,pio,mmio,irq,msr,virtio,pci,boot,vcpu,gdb,translator\n"
    "                           or all\n"
    "  --test-devices           QEMU's isa-debug-exit and pc-testdev\n"
    "  --config FILE            a machine in Firecracker's JSON format\n"
    "  --quiet                  no line about the engine\n"
    "  --merge-pages            let the kernel merge equal pages of guests (KSM); not between\n"
    "                           tenants, see docs/security.md\n"
    "  --fence on|off           drop rights and system calls before the guest runs (default: on)\n"
    "  --stats[=full]           print counters of the run at its end; full: translated code\n"
    "                           counts its instructions and lookups, which makes it slower\n"
    "  --perf-map[=FILE]        soft engine: name translated code for Linux perf; FILE: a\n"
    "                           System.map of the guest's kernel\n"
    "  --portable               a processor that kvm has on this host, too, so that the machine "
    "can\n"
    "                           go there (`sosia engine`, `sosia restore --engine kvm`)\n"
    "  --translator on|off      soft engine: translate hot code (default on)\n"
    "  --code-cache MIB         soft engine: room for translated code per CPU (default 19)\n"
    "  --verify[=N]             soft engine: run translated code in lock-step with the "
    "interpreter\n"
    "                           (one of N times it is entered); one CPU\n"
    "  --audit                  soft engine: check all translated code with the decoder; --verify "
    "too\n"
    "  --help                   this text\n\n"
    "Exit status: 0 guest powered off or reset, 1 the host failed, 2 bad usage or input,\n"
    "3 guest crashed (triple fault) or the machine cannot go on, 4 --verify found a difference.\n";

int parse_size(const char *text, u64 *bytes) {
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0])) {
        return -ERR_INVAL;
    }
    unsigned long long value = strtoull(text, &end, 10);
    unsigned shift = 20;
    switch (toupper((unsigned char)*end)) {
    case 'K':
        shift = 10;
        break;
    case 'G':
        shift = 30;
        break;
    case 'T':
        shift = 40;
        break;
    default:
        break;
    }
    if (*end && strchr("kKmMgGtT", *end)) {
        end++;
        if (*end == 'i') {
            end++;
        }
        if (*end == 'B') {
            end++;
        }
    }
    if (*end || errno || value > UINT64_MAX >> shift) {
        return -ERR_INVAL;
    }
    *bytes = (u64)value << shift;
    return 0;
}

const char *run_options_keep(struct run_options *o, const char *text) {
    if (o->string_count == OPT_STRINGS) {
        return NULL;
    }
    char *copy = strdup(text);
    if (copy) {
        o->strings[o->string_count++] = copy;
    }
    return copy;
}

int run_options_replace(struct run_options *o, const char **field, const char *text) {
    char *copy = strdup(text);
    for (u32 i = 0; copy && i < o->string_count; i++) {
        if (o->strings[i] == *field) {
            free(o->strings[i]);
            *field = o->strings[i] = copy;
            return 0;
        }
    }
    free(copy);
    copy = (char *)(uintptr_t)run_options_keep(o, text);
    *field = copy ? copy : *field;
    return copy ? 0 : -ERR_NOMEM;
}

void run_options_free(struct run_options *o) {
    for (u32 i = 0; i < o->string_count; i++) {
        free(o->strings[i]);
    }
    o->string_count = 0;
}

static int parse_engine(struct run_options *o, const char *arg, struct err *err) {
    static const char *const names[] = {"auto", "kvm", "soft"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!strcmp(arg, names[i])) {
            o->engine = (enum engine_choice)i;
            return 0;
        }
    }
    return ERR_SET(err, ERR_INVAL, "--engine %s: not one of auto, kvm, soft", arg);
}

static int parse_cpus(struct run_options *o, const char *arg, struct err *err) {
    char *end;
    unsigned long n = strtoul(arg, &end, 10);
    if (!isdigit((unsigned char)arg[0]) || *end || n < 1 || n > MACHINE_MAX_VCPUS) {
        return ERR_SET(err, ERR_INVAL, "--cpus %s: not a number from 1 to %d", arg,
                       MACHINE_MAX_VCPUS);
    }
    o->cpus = (u32)n;
    return 0;
}

static int parse_memory(struct run_options *o, const char *arg, struct err *err) {
    if (parse_size(arg, &o->memory)) {
        return ERR_SET(err, ERR_INVAL, "--memory %s: not a size such as 512M or 4G", arg);
    }
    return 0;
}

static int parse_disk(struct run_options *o, const char *arg, struct err *err) {
    if (o->disk_count == OPT_MAX_DISKS) {
        return ERR_SET(err, ERR_INVAL, "--disk: at most %d disks", OPT_MAX_DISKS);
    }
    char *text = (char *)(uintptr_t)run_options_keep(o, arg);
    if (!text) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = disk_option_parse(&o->disk[o->disk_count], text, err);
    o->disk_count += rc ? 0 : 1;
    return rc;
}

static int parse_boot(struct run_options *o, const char *arg, struct err *err) {
    o->boot_disk = !strcmp(arg, "disk");
    return o->boot_disk ? 0 : ERR_SET(err, ERR_INVAL, "--boot %s: only 'disk' is offered", arg);
}

static int parse_net(struct run_options *o, const char *arg, struct err *err) {
    if (o->net_count == OPT_MAX_NETS) {
        return ERR_SET(err, ERR_INVAL, "--net: at most %d cards", OPT_MAX_NETS);
    }
    char *text = (char *)(uintptr_t)run_options_keep(o, arg);
    if (!text) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = net_option_parse(&o->net[o->net_count], text, err);
    o->net_count += rc ? 0 : 1;
    return rc;
}

static int parse_share(struct run_options *o, const char *arg, struct err *err) {
    if (o->share_count == OPT_MAX_SHARES) {
        return ERR_SET(err, ERR_INVAL, "--share: at most %d folders", OPT_MAX_SHARES);
    }
    char *text = (char *)(uintptr_t)run_options_keep(o, arg);
    if (!text) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    struct share_option *s = &o->share[o->share_count];
    int rc = share_option_parse(s, text, err);
    for (u32 i = 0; i < o->share_count && !rc; i++) {
        if (!strcmp(o->share[i].tag, s->tag)) {
            rc = ERR_SET(err, ERR_INVAL, "--share: tag=%s is there twice", s->tag);
        }
    }
    o->share_count += rc ? 0 : 1;
    return rc;
}

static int parse_stream(const char *option, const char *arg, const char **out, struct err *err) {
    *out = arg;
    return console_place_check(option, arg, err);
}

/* "2=file:PATH": COM2. */
static int parse_serial(struct run_options *o, const char *arg, struct err *err) {
    u32 port = arg[0] >= '1' && arg[0] <= '0' + MACHINE_SERIAL_PORTS ? (u32)(arg[0] - '1') : 99;
    if (port == 99 || arg[1] != '=') {
        return ERR_SET(err, ERR_INVAL, "--serial %s: not N=PLACE with N from 1 to %d", arg,
                       MACHINE_SERIAL_PORTS);
    }
    return parse_stream("--serial", arg + 2, port ? &o->serial[port] : &o->console, err);
}

static int parse_transport(struct run_options *o, const char *arg, struct err *err) {
    if (strcmp(arg, "pci") && strcmp(arg, "mmio") && strcmp(arg, "mmio-cmdline")) {
        return ERR_SET(err, ERR_INVAL, "--transport %s: not one of pci, mmio, mmio-cmdline", arg);
    }
    o->mmio = arg[0] == 'm';
    o->mmio_cmdline = !strcmp(arg, "mmio-cmdline");
    return 0;
}

static int parse_module(struct run_options *o, const char *arg, struct err *err) {
    if (o->module_count == OPT_MAX_MODULES) {
        return ERR_SET(err, ERR_INVAL, "--module: at most %d modules", OPT_MAX_MODULES);
    }
    o->module[o->module_count++] = arg;
    return 0;
}

static int parse_gdb(struct run_options *o, const char *arg, struct err *err) {
    const char *text = run_options_keep(o, arg);
    if (!text) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    char *comma = strrchr((char *)(uintptr_t)text, ',');
    if (comma && !strcmp(comma, ",wait")) {
        *comma = 0;
        o->gdb_wait = true;
    }
    if (strncmp(text, "tcp:", 4) && strncmp(text, "unix:", 5)) {
        return ERR_SET(err, ERR_INVAL, "--gdb %s: not tcp:ADDRESS:PORT or unix:PATH", arg);
    }
    o->gdb = text;
    return 0;
}

static int parse_on_off(bool *out, const char *name, const char *arg, struct err *err) {
    *out = !strcmp(arg, "on");
    if (!*out && strcmp(arg, "off")) {
        return ERR_SET(err, ERR_INVAL, "--%s: on or off, not '%s'", name, arg);
    }
    return 0;
}

static int parse_stats(struct run_options *o, const char *arg, struct err *err) {
    if (arg && strcmp(arg, "full") != 0) {
        return ERR_SET(err, ERR_INVAL, "--stats: full or nothing, not '%s'", arg);
    }
    o->stats = true;
    o->translator.count = arg != NULL;
    return 0;
}

static int parse_code_cache(struct run_options *o, const char *arg, struct err *err) {
    char *end;
    unsigned long mib = strtoul(arg, &end, 10);
    if (*end || end == arg || mib < 1 || mib > 512) {
        return ERR_SET(err, ERR_INVAL, "--code-cache: 1 to 512 MiB, not '%s'", arg);
    }
    o->translator.cache_mib = (u32)mib;
    return 0;
}

static int parse_verify(struct run_options *o, const char *arg, struct err *err) {
    char *end;
    unsigned long period = arg ? strtoul(arg, &end, 10) : 1;
    if (arg && (*end || end == arg || period < 1 || period > 1000000)) {
        return ERR_SET(err, ERR_INVAL, "--verify=%s: not a number from 1 to 1000000", arg);
    }
    o->translator.verify = (u32)period;
    return 0;
}

static int parse_balloon(struct run_options *o, const char *arg, struct err *err) {
    char *text = (char *)(uintptr_t)run_options_keep(o, arg);
    return text ? balloon_option_parse(&o->balloon, text, err)
                : ERR_SET(err, ERR_NOMEM, "out of memory");
}

static int parse_vsock(struct run_options *o, const char *arg, struct err *err) {
    char *text = (char *)(uintptr_t)run_options_keep(o, arg);
    return text ? vsock_option_parse(&o->vsock, text, err)
                : ERR_SET(err, ERR_NOMEM, "out of memory");
}

static int parse_cloud_init(struct run_options *o, const char *arg, struct err *err) {
    char *text = (char *)(uintptr_t)run_options_keep(o, arg);
    return text ? cloud_init_parse(&o->cloud_init, text, err)
                : ERR_SET(err, ERR_NOMEM, "out of memory");
}

/* Options that only switch something on; false: id is none of them. */
static bool take_switch(struct run_options *o, int id) {
    switch (id) {
    case OPT_TEST_DEVICES:
        o->test_devices = true;
        return true;
    case 'd':
        o->detach = true;
        return true;
    case OPT_MERGE_PAGES:
        o->merge_pages = true;
        return true;
    case OPT_AGENT:
        o->vsock.cid = o->vsock.cid ? o->vsock.cid : VSOCK_CID_MIN;
        return true;
    case OPT_PORTABLE:
        o->portable = true;
        return true;
    case OPT_AUDIT:
        o->translator.audit = true;
        return true;
    case OPT_QUIET:
        o->quiet = true;
        return true;
    default:
        return false;
    }
}

/* Options that are kept as they are; false: id is none of them. */
static bool take_text(struct run_options *o, int id, const char *arg) {
    switch (id) {
    case OPT_KERNEL:
        o->kernel = arg;
        return true;
    case OPT_INITRD:
        o->initrd = arg;
        return true;
    case OPT_CMDLINE:
        o->cmdline = arg;
        return true;
    case OPT_CONFIG:
        o->config = arg;
        return true;
    case OPT_NAME:
        o->name = arg;
        return true;
    case OPT_PERF_MAP:
        o->perf_map = arg ? arg : "";
        return true;
    default:
        return false;
    }
}

static int parse_one(struct run_options *o, int id, const char *arg, struct err *err) {
    if (take_switch(o, id) || take_text(o, id, arg)) {
        return 0;
    }
    switch (id) {
    case OPT_ENGINE:
        return parse_engine(o, arg, err);
    case OPT_CPUS:
        return parse_cpus(o, arg, err);
    case OPT_MEMORY:
        return parse_memory(o, arg, err);
    case OPT_DISK:
        return parse_disk(o, arg, err);
    case OPT_BOOT:
        return parse_boot(o, arg, err);
    case OPT_NET:
        return parse_net(o, arg, err);
    case OPT_SHARE:
        return parse_share(o, arg, err);
    case OPT_CONSOLE:
        return parse_stream("--console", arg, &o->console, err);
    case OPT_VIRTIO_CONSOLE:
        return parse_stream("--virtio-console", arg, &o->virtio_console, err);
    case OPT_DEBUGCON:
        return parse_stream("--debugcon", arg, &o->debugcon, err);
    case OPT_GDB:
        return parse_gdb(o, arg, err);
    case OPT_TRACE:
        return trace_parse(arg, &o->trace, err);
    case OPT_MODULE:
        return parse_module(o, arg, err);
    case OPT_SERIAL:
        return parse_serial(o, arg, err);
    case OPT_LOG:
        return log_option_parse(o, arg, err);
    case OPT_TRANSPORT:
        return parse_transport(o, arg, err);
    case OPT_RNG:
        return parse_on_off(&o->rng, "rng", arg, err);
    case OPT_FENCE:
        return parse_on_off(&o->fence, "fence", arg, err);
    case OPT_CLOUD_INIT:
        return parse_cloud_init(o, arg, err);
    case OPT_VSOCK:
        return parse_vsock(o, arg, err);
    case OPT_BALLOON:
        return parse_balloon(o, arg, err);
    case OPT_STATS:
        return parse_stats(o, arg, err);
    case OPT_TRANSLATOR:
        return parse_on_off(&o->translator.on, "translator", arg, err);
    case OPT_CODE_CACHE:
        return parse_code_cache(o, arg, err);
    case OPT_VERIFY:
        return parse_verify(o, arg, err);
    default:
        return -ERR_INVAL;
    }
}

/* The configuration file comes first, so that options on the command line win over it. */
static int preload_config(struct run_options *o, int argc, char **argv, struct err *err) {
    int id;
    optind = 0;
    opterr = 0;
    while ((id = getopt_long(argc, argv, "hd", long_options, NULL)) != -1) {
        if (id == OPT_CONFIG) {
            int rc = config_file_load(o, optarg, err);
            if (rc) {
                return rc;
            }
        }
    }
    return 0;
}

/* One terminal, and none for a machine in the background. */
static int check_consoles(struct run_options *o, struct err *err) {
    const char *place[] = {o->console,   o->serial[1],      o->serial[2],
                           o->serial[3], o->virtio_console, o->debugcon};
    u32 count = 0;
    for (size_t i = 0; i < ARRAY_LEN(place); i++) {
        count += place[i] && !strcmp(place[i], "stdio") ? 1 : 0;
    }
    if (count && o->detach) {
        return ERR_SET(err, ERR_INVAL, "--detach: a console cannot be stdio");
    }
    if (!o->console) {
        o->console = o->detach || count ? "ring" : "stdio";
    }
    return count > 1 ? ERR_SET(err, ERR_INVAL, "only one console can be stdio") : 0;
}

static int check_complete(const struct run_options *o, struct err *err) {
    if (o->boot_disk && (o->kernel || o->initrd || !o->disk_count)) {
        return ERR_SET(err, ERR_INVAL, "--boot disk needs a --disk, and no --kernel or --initrd");
    }
    if (!o->kernel && !o->boot_disk) {
        return ERR_SET(err, ERR_INVAL,
                       "no kernel: give --kernel FILE, --config FILE or --boot disk");
    }
    if (o->translator.verify && (o->cpus != 1 || o->engine != ENGINE_SOFT)) {
        return ERR_SET(err, ERR_INVAL, "--verify needs the software engine and one CPU");
    }
    if (!o->memory || o->memory % PAGE_SIZE || o->memory < MACHINE_MIN_MEMORY ||
        o->memory > MACHINE_MAX_MEMORY) {
        return ERR_SET(err, ERR_INVAL,
                       "memory of %llu bytes: not a multiple of 4 KiB from 1 MiB to 1 TiB",
                       (unsigned long long)o->memory);
    }
    return 0;
}

/* getopt_long stands behind a long option, but inside a group of short ones. */
static int unknown_option(char **argv, struct err *err) {
    static const char why[] = "unknown option or missing value; see `sosia run --help`";
    if (optopt && optopt < OPT_ENGINE) {
        return ERR_SET(err, ERR_INVAL, "-%c: %s", optopt, why);
    }
    return ERR_SET(err, ERR_INVAL, "%s: %s", argv[optind > 1 ? optind - 1 : 1], why);
}

int run_options_parse(struct run_options *o, int argc, char **argv, struct err *err) {
    int id, index = -1;
    *o = (struct run_options){.cpus = 1,
                              .memory = 512 * MIB,
                              .log_level = -1,
                              .virtio_console = "none",
                              .debugcon = "none",
                              .translator = {.on = true},
                              .rng = true,
                              .fence = true};
    int rc = preload_config(o, argc, argv, err);
    optind = 0;
    opterr = 0;
    while (!rc && (id = getopt_long(argc, argv, "hd", long_options, &index)) != -1) {
        if (id == OPT_HELP || id == 'h') {
            fputs(help_text, stdout);
            return 1;
        }
        rc = id == '?' ? unknown_option(argv, err) : parse_one(o, id, optarg, err);
    }
    if (!rc && optind < argc) {
        rc = ERR_SET(err, ERR_INVAL, "%s: not an option; see `sosia run --help`", argv[optind]);
    }
    if (o->translator.verify) {
        o->translator.on = o->translator.audit = true;
        o->engine = o->engine == ENGINE_AUTO ? ENGINE_SOFT : o->engine;
    }
    rc = rc ? rc : check_consoles(o, err);
    return rc ? rc : check_complete(o, err);
}
