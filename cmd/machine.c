/* SPDX-License-Identifier: Apache-2.0 */
/* From options to a running machine and back to nothing; see machine.h. All on the event thread. */
#include "cmd/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/agent_time.h"
#include "cmd/gdb_server.h"
#include "cmd/manage.h"
#include "cmd/perf_map.h"
#include "cmd/snapshot.h"
#include "core/dev/char_limit.h"
#include "engines/kvm/kvm.h"

void machine_stop(struct machine *m, const char *why) {
    if (m->pc) {
        vm_stop(pc_vm(m->pc), STOP_USER, EXIT_GUEST_OFF, why);
    }
}

/* --- back ends -------------------------------------------------------------------------------- */

/* on-full=pause: the machine stands still until the host has room again. */
static void on_disk_full(void *ctx, bool full) {
    struct machine *m = ctx;
    complain(full ? "the host's disk is full: the machine is paused until there is room"
                  : "the host's disk has room again: the machine goes on");
    if (m->pc && full) {
        vm_pause_begin(pc_vm(m->pc));
    } else if (m->pc) {
        vm_resume(pc_vm(m->pc));
    }
}

static int disks_open(struct machine *m, struct err *err) {
    for (u32 i = 0; i < m->o.disk_count; i++) {
        struct disk_config *d = &m->cfg.disk[i];
        const struct disk_option *o = &m->o.disk[i];
        int rc = disk_open(m->lh, o, on_disk_full, m, &d->backend, err);
        if (rc) {
            return rc;
        }
        d->readonly = o->open.readonly;
        d->queues = o->queues ? o->queues : MIN(m->o.cpus, 8u);
        memcpy(d->serial, o->serial, sizeof(d->serial));
        m->cfg.disk_count++;
    }
    return 0;
}

/* Which machine this is, for addresses that stay the same: that with this disk, or this kernel. */
static int nets_open(struct machine *m, struct err *err) {
    const char *file = m->o.disk_count ? m->o.disk[0].open.path : m->o.kernel;
    char *machine = file ? realpath(file, NULL) : NULL;
    int rc = 0;
    for (u32 i = 0; i < m->o.net_count && !rc; i++) {
        rc = net_open(m->lh, &m->o.net[i], machine ? machine : file, i, &m->cfg.net[i], err);
        m->cfg.net_count += rc ? 0 : 1;
        if (!rc && m->wrap_net) {
            rc = m->wrap_net(m->wrap_ctx, i, &m->cfg.net[i].backend, err);
        }
    }
    free(machine);
    return rc;
}

static int shares_open(struct machine *m, struct err *err) {
    for (u32 i = 0; i < m->o.share_count; i++) {
        const struct share_option *o = &m->o.share[i];
        int rc = share_open(m->lh, o->path, o->readonly, &m->cfg.share[i].backend, err);
        if (rc) {
            return rc;
        }
        m->cfg.share[i].tag = o->tag;
        m->cfg.share_count++;
    }
    return 0;
}

static int seed_open(struct machine *m, struct err *err) {
    const struct cloud_init_option *o = &m->o.cloud_init;
    return o->user_data ? cloud_init_open(m->lh, o, &m->cfg.seed, err) : 0;
}

static int vsock_open(struct machine *m, struct err *err) {
    const struct vsock_option *o = &m->o.vsock;
    m->cfg.vsock.cid = o->cid;
    return o->cid ? vsock_unix_open(m->lh, o->path, &m->cfg.vsock.backend, err) : 0;
}

/* --- files ------------------------------------------------------------------------------------ */

/* "FILE ARGUMENTS": the command line of a module is the whole string, as boot loaders pass it. */
static int module_map(struct machine *m, u32 i, struct err *err) {
    const char *text = m->o.module[i];
    size_t len = strcspn(text, " ");
    char path[4096];
    if (len >= sizeof(path)) {
        return ERR_SET(err, ERR_INVAL, "--module: name too long");
    }
    memcpy(path, text, len);
    path[len] = 0;
    const char *kept = run_options_keep(&m->o, path);
    if (!kept) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = file_map("module", kept, &m->module_file[i], err);
    if (!rc) {
        m->cfg.module[i] = (struct module_config){.file = m->module_file[i], .cmdline = text};
        m->cfg.module_count = i + 1;
    }
    return rc;
}

