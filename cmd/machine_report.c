/* SPDX-License-Identifier: Apache-2.0 */
/* What --stats prints when a machine has ended. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/machine.h"
#include "cmd/manage.h"
#include "cmd/stats.h"

/* Resident memory that is neither guest RAM and code caches (shared memory) nor shared with other
 * processes' files. */
static u64 own_memory_kib(int status_fd) {
    char text[4096] = "";
    unsigned long long kib = 0;
    ssize_t n = pread(status_fd, text, sizeof(text) - 1, 0);
    const char *line = n > 0 ? strstr(text, "RssAnon:") : NULL;
    return line && sscanf(line, "RssAnon: %llu kB", &kib) == 1 ? kib : 0;
}

static void print_nets(struct machine *m) {
    struct virtio_net_stats s;
    for (u32 i = 0; pc_net_stats(m->pc, i, &s); i++) {
        complain("stats: net%u received %llu frames, %llu bytes, %llu dropped, %llu filtered, "
                 "%llu waits, %llu limited; sent %llu frames, %llu bytes, %llu dropped, %llu "
                 "waits, %llu limited",
                 i, (unsigned long long)s.rx_frames, (unsigned long long)s.rx_bytes,
                 (unsigned long long)s.rx_dropped, (unsigned long long)s.rx_filtered,
                 (unsigned long long)s.rx_waits, (unsigned long long)s.rx_limited,
                 (unsigned long long)s.tx_frames, (unsigned long long)s.tx_bytes,
                 (unsigned long long)s.tx_dropped, (unsigned long long)s.tx_waits,
                 (unsigned long long)s.tx_limited);
    }
}

/* Figures of the run, for benchmarks and the curious. */
void machine_print_stats(struct machine *m) {
    static char text[STATS_TEXT_MAX];
    struct vm *vm = pc_vm(m->pc);
    struct engine_stats sum;
    double seconds = (double)(host_now(linux_host_host(m->lh)) - m->started_ns) / 1e9;
    stats_sum(vm, m->engine, &sum);
    complain(
        "stats: %.3f s, %llu instructions (%.1f M/s), %llu exits, %llu interrupts, %llu exceptions",
        seconds, (unsigned long long)sum.instructions, (double)sum.instructions / seconds / 1e6,
        (unsigned long long)sum.exits, (unsigned long long)sum.interrupts,
        (unsigned long long)sum.exceptions);
    print_nets(m);
    stats_text(vm, m->engine, text, sizeof(text));
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) && *line;) {
        complain("stats: %s", line);
    }
    complain(
        "stats: ready to run %.3f ms after the start of the command, %.3f ms of them computing, at "
        "%.6f s of the host's clock",
        m->ready_ms, m->ready_cpu_ms, (double)m->started_ns / 1e9);
    complain("stats: %llu KiB of memory beside guest RAM, code caches included",
             (unsigned long long)(own_memory_kib(manage_status_fd(m)) + sum.tr.code_bytes / KIB));
}
