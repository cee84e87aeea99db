/* SPDX-License-Identifier: Apache-2.0 */
/* From a machine as the API describes it (api_config.h) to options of `sosia run`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/api_config.h"

static const char *text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static bool flag(const json_t *object, const char *key) {
    return json_is_true(json_object_get(object, key));
}

/* NULL stays NULL; *rc is set when there is no room. */
static const char *keep(struct run_options *o, const char *s, int *rc, struct err *err) {
    const char *kept = s ? run_options_keep(o, s) : NULL;
    if (s && !kept) {
        *rc = ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    return kept;
}

static void take_bucket(const json_t *b, struct token_bucket_config *out) {
    out->size = (u64)json_integer_value(json_object_get(b, "size"));
    out->refill_ms = (u64)json_integer_value(json_object_get(b, "refill_time"));
    out->burst = (u64)json_integer_value(json_object_get(b, "one_time_burst"));
}

void api_rate_limit(const json_t *limiter, struct rate_limit *out) {
    take_bucket(json_object_get(limiter, "bandwidth"), &out->bandwidth);
    take_bucket(json_object_get(limiter, "ops"), &out->ops);
}

/* --- parts ------------------------------------------------------------------------------------ */

static int machine_options(const struct api_config *c, struct run_options *o, struct err *err) {
    const json_t *m = c->single[API_MACHINE_CONFIG];
    const char *gdb = text(m, "gdb_socket_path");
    int rc = 0;
    o->cpus = (u32)json_integer_value(json_object_get(m, "vcpu_count"));
    o->memory = (u64)json_integer_value(json_object_get(m, "mem_size_mib")) * MIB;
    if (gdb) {
        char at[4200];
        snprintf(at, sizeof(at), "unix:%s", gdb);
        o->gdb = keep(o, at, &rc, err);
        o->gdb_wait = true;
    }
    return rc;
}

/* Firecracker adds root= for the drive that is marked as root. */
static int root_args(struct run_options *o, const json_t *drive, struct err *err) {
    const char *part = text(drive, "partuuid");
    const char *mode = flag(drive, "is_read_only") ? "ro" : "rw";
    char args[4096];
    int rc = 0;
    int n = part ? snprintf(args, sizeof(args), "%s root=PARTUUID=%s %s", o->cmdline, part, mode)
                 : snprintf(args, sizeof(args), "%s root=/dev/vda %s", o->cmdline, mode);
    if (n < 0 || (size_t)n >= sizeof(args)) {
        return ERR_SET(err, ERR_INVAL, "boot_args: too long");
    }
    o->cmdline = keep(o, args, &rc, err);
    return rc;
}

static int drive_options(struct run_options *o, const json_t *drive, struct err *err) {
    struct disk_option *d = &o->disk[o->disk_count];
    const char *format = text(drive, "sosia_format"), *io = text(drive, "io_engine");
    int rc = 0;
    *d = (struct disk_option){.limit_always = true};
    d->open.path = keep(o, text(drive, "path_on_host"), &rc, err);
    /* as Firecracker: raw, whatever the file's first bytes say */
    d->open.format = format && !strcmp(format, "qcow2") ? BLK_FORMAT_QCOW2 : BLK_FORMAT_RAW;
    d->open.readonly = flag(drive, "is_read_only");
    d->open.snapshot = flag(drive, "sosia_snapshot");
    d->open.aio = io && !strcmp(io, "Sync") ? BLK_AIO_THREADS : BLK_AIO_AUTO;
    snprintf(d->serial, sizeof(d->serial), "%.20s", text(drive, "drive_id"));
    api_rate_limit(json_object_get(drive, "rate_limiter"), &d->limit);
    o->disk_count += rc ? 0 : 1;
    return rc || !flag(drive, "is_root_device") ? rc : root_args(o, drive, err);
}

static int net_options(struct run_options *o, const json_t *net, struct err *err) {
    struct net_option *n = &o->net[o->net_count];
    const char *own = text(net, "sosia_network"), *mac = text(net, "guest_mac");
    int rc = 0;
    *n = (struct net_option){.kind = NET_TAP};
    if (own) {
        char *cut = (char *)(uintptr_t)keep(o, own, &rc, err);
        rc = rc ? rc : net_option_parse(n, cut, err);
    } else {
        n->name = keep(o, text(net, "host_dev_name"), &rc, err);
    }
    if (rc) {
        return rc;
    }
    if (mac && mac_parse(mac, n->mac)) {
        return ERR_SET(err, ERR_INVAL, "guest_mac: is not a MAC address");
    }
    if (json_object_get(net, "mtu")) {
        n->mtu = n->user.mtu = (u16)json_integer_value(json_object_get(net, "mtu"));
    }
    if (json_object_get(net, "rx_rate_limiter")) {
        api_rate_limit(json_object_get(net, "rx_rate_limiter"), &n->rx);
    }
    if (json_object_get(net, "tx_rate_limiter")) {
        api_rate_limit(json_object_get(net, "tx_rate_limiter"), &n->tx);
    }
    o->net_count++;
    return 0;
}

static int boot_options(const struct api_config *c, struct run_options *o, struct err *err) {
    const json_t *b = c->single[API_BOOT_SOURCE];
    const char *args = text(b, "boot_args");
    int rc = 0;
    o->kernel = keep(o, text(b, "kernel_image_path"), &rc, err);
    o->initrd = keep(o, text(b, "initrd_path"), &rc, err);
    o->cmdline = keep(o, args ? args : api_default_boot_args, &rc, err);
    return rc;
}

static int serial_options(const struct api_config *c, struct run_options *o, struct err *err) {
    const char *path = text(c->single[API_SERIAL], "serial_out_path");
    char at[4200];
    int rc = 0;
    if (path) {
        snprintf(at, sizeof(at), "file=%s", path);
        o->console = keep(o, at, &rc, err);
    }
    return rc;
}

static int cpu_options(const struct api_config *c, struct run_options *o, struct err *err) {
    struct api_text e = {0};
    int rc = api_cpu_template(c->single[API_CPU_CONFIG], &o->cpu, &e);
    return rc ? ERR_SET(err, ERR_INVAL, "cpu-config: %.200s", e.text) : 0;
}

static void balloon_options(const struct api_config *c, struct run_options *o) {
    const json_t *b = c->single[API_BALLOON];
    o->balloon = (struct balloon_config){.present = b};
    o->balloon.opts.target_mib = (u32)json_integer_value(json_object_get(b, "amount_mib"));
    o->balloon.opts.stats_seconds =
        (u32)json_integer_value(json_object_get(b, "stats_polling_interval_s"));
    o->balloon.opts.deflate_on_oom = flag(b, "deflate_on_oom");
    o->balloon.opts.hinting = flag(b, "free_page_hinting");
    o->balloon.opts.reporting = flag(b, "free_page_reporting");
}

static int vsock_options(const struct api_config *c, struct run_options *o, struct err *err) {
    const json_t *v = c->single[API_VSOCK];
    int rc = 0;
    o->vsock.cid = (u64)json_integer_value(json_object_get(v, "guest_cid"));
    o->vsock.path = keep(o, text(v, "uds_path"), &rc, err);
    return rc;
}

/* Firecracker's devices are on MMIO, named on the command line for kernels without ACPI. */
static void sosia_options(const struct api_config *c, struct run_options *o) {
    const json_t *s = c->single[API_SOSIA];
    const char *engine = text(s, "engine"), *transport = text(s, "transport");
    o->engine = !engine                   ? o->engine
                : !strcmp(engine, "kvm")  ? ENGINE_KVM
                : !strcmp(engine, "soft") ? ENGINE_SOFT
                                          : ENGINE_AUTO;
    o->mmio = !transport || strcmp(transport, "pci") != 0;
    o->mmio_cmdline = transport ? !strcmp(transport, "mmio-cmdline")
                                : o->cmdline && strstr(o->cmdline, "acpi=off");
    if (s) {
        o->translator.on = flag(s, "translator");
        o->test_devices = flag(s, "test_devices");
    }
}

void api_serial_limit(const struct api_config *c, struct run_options *o) {
    take_bucket(json_object_get(c->single[API_SERIAL], "rate_limiter"), &o->serial_limit);
}

int api_config_options(const struct api_config *c, struct run_options *o, struct err *err) {
    o->rng = c->single[API_ENTROPY];
    api_rate_limit(json_object_get(c->single[API_ENTROPY], "rate_limiter"), &o->rng_limit);
    api_serial_limit(c, o);
    int rc = machine_options(c, o, err);
    rc = rc ? rc : boot_options(c, o, err);
    rc = rc ? rc : serial_options(c, o, err);
    rc = rc ? rc : vsock_options(c, o, err);
    rc = rc ? rc : cpu_options(c, o, err);
    balloon_options(c, o);
    for (size_t i = 0; !rc && i < json_array_size(c->many[API_DRIVES]); i++) {
        rc = drive_options(o, json_array_get(c->many[API_DRIVES], i), err);
    }
    for (size_t i = 0; !rc && i < json_array_size(c->many[API_NETWORKS]); i++) {
        rc = net_options(o, json_array_get(c->many[API_NETWORKS], i), err);
    }
    if (!rc) {
        sosia_options(c, o);
    }
    return rc;
}