static int boot_map(struct machine *m, struct err *err) {
    int rc = boot_disk_load(linux_host_host(m->lh), &m->o.disk[0].open, &m->boot, err);
    if (!rc) {
        m->cfg.kernel = m->boot.kernel;
        m->cfg.initrd = m->boot.initrd;
        m->cfg.cmdline = m->o.cmdline ? m->o.cmdline : m->boot.cmdline;
    }
    return rc;
}

static int files_map(struct machine *m, struct err *err) {
    if (m->o.boot_disk) {
        return boot_map(m, err);
    }
    int rc = file_map("kernel", m->o.kernel, &m->cfg.kernel, err);
    if (!rc && m->o.initrd) {
        rc = file_map("initrd", m->o.initrd, &m->cfg.initrd, err);
    }
    for (u32 i = 0; !rc && i < m->o.module_count; i++) {
        rc = module_map(m, i, err);
    }
    return rc;
}

static void files_unmap(struct machine *m) {
    file_unmap(&m->cfg.kernel);
    file_unmap(&m->cfg.initrd);
    for (u32 i = 0; i < m->o.module_count; i++) {
        file_unmap(&m->module_file[i]);
    }
}

/* --- the machine ------------------------------------------------------------------------------ */

static int memory_check(const struct run_options *o, struct err *err) {
    u64 host = (u64)sysconf(_SC_PHYS_PAGES) * (u64)sysconf(_SC_PAGESIZE);
    if (o->memory > host) {
        return ERR_SET(err, ERR_INVAL, "memory of %llu MiB: this host has %llu MiB",
                       (unsigned long long)(o->memory / MIB), (unsigned long long)(host / MIB));
    }
    return 0;
}

static void config_fill(struct machine *m) {
    struct machine_config *c = &m->cfg;
    const struct run_options *o = &m->o;
    c->vcpus = o->cpus;
    c->memory = o->memory;
    c->cmdline = o->cmdline ? o->cmdline : "console=ttyS0";
    c->rng = o->rng;
    c->rng_limit = o->rng_limit;
    c->balloon = o->balloon;
    c->test_devices = o->test_devices;
    c->transport = o->mmio ? TRANSPORT_MMIO : TRANSPORT_PCI;
    c->mmio_cmdline = o->mmio_cmdline;
    c->thread_name = o->thread_name;
    c->cpu_template = o->cpu.count || o->cpu.arch_mask ? &o->cpu : NULL;
    c->trace = o->trace;
}

static void merge_begin(struct machine *m) {
    if (!m->o.merge_pages) {
        return;
    }
    enum ksm_state ksm = linux_ksm_state();
    linux_ram_mergeable(m->lh);
    if (m->restore) {
        linux_ram_merge(m->cfg.ram);
    }
    if (ksm != KSM_ON && !m->o.quiet) {
        complain("--merge-pages: this kernel %s",
                 ksm == KSM_OFF ? "does not merge pages now (/sys/kernel/mm/ksm/run)"
                                : "cannot merge pages (it has no KSM)");
    }
}

static int serial_limit(struct machine *m, struct err *err) {
    struct char_backend **com1 = &m->cfg.serial[0];
    if (!m->o.serial_limit.size || !*com1) {
        return 0;
    }
    int rc =
        char_limit_create(linux_host_host(m->lh), *com1, &m->o.serial_limit, &m->serial_limit, err);
    *com1 = rc ? *com1 : m->serial_limit;
    return rc;
}

