/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The debugger's commands. What a packet says is hostile: numbers are read with checks, lengths cut
 * to the buffer, and whatever is not understood gets the empty reply that the protocol asks for.
 */
#include "core/base/fmt.h"
#include "core/vm/gdbstub_int.h"

enum {
    E_BAD = 1,    /* packet not understood */
    E_FAULT = 14, /* memory cannot be reached */
    E_INVAL = 22, /* register or value refused */
    MEM_MAX = GDB_PACKET_MAX / 2,
};

struct cursor {
    const u8 *at, *end;
};

static bool more(const struct cursor *c) {
    return c->at < c->end;
}

static bool take_char(struct cursor *c, char want) {
    if (!more(c) || *c->at != (u8)want) {
        return false;
    }
    c->at++;
    return true;
}

/* The text stands next: eats it. */
static bool take_text(struct cursor *c, const char *text) {
    size_t n = str_len(text);
    if ((size_t)(c->end - c->at) < n || memcmp(c->at, text, n) != 0) {
        return false;
    }
    c->at += n;
    return true;
}

/* At least one and at most 16 hexadecimal digits. */
static bool take_number(struct cursor *c, u64 *value) {
    u32 digits = 0;
    *value = 0;
    while (more(c) && gdb_hex(*c->at) >= 0 && digits < 16) {
        *value = *value << 4 | (u32)gdb_hex(*c->at++);
        digits++;
    }
    return digits > 0;
}

/* n bytes in hexadecimal. */
static bool take_bytes(struct cursor *c, u8 *out, size_t n) {
    if ((size_t)(c->end - c->at) < 2 * n) {
        return false;
    }
    for (size_t i = 0; i < n; i++, c->at += 2) {
        int high = gdb_hex(c->at[0]), low = gdb_hex(c->at[1]);
        if (high < 0 || low < 0) {
            return false;
        }
        out[i] = (u8)(high << 4 | low);
    }
    return true;
}

static void reply(struct gdbstub *g, const char *text) {
    gdb_put(g, text);
    gdb_flush(g);
}

static void reply_error(struct gdbstub *g, u32 number) {
    char text[8];
    fmt_str(text, sizeof(text), "E%02x", number);
    reply(g, text);
}

static void reply_result(struct gdbstub *g, int rc) {
    if (rc) {
        reply_error(g, E_INVAL);
    } else {
        reply(g, "OK");
    }
}

/* --- threads -----------------------------------------------------------------------------------
 */

/* A thread-id: -1 all (UINT32_MAX), 0 any, else n. "p1.n" is understood too. */
static bool take_thread(struct cursor *c, u32 count, u32 *vcpu, bool *all) {
    u64 n;
    if (take_char(c, 'p')) {
        if (!take_char(c, '-')) {
            if (!take_number(c, &n)) {
                return false;
            }
        } else if (!take_number(c, &n)) {
            return false;
        }
        if (!take_char(c, '.')) {
            *all = true;
            return true;
        }
    }
    *all = take_char(c, '-');
    if (!take_number(c, &n)) {
        return false;
    }
    if (*all) {
        return n == 1;
    }
    *vcpu = n ? (u32)(n - 1) : 0;
    return n <= count;
}

static void set_thread(struct gdbstub *g, struct cursor *c) {
    bool all = false, cont = take_char(c, 'c');
    u32 vcpu = 0;
    if ((!cont && !take_char(c, 'g')) || !take_thread(c, g->vm->vcpu_count, &vcpu, &all)) {
        reply_error(g, E_INVAL);
        return;
    }
    if (cont) {
        g->cont_thread = all ? UINT32_MAX : vcpu;
    } else {
        g->thread = all ? 0 : vcpu;
    }
    reply(g, "OK");
}

static void thread_alive(struct gdbstub *g, struct cursor *c) {
    bool all;
    u32 vcpu;
    if (take_thread(c, g->vm->vcpu_count, &vcpu, &all)) {
        reply(g, "OK");
    } else {
        reply_error(g, E_INVAL);
    }
}

static void thread_info(struct gdbstub *g, bool first) {
    char text[16];
    if (first) {
        g->info_next = 0;
    }
    if (g->info_next >= g->vm->vcpu_count) {
        reply(g, "l");
        return;
    }
    gdb_put(g, "m");
    for (u32 n = 0; n < 32 && g->info_next < g->vm->vcpu_count; n++, g->info_next++) {
        fmt_str(text, sizeof(text), "%s%x", n ? "," : "", g->info_next + 1);
        gdb_put(g, text);
    }
    gdb_flush(g);
}

