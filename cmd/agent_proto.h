/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `sosia exec` and the agent in the guest (guests/agent/agent.c) say to each other on a vsock
 * stream; docs/exec.md describes it. Both include this file, which needs nothing but <stdint.h>.
 *
 * A frame is 8 bytes of head and up to AGENT_PAYLOAD_MAX bytes, all numbers little-endian:
 *
 *   0        4      5          8
 *   | length | type | 0  0  0  | payload ...
 *
 * Each side's first frame is AGENT_HELLO. The version spoken is the smaller of the two.
 */
#ifndef CMD_AGENT_PROTO_H
#define CMD_AGENT_PROTO_H

#include <stdint.h>

enum {
    AGENT_PORT = 512, /* of the guest; below 1024: only its root can listen there */
    AGENT_VERSION = 1,
    AGENT_HEAD = 8,
    AGENT_PAYLOAD_MAX = 65536,
    AGENT_DATA_MAX = 32768, /* bytes of output in one frame, and of input */
    AGENT_WINDOW = 131072, /* bytes of input that may be under way, until AGENT_CREDIT gives more */
    AGENT_ARGS_MAX = 4096, /* of them, and of variables */
    AGENT_HELLO_SIZE = 8,  /* "SXAG", u16 version, u16 zero */
    AGENT_EXEC_HEAD = 12,
    AGENT_TEXT_MAX = 512, /* of AGENT_ERROR */
};

#define AGENT_MAGIC "SXAG"

enum agent_type {
    AGENT_HELLO = 1,
    /* To the agent. */
    AGENT_EXEC = 0x10, /* once: u16 flags, rows, columns, arguments, variables, zero; then, each
                          ended by a 0, user, folder ("": as it is), arguments, NAME=VALUEs */
    AGENT_STDIN = 0x11,
    AGENT_STDIN_END = 0x12,
    AGENT_RESIZE = 0x13,   /* u16 rows, columns */
    AGENT_SIGNAL = 0x14,   /* u8, Linux' number, to the command's process group */
    AGENT_SET_TIME = 0x15, /* s64 seconds since 1970, u32 nanoseconds; instead of AGENT_EXEC */
    /* From the agent. */
    AGENT_STARTED = 0x20, /* u32 process */
    AGENT_STDOUT = 0x21,
    AGENT_STDERR = 0x22,
    AGENT_CREDIT = 0x23, /* u32: so many bytes of input more */
    AGENT_EXIT = 0x24,   /* u8 1: ended by a signal, u8 status or signal; the last frame */
    AGENT_ERROR = 0x25,  /* u16 errno of Linux, text; the last frame */
    AGENT_DONE = 0x26,   /* the time is set; the last frame */
};

enum { AGENT_FLAG_TTY = 1 };

#endif
