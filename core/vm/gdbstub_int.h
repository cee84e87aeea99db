/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the debugger's stub share. */
#ifndef CORE_VM_GDBSTUB_INT_H
#define CORE_VM_GDBSTUB_INT_H

#include "core/vm/gdbstub.h"

enum {
    GDB_PACKET_MAX = 16384, /* bytes of a packet's payload, both ways */
    GDB_SOFT_MAX = 256,
    GDB_HARD_MAX = 4,
    GDB_XML_MAX = 16384,
    GDB_REG_MAX = 16, /* bytes of the largest register */
};

struct gdb_soft { /* an int3 in guest memory */
    bool used;
    u64 address; /* linear */
    u64 gpa;
    u8 original;
};

struct gdb_hard { /* a debug register */
    bool used;
    u8 kind; /* 1 execute, 2 write, 3 read, 4 access: the packet's number */
    u8 length;
    u64 address;
};

enum gdb_parse { PARSE_IDLE, PARSE_DATA, PARSE_SUM1, PARSE_SUM2 };

struct gdbstub {
    struct vm *vm;
    struct host *host;
    void (*send)(void *ctx, const u8 *data, size_t len);
    void *send_ctx;
    bool connected, no_ack, running;
    bool dead; /* destroyed while a post was on its way, which then frees */

    /* input */
    enum gdb_parse parse;
    u8 in[GDB_PACKET_MAX + 1];
    size_t in_len;
    u8 sum;     /* of the bytes so far */
    u8 sum_got; /* first digit of the checksum */
    bool too_long;

    /* output: the payload, built in place and sent with its frame */
    u8 out[GDB_PACKET_MAX + 8];
    size_t out_len;
    size_t last_len; /* of the framed packet in out, for a repetition */

    u32 thread;      /* vCPU that g, m, ... mean */
    u32 cont_thread; /* vCPU that c, s mean; UINT32_MAX: all */
    u32 info_next;   /* qsThreadInfo */
    u32 owed;        /* vm_resume calls we owe, under lock */
    u32 stop_signal; /* of the last stop, for ? */
    struct vm_exit stop_exit;

    struct gdb_soft soft[GDB_SOFT_MAX]; /* under lock for writing */
    struct gdb_hard hard[GDB_HARD_MAX];

    struct mutex lock; /* what vCPU threads look at: soft, owed, the event */
    bool event;        /* a vCPU stopped; not reported yet */
    bool posted;
    u32 event_vcpu;
    struct vm_exit event_exit;

    char xml[GDB_XML_MAX];
    size_t xml_len;
};

/* --- gdbstub.c ---------------------------------------------------------------------------------
 */

int gdb_hex(u8 c); /* 0..15, -1 */
/* Build a reply; bytes beyond GDB_PACKET_MAX are dropped. */
void gdb_put_char(struct gdbstub *g, u8 c);
void gdb_put(struct gdbstub *g, const char *text);
void gdb_put_hex(struct gdbstub *g, const u8 *data, size_t n);
void gdb_flush(struct gdbstub *g);
void gdb_report(struct gdbstub *g); /* the last stop */
/* Lets the machine run, or one vCPU step (UINT32_MAX: none steps). */
void gdb_resume(struct gdbstub *g, u32 step);

/* --- gdb_cmd.c: g->in holds a packet's payload, NUL-terminated ------------------------------- */

void gdb_command(struct gdbstub *g);

/* --- gdb_mem.c ---------------------------------------------------------------------------------
 */

/* Linear memory as the vCPU sees it, with our breakpoints hidden. Bytes done from the start. */
size_t gdb_mem_read(struct gdbstub *g, u64 address, u8 *buf, size_t size);
size_t gdb_mem_write(struct gdbstub *g, u64 address, const u8 *buf, size_t size);
/* kind: 0 software, 1 hardware, 2 write, 3 read, 4 access. 0 or a negative code. */
int gdb_break_insert(struct gdbstub *g, u32 kind, u64 address, u32 length);
int gdb_break_remove(struct gdbstub *g, u32 kind, u64 address, u32 length);
void gdb_break_clear(struct gdbstub *g);
bool gdb_break_at(struct gdbstub *g, u64 address);
/* Debug registers and stepping to every vCPU. step: which one steps, UINT32_MAX none. */
void gdb_debug_apply(struct gdbstub *g, u32 step);

/* --- gdb_regs.c --------------------------------------------------------------------------------
 */

u32 gdb_reg_count(void);
/* Size in bytes, and the value into buf (GDB_REG_MAX). */
u32 gdb_reg_read(const struct cpu_state *s, u32 reg, u8 *buf);
u32 gdb_reg_size(u32 reg);
/* Changes s; returns the STATE_* groups that changed, or a negative code. */
int gdb_reg_write(struct cpu_state *s, u32 reg, const u8 *buf);
/* target.xml: names, sizes and types in the order of the numbers. Bytes written. */
size_t gdb_target_xml(char *buf, size_t size);

#endif