static void thread_extra(struct gdbstub *g, struct cursor *c) {
    char text[40];
    bool all;
    u32 vcpu = 0;
    if (!take_thread(c, g->vm->vcpu_count, &vcpu, &all) || all) {
        reply_error(g, E_INVAL);
        return;
    }
    const struct vcpu *v = &g->vm->vcpus[vcpu];
    fmt_str(text, sizeof(text), "CPU#%u [%s]", vcpu,
            v->mp_state == MP_RUNNABLE ? "running"
            : v->mp_state == MP_HALTED ? "halted"
                                       : "waiting for SIPI");
    gdb_put_hex(g, (const u8 *)text, str_len(text));
    gdb_flush(g);
}

/* --- registers ---------------------------------------------------------------------------------
 */

static void read_all(struct gdbstub *g) {
    struct cpu_state s;
    u8 buf[GDB_REG_MAX];
    if (vcpu_state_get(&g->vm->vcpus[g->thread], STATE_ALL, &s)) {
        reply_error(g, E_FAULT);
        return;
    }
    for (u32 i = 0; i < gdb_reg_count(); i++) {
        gdb_put_hex(g, buf, gdb_reg_read(&s, i, buf));
    }
    gdb_flush(g);
}

static void read_one(struct gdbstub *g, struct cursor *c) {
    struct cpu_state s;
    u8 buf[GDB_REG_MAX];
    u64 n;
    if (!take_number(c, &n) || n >= gdb_reg_count() ||
        vcpu_state_get(&g->vm->vcpus[g->thread], STATE_ALL, &s)) {
        reply_error(g, E_INVAL);
        return;
    }
    gdb_put_hex(g, buf, gdb_reg_read(&s, (u32)n, buf));
    gdb_flush(g);
}

/* Writes the registers [first, last) from the packet; all or none. */
static int write_regs(struct gdbstub *g, struct cursor *c, u32 first, u32 last) {
    struct vcpu *v = &g->vm->vcpus[g->thread];
    struct cpu_state s;
    u8 buf[GDB_REG_MAX];
    u64 mask = 0;
    int rc = vcpu_state_get(v, STATE_ALL, &s);
    for (u32 i = first; i < last && !rc; i++) {
        u8 old[GDB_REG_MAX];
        u32 size = gdb_reg_read(&s, i, old);
        if (!take_bytes(c, buf, size)) {
            return first + 1 < last && i > first ? 0 : -ERR_INVAL; /* G may be short */
        }
        if (memcmp(buf, old, size) != 0) {
            int changed = gdb_reg_write(&s, i, buf);
            rc = changed < 0 ? changed : 0;
            mask |= rc ? 0 : (u64)changed;
        }
    }
    return rc || !mask ? rc : vcpu_state_set(v, mask, &s);
}

static void write_one(struct gdbstub *g, struct cursor *c) {
    u64 n;
    if (!take_number(c, &n) || !take_char(c, '=') || n >= gdb_reg_count()) {
        reply_error(g, E_INVAL);
        return;
    }
    reply_result(g, write_regs(g, c, (u32)n, (u32)n + 1));
}

/* --- memory ------------------------------------------------------------------------------------
 */

static void read_memory(struct gdbstub *g, struct cursor *c) {
    u8 buf[512];
    u64 address, size;
    if (!take_number(c, &address) || !take_char(c, ',') || !take_number(c, &size)) {
        reply_error(g, E_BAD);
        return;
    }
    size = MIN(size, (u64)MEM_MAX);
    u64 done = 0;
    while (done < size) {
        size_t want = MIN(size - done, sizeof(buf));
        size_t got = gdb_mem_read(g, address + done, buf, want);
        gdb_put_hex(g, buf, got);
        done += got;
        if (got < want) {
            break;
        }
    }
    if (size && !done) {
        reply_error(g, E_FAULT);
    } else {
        gdb_flush(g);
    }
}

static void write_memory(struct gdbstub *g, struct cursor *c) {
    u8 buf[512];
    u64 address, size;
    if (!take_number(c, &address) || !take_char(c, ',') || !take_number(c, &size) ||
        !take_char(c, ':') || size > MEM_MAX || (u64)(c->end - c->at) != 2 * size) {
        reply_error(g, E_BAD);
        return;
    }
    for (u64 done = 0; done < size;) {
        size_t part = MIN(size - done, sizeof(buf));
        if (!take_bytes(c, buf, part) || gdb_mem_write(g, address + done, buf, part) < part) {
            reply_error(g, E_FAULT);
            return;
        }
        done += part;
    }
    reply(g, "OK");
}

