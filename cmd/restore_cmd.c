/* SPDX-License-Identifier: Apache-2.0 */
/* `sosia restore`: options, and what they replace in the configuration of a snapshot. */
#include <ctype.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/consoles.h"
#include "cmd/machine.h"
#include "cmd/snapshot.h"
#include "core/if/trace.h"

enum option_id {
    OPT_NAME = 256,
    OPT_ENGINE,
    OPT_CONSOLE,
    OPT_DISK,
    OPT_NET,
    OPT_SHARE,
    OPT_VSOCK,
    OPT_MEMORY_FILE,
    OPT_UFFD,
    OPT_CHECK,
    OPT_OVERLAY,
    OPT_FORCE,
    OPT_TRACK,
    OPT_TRANSLATOR,
    OPT_TRACE,
    OPT_PAUSED,
    OPT_FENCE,
    OPT_MERGE_PAGES,
    OPT_QUIET,
    OPT_STATS,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"name", required_argument, NULL, OPT_NAME},
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"console", required_argument, NULL, OPT_CONSOLE},
    {"disk", required_argument, NULL, OPT_DISK},
    {"net", required_argument, NULL, OPT_NET},
    {"share", required_argument, NULL, OPT_SHARE},
    {"vsock", required_argument, NULL, OPT_VSOCK},
    {"memory-file", required_argument, NULL, OPT_MEMORY_FILE},
    {"uffd", required_argument, NULL, OPT_UFFD},
    {"check", no_argument, NULL, OPT_CHECK},
    {"overlay", no_argument, NULL, OPT_OVERLAY},
    {"force", no_argument, NULL, OPT_FORCE},
    {"track", no_argument, NULL, OPT_TRACK},
    {"translator", required_argument, NULL, OPT_TRANSLATOR},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"fence", required_argument, NULL, OPT_FENCE},
    {"merge-pages", no_argument, NULL, OPT_MERGE_PAGES},
    {"paused", no_argument, NULL, OPT_PAUSED},
    {"detach", no_argument, NULL, 'd'},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"stats", no_argument, NULL, OPT_STATS},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static const char help_text[] =
    "usage: sosia restore FILE [OPTIONS]\n\n"
    "Runs the machine of a snapshot from where it was saved.\n\n"
    "  --name NAME              of the machine (default: its old name, or that with a number)\n"
    "  --engine auto|kvm|soft   how instructions execute (default: as before)\n"
    "  -d, --detach             into the background once it runs; prints its name\n"
    "  --console PLACE          where the first serial port goes, as in `sosia run` (default: as\n"
    "                           before)\n"
    "  --disk [N=]FILE          another file for disk N (default: 0), with the same contents as "
    "then\n"
    "  --net [N=]SPEC           another back end for network card N, as in `sosia run --net`\n"
    "  --share [N=]DIR          another place for shared folder N (default: 0), with the same "
    "files\n"
    "  --vsock PATH|none        another place for the Unix sockets of --vsock, or no such sockets\n"
    "  --overlay                what the guest writes to disks is gone with the machine\n"
    "  --memory-file FILE       the memory, when it is not where the snapshot says\n"
    "  --uffd SOCKET            memory comes from a page fault handler (Firecracker's protocol)\n"
    "  --check                  compare the checksums of all memory first\n"
    "  --track                  note written pages, for `sosia snapshot --incremental`\n"
    "  --force                  although disks were written to since, or others can write FILE\n"
    "  --translator on|off      soft engine: translate hot code\n"
    "  --fence on|off           drop rights and system calls before the guest runs (default: on)\n"
    "  --trace LIST             as in `sosia run`\n"
    "  --merge-pages            let the kernel merge equal pages of guests, as in `sosia run`\n"
    "  --paused                 do not run before `sosia resume`\n"
    "  --quiet                  no line about the engine\n"
    "  --stats                  print counters of the run at its end\n"
    "  --help                   this text\n\n"
    "Exit status: as `sosia run`; 2 when the snapshot is damaged, does not fit or is refused.\n";

enum { MAX_REPLACED = 24 };

