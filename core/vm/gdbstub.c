/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stub's life, its framing and its stops; the commands are in gdb_cmd.c. See gdbstub.h.
 *
 *   $payload#cc   } escapes   + - acknowledge (unless QStartNoAckMode)   0x03 interrupts
 *
 * While the debugger thinks, the machine is paused on its behalf: `owed` counts our vm_pause calls,
 * including those that vCPUs made when they met a breakpoint.
 */
#include "core/vm/gdbstub_int.h"

#include "core/base/fmt.h"

enum { INTERRUPT_BYTE = 0x03, SIGINT_NUMBER = 2, SIGTRAP_NUMBER = 5 };

static const char hex_digits[] = "0123456789abcdef";

int gdb_hex(u8 c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* --- output ------------------------------------------------------------------------------------
 */

void gdb_put_char(struct gdbstub *g, u8 c) {
    if (g->out_len < GDB_PACKET_MAX) {
        g->out[1 + g->out_len++] = c;
    }
}

void gdb_put(struct gdbstub *g, const char *text) {
    while (*text) {
        gdb_put_char(g, (u8)*text++);
    }
}

void gdb_put_hex(struct gdbstub *g, const u8 *data, size_t n) {
    for (size_t i = 0; i < n; i++) {
        gdb_put_char(g, (u8)hex_digits[data[i] >> 4]);
        gdb_put_char(g, (u8)hex_digits[data[i] & 15]);
    }
}

static void send_last(struct gdbstub *g) {
    if (g->last_len) {
        g->send(g->send_ctx, g->out, g->last_len);
    }
}

void gdb_flush(struct gdbstub *g) {
    u8 sum = 0;
    for (size_t i = 0; i < g->out_len; i++) {
        sum = (u8)(sum + g->out[1 + i]);
    }
    TRACE(&g->vm->trace, TRACE_GDB, "gdb: > %.*s", (int)MIN(g->out_len, (size_t)120),
          (const char *)g->out + 1);
    g->out[0] = '$';
    g->out[1 + g->out_len] = '#';
    g->out[2 + g->out_len] = (u8)hex_digits[sum >> 4];
    g->out[3 + g->out_len] = (u8)hex_digits[sum & 15];
    g->last_len = g->out_len + 4;
    g->out_len = 0;
    send_last(g);
}

/* --- stops -------------------------------------------------------------------------------------
 */

static void put_signal(struct gdbstub *g, u32 signal, u32 vcpu) {
    char text[40];
    fmt_str(text, sizeof(text), "T%02xthread:%x;", signal, vcpu + 1);
    gdb_put(g, text);
}

/* Which of our debug registers fired, as "watch:address;". */
static void put_reason(struct gdbstub *g, const struct vm_exit *exit) {
    if (exit->debug.int3) {
        gdb_put(g, "swbreak:;");
        return;
    }
    for (u32 i = 0; i < GDB_HARD_MAX; i++) {
        const struct gdb_hard *h = &g->hard[i];
        char text[48];
        if (!h->used || !(exit->debug.dr6 & BIT(i))) {
            continue;
        }
        if (h->kind == 1) {
            gdb_put(g, "hwbreak:;");
        } else {
            fmt_str(text, sizeof(text), "%s:%llx;",
                    h->kind == 2   ? "watch"
                    : h->kind == 3 ? "rwatch"
                                   : "awatch",
                    (unsigned long long)h->address);
            gdb_put(g, text);
        }
        return;
    }
}

void gdb_report(struct gdbstub *g) {
    put_signal(g, g->stop_signal, g->thread);
    if (g->stop_signal == SIGTRAP_NUMBER) {
        put_reason(g, &g->stop_exit);
    }
    gdb_flush(g);
}

/* The machine stands still: tell, if the debugger waits for it. */
static void stopped(struct gdbstub *g, u32 vcpu, u32 signal, const struct vm_exit *exit) {
    g->thread = vcpu;
    g->stop_signal = signal;
    g->stop_exit = *exit;
    gdb_debug_apply(g, UINT32_MAX);
    if (g->running) {
        g->running = false;
        gdb_report(g);
    }
}

static void free_stub(struct gdbstub *g) {
    host_free(g->host, g, sizeof(*g));
}

static void take_event(struct gdbstub *g) {
    struct vm_exit exit;
    vm_pause(g->vm); /* the other vCPUs may still be on their way */
    mutex_lock(g->host, &g->lock);
    bool event = g->event;
    u32 vcpu = g->event_vcpu;
    exit = g->event_exit;
    g->event = false;
    mutex_unlock(g->host, &g->lock);
    vm_resume(g->vm);
    if (event && g->running) {
        stopped(g, vcpu, SIGTRAP_NUMBER, &exit);
    }
}

/* On the event thread, after a vCPU met something. */
static void on_event(void *ctx) {
    struct gdbstub *g = ctx;
    mutex_lock(g->host, &g->lock);
    g->posted = false;
    mutex_unlock(g->host, &g->lock);
    if (g->dead) {
        free_stub(g);
    } else if (g->connected) {
        take_event(g);
    }
}

/* On the vCPU's thread. Of several stops at once the first is told; the others' int3 are met again
 * when they run on, because RIP has not moved. */
static bool on_debug(void *ctx, struct vcpu *v, const struct vm_exit *exit) {
    struct gdbstub *g = ctx;
    if (exit->debug.int3 && !gdb_break_at(g, exit->debug.rip)) {
        return false;
    }
    mutex_lock(g->host, &g->lock);
    bool first = !g->event;
    bool post = !g->posted;
    g->owed++;
    if (first) {
        g->event = true;
        g->event_vcpu = v->engine.id;
        g->event_exit = *exit;
    }
    g->posted = true;
    mutex_unlock(g->host, &g->lock);
    if (post && g->host->ops->post(g->host, on_event, g)) {
        mutex_lock(g->host, &g->lock);
        g->posted = false; /* Ctrl-C still finds the machine paused */
        mutex_unlock(g->host, &g->lock);
    }
    return true;
}

static void pause(struct gdbstub *g) {
    mutex_lock(g->host, &g->lock);
    g->owed++;
    mutex_unlock(g->host, &g->lock);
    vm_pause(g->vm);
}

void gdb_resume(struct gdbstub *g, u32 step) {
    gdb_debug_apply(g, step);
    mutex_lock(g->host, &g->lock);
    u32 owed = g->owed;
    g->owed = 0;
    g->event = false;
    mutex_unlock(g->host, &g->lock);
    g->running = true;
    while (owed--) {
        vm_resume(g->vm);
    }
    if (g->connected && __atomic_load_n(&g->vm->stopped_word, __ATOMIC_SEQ_CST)) {
        gdbstub_exited(g, vm_stop_get(g->vm).code); /* there is nothing left to run */
    }
}

static void interrupt(struct gdbstub *g) {
    struct vm_exit none = {.kind = EXIT_KICK};
    if (!g->running) {
        return;
    }
    pause(g);
    mutex_lock(g->host, &g->lock);
    g->event = false; /* a breakpoint met at the same moment is met again */
    mutex_unlock(g->host, &g->lock);
    stopped(g, g->thread, SIGINT_NUMBER, &none);
}

/* --- input -------------------------------------------------------------------------------------
 */

static void acknowledge(struct gdbstub *g, bool good) {
    static const u8 plus = '+', minus = '-';
    if (!g->no_ack) {
        g->send(g->send_ctx, good ? &plus : &minus, 1);
    }
}

static void packet_done(struct gdbstub *g, u8 digit) {
    int high = gdb_hex(g->sum_got), low = gdb_hex(digit);
    bool good = high >= 0 && low >= 0 && (u8)(high << 4 | low) == g->sum && !g->too_long;
    g->parse = PARSE_IDLE;
    acknowledge(g, good || g->no_ack);
    if (!good) {
        return;
    }
    g->in[g->in_len] = 0;
    TRACE(&g->vm->trace, TRACE_GDB, "gdb: < %.*s", (int)MIN(g->in_len, (size_t)120),
          (const char *)g->in);
    g->out_len = 0;
    gdb_command(g);
}

static void packet_byte(struct gdbstub *g, u8 c) {
    g->sum = (u8)(g->sum + c);
    if (g->in_len < GDB_PACKET_MAX) {
        g->in[g->in_len++] = c;
    } else {
        g->too_long = true;
    }
}

static void idle_byte(struct gdbstub *g, u8 c) {
    if (c == '$') {
        g->parse = PARSE_DATA;
        g->in_len = 0;
        g->sum = 0;
        g->too_long = false;
    } else if (c == INTERRUPT_BYTE) {
        interrupt(g);
    } else if (c == '-' && !g->no_ack) {
        send_last(g);
    }
}

void gdbstub_input(struct gdbstub *g, const u8 *data, size_t len) {
    for (size_t i = 0; i < len && g->connected; i++) {
        u8 c = data[i];
        switch (g->parse) {
        case PARSE_IDLE:
            idle_byte(g, c);
            break;
        case PARSE_DATA:
            if (c == '#') {
                g->parse = PARSE_SUM1;
            } else if (c == '$') {
                idle_byte(g, c); /* the other side began again */
            } else {
                packet_byte(g, c);
            }
            break;
        case PARSE_SUM1:
            g->sum_got = c;
            g->parse = PARSE_SUM2;
            break;
        case PARSE_SUM2:
            packet_done(g, c);
            break;
        }
    }
}

/* --- life --------------------------------------------------------------------------------------
 */

int gdbstub_create(struct vm *vm, void (*send)(void *ctx, const u8 *data, size_t len), void *ctx,
                   struct gdbstub **out, struct err *err) {
    struct gdbstub *g = host_alloc(vm->host, sizeof(*g));
    *out = NULL;
    if (!g) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the debugger's stub");
    }
    g->vm = vm;
    g->host = vm->host;
    g->send = send;
    g->send_ctx = ctx;
    g->xml_len = gdb_target_xml(g->xml, sizeof(g->xml));
    *out = g;
    return 0;
}