/* X: bytes as they are, } escapes the next one (XOR 0x20). */
static void write_binary(struct gdbstub *g, struct cursor *c) {
    u8 buf[512];
    u64 address, size, done = 0;
    if (!take_number(c, &address) || !take_char(c, ',') || !take_number(c, &size) ||
        !take_char(c, ':')) {
        reply_error(g, E_BAD);
        return;
    }
    while (done < size && more(c)) {
        size_t n = 0;
        while (n < sizeof(buf) && done + n < size && more(c)) {
            u8 b = *c->at++;
            if (b == '}' && more(c)) {
                b = *c->at++ ^ 0x20;
            }
            buf[n++] = b;
        }
        if (gdb_mem_write(g, address + done, buf, n) < n) {
            reply_error(g, E_FAULT);
            return;
        }
        done += n;
    }
    if (done < size) {
        reply_error(g, E_BAD);
    } else {
        reply(g, "OK");
    }
}

/* --- running -----------------------------------------------------------------------------------
 */

static u32 step_target(const struct gdbstub *g) {
    return g->cont_thread == UINT32_MAX ? g->thread : g->cont_thread;
}

/* c, s with an optional address; C, S with a signal that a machine has no use for. */
static void resume_old(struct gdbstub *g, struct cursor *c, bool step, bool signal) {
    struct vcpu *v = &g->vm->vcpus[g->thread];
    struct cpu_state s;
    u64 address, number;
    if (signal && (!take_number(c, &number) || (more(c) && !take_char(c, ';')))) {
        reply_error(g, E_BAD);
        return;
    }
    if (take_number(c, &address)) {
        if (vcpu_state_get(v, STATE_ALL, &s)) {
            reply_error(g, E_FAULT);
            return;
        }
        s.rip = address;
        if (vcpu_state_set(v, STATE_GPR, &s)) {
            reply_error(g, E_INVAL);
            return;
        }
    }
    gdb_resume(g, step ? step_target(g) : UINT32_MAX);
}

/* One action of vCont: letter, a signal behind C and S, optionally :thread. */
static bool take_action(struct gdbstub *g, struct cursor *c, bool *step, u32 *vcpu, bool *all) {
    u64 signal;
    bool with_signal;
    *all = true;
    *vcpu = 0;
    if (!more(c)) {
        return false;
    }
    u8 letter = *c->at++;
    with_signal = letter == 'C' || letter == 'S';
    *step = letter == 's' || letter == 'S';
    if (!*step && letter != 'c' && letter != 'C') {
        return false;
    }
    if (with_signal && !take_number(c, &signal)) {
        return false;
    }
    return !take_char(c, ':') || take_thread(c, g->vm->vcpu_count, vcpu, all);
}

/*
 * vCont;action[:thread]... The first action that fits a thread counts. A step names the one vCPU
 * that moves; the others stay (all-stop with the scheduler locked, as QEMU does). Without a step
 * all run.
 */
static void resume_vcont(struct gdbstub *g, struct cursor *c) {
    u32 target = UINT32_MAX;
    bool any = false;
    while (take_char(c, ';')) {
        bool step, all;
        u32 vcpu;
        if (!take_action(g, c, &step, &vcpu, &all)) {
            reply_error(g, E_BAD);
            return;
        }
        if (step && target == UINT32_MAX && !any) {
            target = all ? g->thread : vcpu;
        }
        any = true;
    }
    if (!any || more(c)) {
        reply_error(g, E_BAD);
        return;
    }
    gdb_resume(g, target);
}

/* --- breakpoints -------------------------------------------------------------------------------
 */

static void breakpoint(struct gdbstub *g, struct cursor *c, bool insert) {
    u64 kind, address, length;
    if (!take_number(c, &kind) || !take_char(c, ',') || !take_number(c, &address) ||
        !take_char(c, ',') || !take_number(c, &length)) {
        reply_error(g, E_BAD);
        return;
    }
    if (kind > 4) {
        reply(g, "");
        return;
    }
    length = MIN(length, 0xffffull);
    int rc = insert ? gdb_break_insert(g, (u32)kind, address, (u32)length)
                    : gdb_break_remove(g, (u32)kind, address, (u32)length);
    reply_result(g, insert ? rc : 0);
}