struct request {
    struct snapshot_open how;
    const char *name, *engine, *console, *translator, *trace, *fence, *vsock;
    const char *disk[MAX_REPLACED], *net[MAX_REPLACED], *share[MAX_REPLACED];
    u32 disk_count, net_count, share_count;
    bool quiet, stats, detach, paused, merge_pages;
};

static int keep(const char **list, u32 *count, const char *arg, struct err *err) {
    if (*count == MAX_REPLACED) {
        return ERR_SET(err, ERR_INVAL, "%s: too many of these options", arg);
    }
    list[(*count)++] = arg;
    return 0;
}

static int take(struct request *q, int id, const char *arg, struct err *err) {
    switch (id) {
    case OPT_NAME:
        q->name = arg;
        return 0;
    case OPT_ENGINE:
        q->engine = arg;
        return 0;
    case OPT_CONSOLE:
        q->console = arg;
        return 0;
    case OPT_DISK:
        return keep(q->disk, &q->disk_count, arg, err);
    case OPT_NET:
        return keep(q->net, &q->net_count, arg, err);
    case OPT_SHARE:
        return keep(q->share, &q->share_count, arg, err);
    case OPT_VSOCK:
        q->vsock = arg;
        return 0;
    case OPT_MEMORY_FILE:
        q->how.memory_path = arg;
        return 0;
    case OPT_UFFD:
        q->how.uffd_path = arg;
        return 0;
    case OPT_CHECK:
        q->how.check = true;
        return 0;
    case OPT_OVERLAY:
        q->how.overlay = true;
        return 0;
    case OPT_FORCE:
        q->how.force = true;
        return 0;
    case OPT_TRACK:
        q->how.track = true;
        return 0;
    case OPT_TRANSLATOR:
        q->translator = arg;
        return 0;
    case OPT_TRACE:
        q->trace = arg;
        return 0;
    case OPT_FENCE:
        q->fence = arg;
        return 0;
    case OPT_MERGE_PAGES:
        q->merge_pages = true;
        return 0;
    case OPT_PAUSED:
        q->paused = true;
        return 0;
    case OPT_QUIET:
        q->quiet = true;
        return 0;
    case 'd':
        q->detach = true;
        return 0;
    default:
        q->stats = true;
        return 0;
    }
}

static int parse(struct request *q, int argc, char **argv, struct err *err) {
    int id, rc = 0;
    optind = 0;
    opterr = 0;
    while (!rc && (id = getopt_long(argc, argv, "hd", long_options, NULL)) != -1) {
        if (id == OPT_HELP || id == 'h') {
            fputs(help_text, stdout);
            return 1;
        }
        rc = id == '?' ? ERR_SET(err, ERR_INVAL,
                                 "%s: unknown option or missing value; see `sosia restore --help`",
                                 argv[optind > 1 ? optind - 1 : 1])
                       : take(q, id, optarg, err);
    }
    if (!rc && optind + 1 != argc) {
        rc = ERR_SET(err, ERR_INVAL, "one snapshot is needed; see `sosia restore --help`");
    }
    q->how.state_path = rc ? NULL : argv[optind];
    return rc;
}

/* "N=REST" or "REST": the number, 0 without. */
static u32 numbered(const char **text) {
    char *end;
    if (!isdigit((unsigned char)(*text)[0])) {
        return 0;
    }
    unsigned long n = strtoul(*text, &end, 10);
    if (*end != '=' || n >= UINT32_MAX) {
        return 0;
    }
    *text = end + 1;
    return (u32)n;
}

static int replace_disk(struct run_options *o, const char *text, struct err *err) {
    u32 n = numbered(&text);
    if (n >= o->disk_count) {
        return ERR_SET(err, ERR_INVAL, "--disk %s: the machine has %u disks", text, o->disk_count);
    }
    o->disk[n].open.path = text;
    return 0;
}

/* What the guest knows of the card stays: its address, unless a new one is given, and its queues.
 */