void gdbstub_connected(struct gdbstub *g) {
    if (g->connected) {
        gdbstub_disconnected(g);
    }
    g->connected = true;
    g->no_ack = false;
    g->parse = PARSE_IDLE;
    g->running = false;
    g->thread = 0;
    g->cont_thread = UINT32_MAX;
    g->last_len = 0;
    g->stop_signal = SIGTRAP_NUMBER;
    g->stop_exit = (struct vm_exit){.kind = EXIT_KICK};
    pause(g);
    g->vm->debug_ctx = g;
    g->vm->debug_fn = on_debug;
    gdb_debug_apply(g, UINT32_MAX);
}

void gdbstub_disconnected(struct gdbstub *g) {
    if (!g->connected) {
        return;
    }
    vm_pause(g->vm);
    g->connected = false;
    gdb_break_clear(g);
    g->vm->debug_fn = NULL;
    gdb_resume(g, UINT32_MAX);
    g->running = false;
    vm_resume(g->vm);
}

void gdbstub_exited(struct gdbstub *g, int status) {
    char text[8];
    if (g->connected) {
        fmt_str(text, sizeof(text), "W%02x", (u32)status & 0xff);
        gdb_put(g, text);
        g->running = false;
        gdb_flush(g);
    }
}

void gdbstub_destroy(struct gdbstub *g) {
    if (!g) {
        return;
    }
    gdbstub_disconnected(g);
    mutex_lock(g->host, &g->lock);
    g->dead = true;
    bool posted = g->posted;
    mutex_unlock(g->host, &g->lock);
    if (!posted) {
        free_stub(g);
    }
}