/* --- queries -----------------------------------------------------------------------------------
 */

static void read_features(struct gdbstub *g, struct cursor *c) {
    u64 offset, size;
    if (!take_text(c, "target.xml:") || !take_number(c, &offset) || !take_char(c, ',') ||
        !take_number(c, &size)) {
        reply_error(g, E_BAD);
        return;
    }
    offset = MIN(offset, (u64)g->xml_len);
    size = MIN(MIN(size, (u64)MEM_MAX), g->xml_len - offset);
    gdb_put(g, offset + size < g->xml_len ? "m" : "l");
    for (u64 i = 0; i < size; i++) {
        gdb_put_char(g, (u8)g->xml[offset + i]);
    }
    gdb_flush(g);
}

static void query(struct gdbstub *g, struct cursor *c) {
    char text[160];
    if (take_text(c, "Supported")) {
        fmt_str(text, sizeof(text),
                "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;swbreak+;hwbreak+;"
                "vContSupported+",
                GDB_PACKET_MAX - 4);
        reply(g, text);
    } else if (take_text(c, "Xfer:features:read:")) {
        read_features(g, c);
    } else if (take_text(c, "fThreadInfo")) {
        thread_info(g, true);
    } else if (take_text(c, "sThreadInfo")) {
        thread_info(g, false);
    } else if (take_text(c, "ThreadExtraInfo,")) {
        thread_extra(g, c);
    } else if (take_text(c, "Attached")) {
        reply(g, "1");
    } else if (take_char(c, 'C')) {
        fmt_str(text, sizeof(text), "QC%x", g->thread + 1);
        reply(g, text);
    } else {
        reply(g, "");
    }
}

static void set(struct gdbstub *g, struct cursor *c) {
    if (take_text(c, "StartNoAckMode")) {
        reply(g, "OK");
        g->no_ack = true;
    } else {
        reply(g, "");
    }
}

static void kill_machine(struct gdbstub *g) {
    vm_stop(g->vm, STOP_USER, 0, "the debugger killed the machine");
    gdbstub_disconnected(g);
}

static void verbose(struct gdbstub *g, struct cursor *c) {
    if (take_text(c, "Cont?")) {
        reply(g, "vCont;c;C;s;S");
    } else if (take_text(c, "Cont")) {
        resume_vcont(g, c);
    } else if (take_text(c, "Kill")) {
        reply(g, "OK");
        kill_machine(g);
    } else {
        reply(g, "");
    }
}

/* --- dispatch ----------------------------------------------------------------------------------
 */

static void command_rest(struct gdbstub *g, u8 letter, struct cursor *c) {
    switch (letter) {
    case 'c':
    case 's':
        resume_old(g, c, letter == 's', false);
        break;
    case 'C':
    case 'S':
        resume_old(g, c, letter == 'S', true);
        break;
    case 'v':
        verbose(g, c);
        break;
    case 'q':
        query(g, c);
        break;
    case 'Q':
        set(g, c);
        break;
    case 'Z':
    case 'z':
        breakpoint(g, c, letter == 'Z');
        break;
    case 'D':
        reply(g, "OK");
        gdbstub_disconnected(g);
        break;
    case 'k':
        kill_machine(g);
        break;
    default:
        reply(g, "");
        break;
    }
}

void gdb_command(struct gdbstub *g) {
    struct cursor c = {g->in, g->in + g->in_len};
    u8 letter = more(&c) ? *c.at++ : 0;
    if (g->running && letter != 'k') {
        return; /* all-stop: only an interrupt means something while the machine runs */
    }
    switch (letter) {
    case '?':
        gdb_report(g);
        break;
    case 'g':
        read_all(g);
        break;
    case 'G':
        reply_result(g, write_regs(g, &c, 0, gdb_reg_count()));
        break;
    case 'p':
        read_one(g, &c);
        break;
    case 'P':
        write_one(g, &c);
        break;
    case 'm':
        read_memory(g, &c);
        break;
    case 'M':
        write_memory(g, &c);
        break;
    case 'X':
        write_binary(g, &c);
        break;
    case 'H':
        set_thread(g, &c);
        break;
    case 'T':
        thread_alive(g, &c);
        break;
    default:
        command_rest(g, letter, &c);
        break;
    }
}