static int replace_net(struct run_options *o, const char *text, struct err *err) {
    static const u8 none[6];
    u32 n = numbered(&text);
    struct net_option fresh;
    char *copy = (char *)(uintptr_t)run_options_keep(o, text);
    if (n >= o->net_count) {
        return ERR_SET(err, ERR_INVAL, "--net %s: the machine has %u network cards", text,
                       o->net_count);
    }
    int rc = copy ? net_option_parse(&fresh, copy, err) : ERR_SET(err, ERR_NOMEM, "out of memory");
    if (rc) {
        return rc;
    }
    fresh.mtu = o->net[n].mtu;
    fresh.queues = o->net[n].queues;
    if (!memcmp(fresh.mac, none, sizeof(none))) {
        memcpy(fresh.mac, o->net[n].mac, sizeof(fresh.mac));
    }
    o->net[n] = fresh;
    return 0;
}

static int replace_share(struct run_options *o, const char *text, struct err *err) {
    u32 n = numbered(&text);
    if (n >= o->share_count) {
        return ERR_SET(err, ERR_INVAL, "--share %s: the machine has %u shared folders", text,
                       o->share_count);
    }
    o->share[n].path = text;
    return 0;
}

static int replace_vsock(struct run_options *o, const char *path, struct err *err) {
    bool none = !strcmp(path, "none");
    if (!none && !o->vsock.cid) {
        return ERR_SET(err, ERR_INVAL, "--vsock %.100s: the machine has no sockets", path);
    }
    o->vsock.path = none ? NULL : path;
    return 0;
}

static int choose(const struct request *q, struct run_options *o, struct err *err) {
    static const char *const engines[] = {"auto", "kvm", "soft"};
    size_t i = 0;
    while (q->engine && i < ARRAY_LEN(engines) && strcmp(engines[i], q->engine)) {
        i++;
    }
    if (i == ARRAY_LEN(engines)) {
        return ERR_SET(err, ERR_INVAL, "--engine %s: not one of auto, kvm, soft", q->engine);
    }
    o->engine = q->engine ? (enum engine_choice)i : o->engine;
    if (q->translator && strcmp(q->translator, "on") && strcmp(q->translator, "off")) {
        return ERR_SET(err, ERR_INVAL, "--translator: on or off, not '%s'", q->translator);
    }
    if (q->fence && strcmp(q->fence, "on") && strcmp(q->fence, "off")) {
        return ERR_SET(err, ERR_INVAL, "--fence: on or off, not '%s'", q->fence);
    }
    o->fence = !q->fence || !strcmp(q->fence, "on");
    o->translator.on = q->translator ? !strcmp(q->translator, "on") : o->translator.on;
    int rc = q->console ? console_place_check("--console", q->console, err) : 0;
    if (rc) {
        return rc;
    }
    o->console = q->console ? q->console : o->console;
    o->detach = q->detach;
    if (o->detach && !strcmp(o->console, "stdio")) {
        o->console = "ring";
    }
    return q->trace ? trace_parse(q->trace, &o->trace, err) : 0;
}

static int replace(const struct request *q, struct run_options *o, struct err *err) {
    int rc = choose(q, o, err);
    for (u32 i = 0; !rc && i < q->disk_count; i++) {
        rc = replace_disk(o, q->disk[i], err);
    }
    for (u32 i = 0; !rc && i < q->net_count; i++) {
        rc = replace_net(o, q->net[i], err);
    }
    for (u32 i = 0; !rc && i < q->share_count; i++) {
        rc = replace_share(o, q->share[i], err);
    }
    if (!rc && q->vsock) {
        rc = replace_vsock(o, q->vsock, err);
    }
    o->name_like = o->name;
    o->name = q->name;
    o->quiet = q->quiet;
    o->paused = q->paused;
    o->merge_pages = q->merge_pages;
    o->stats = q->stats;
    return rc;
}

static int replace_cb(void *ctx, struct run_options *o, struct err *err) {
    return replace(ctx, o, err);
}

static int restore_options(struct machine *m, int argc, char **argv, struct err *err) {
    struct request q = {.how = {.adjust = replace_cb}};
    q.how.adjust_ctx = &q;
    int rc = parse(&q, argc, argv, err);
    return rc ? rc : snapshot_open(&q.how, &m->o, &m->restore, err);
}

int cmd_restore(int argc, char **argv) {
    return run_to_end(restore_options, argc, argv);
}