int machine_create(struct machine *m, struct err *err) {
    config_fill(m);
    int rc = memory_check(&m->o, err);
    rc = rc ? rc : manage_register(m, err);
    rc = rc ? rc : m->restore ? restore_prepare(m, err) : files_map(m, err);
    rc = rc ? rc : disks_open(m, err);
    if (rc) {
        return rc;
    }
    merge_begin(m);
    m->engine = engine_select(linux_host_host(m->lh), m->o.engine, m->o.quiet, &m->caps, err);
    if (!m->engine) {
        return err->code;
    }
    m->cfg.caps = &m->caps;
    m->cfg.translator = m->o.translator;
    m->cfg.portable = m->o.portable ? &kvm_engine_ops : NULL;
    rc = m->o.perf_map ? perf_map_create(m->o.perf_map, &m->perf_map, err) : 0;
    if (m->perf_map) {
        perf_map_connect(m->perf_map, &m->cfg.translator);
    }
    rc = rc ? rc : nets_open(m, err);
    rc = rc ? rc : shares_open(m, err);
    rc = rc ? rc : seed_open(m, err);
    rc = rc ? rc : vsock_open(m, err);
    rc = rc ? rc : consoles_open(m, err);
    rc = rc ? rc : serial_limit(m, err);
    rc = rc ? rc : pc_create(linux_host_host(m->lh), m->engine, &m->cfg, &m->pc, err);
    files_unmap(m);
    return rc || !m->restore ? rc : restore_load(m, err);
}

/* From here on the process holds what the running machine needs, nothing more. */
static int fence_up(struct machine *m, struct err *err) {
    char dir[128];
    if (!m->o.fence) {
        return 0;
    }
    if (m->o.perf_map) {
        linux_fence_need(m->lh, FENCE_DEBUGGED);
    }
    if (m->reg && !linux_runtime_dir(dir, sizeof(dir), err)) {
        linux_fence_path(m->lh, dir, FENCE_SOCKETS); /* its own files there, at the end */
    }
    linux_inherited_close();
    return linux_fence(m->lh, err);
}

static void started_note(struct machine *m) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    m->started_ns = host_now(linux_host_host(m->lh));
    m->ready_ms = (double)(m->started_ns - m->main_ns) / 1e6;
    m->ready_cpu_ms = (double)used.tv_sec * 1e3 + (double)used.tv_nsec / 1e6;
}

void machine_goes_on(struct machine *m) {
    if (m->restore && !m->o.api && !m->agent_time) { /* Firecracker does not do such things */
        m->agent_time = agent_time_begin(m);
    }
}

int machine_start(struct machine *m, void (*on_stop)(void *ctx), void *ctx, struct err *err) {
    struct vm *vm = pc_vm(m->pc);
    vm->on_stop = on_stop;
    vm->on_stop_ctx = ctx;
    if (m->o.gdb) {
        int rc = gdb_server_create(m->lh, vm, m->o.gdb, m->o.gdb_wait, &m->gdb, err);
        if (rc) {
            return rc;
        }
    }
    int rc = manage_start(m, err);
    rc = rc ? rc : snapshot_start(m, err);
    if (!rc && m->o.paused) {
        manage_pause(m);
    }
    rc = rc ? rc : fence_up(m, err);
    rc = rc ? rc : vm_start(vm, err);
    started_note(m);
    if (!rc && !m->o.paused) {
        machine_goes_on(m);
    }
    return rc;
}

void machine_destroy(struct machine *m) {
    manage_end(m);
    gdb_server_destroy(m->gdb);
    agent_time_end(m->agent_time);
    m->agent_time = NULL;
    pc_destroy(m->pc);
    perf_map_destroy(m->perf_map);
    for (u32 i = 0; i < m->cfg.disk_count; i++) {
        m->cfg.disk[i].backend->ops->close(m->cfg.disk[i].backend);
    }
    for (u32 i = 0; i < m->cfg.net_count; i++) {
        if (m->cfg.net[i].backend) {
            m->cfg.net[i].backend->ops->close(m->cfg.net[i].backend);
        }
    }
    for (u32 i = 0; i < m->cfg.share_count; i++) {
        m->cfg.share[i].backend->ops->close(m->cfg.share[i].backend);
    }
    if (m->cfg.seed) {
        m->cfg.seed->ops->close(m->cfg.seed);
    }
    if (m->cfg.vsock.backend) {
        m->cfg.vsock.backend->ops->destroy(m->cfg.vsock.backend);
    }
    if (m->serial_limit) {
        m->serial_limit->ops->close(m->serial_limit);
    }
    for (u32 i = 0; i < m->stream_count; i++) {
        m->stream[i]->ops->close(m->stream[i]);
    }
    files_unmap(m);
    manage_release(m);
    snapshot_end(m);
    restore_free(m->restore);
    m->restore = NULL;
    run_options_free(&m->o);
}
