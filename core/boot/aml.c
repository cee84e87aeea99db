/* SPDX-License-Identifier: Apache-2.0 */
/* The AML writer; see aml.h. Blocks are written without their PkgLength, which aml_end inserts. */
#include "core/boot/aml.h"

#include "core/base/fmt.h"

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    PREFIX_DUAL_NAME = 0x2e,
    OP_EXT = 0x5b,
    OP_EXT_DEVICE = 0x82,
    OP_NOTIFY = 0x86,
    OP_RETURN = 0xa4,
    RES_IRQ = 0x22,
    RES_IO = 0x47,
    RES_END = 0x79,
    RES_MEMORY32 = 0x86,
    RES_DWORD = 0x87,
    RES_WORD = 0x88,
    RES_INTERRUPT = 0x89,
    RES_QWORD = 0x8a,
    SPACE_MEMORY = 0,
    SPACE_IO = 1,
    SPACE_BUS = 2,
    SPACE_FIXED = 0x0c, /* both limits fixed, positive decode, producer */
    METHOD_SERIALIZED = 1 << 3,
};

static void put(struct aml *a, const void *data, size_t n) {
    if (a->failed || n > a->cap - a->len) {
        a->failed = true;
        return;
    }
    memcpy(a->buf + a->len, data, n);
    a->len += n;
}

static void put_le(struct aml *a, u64 value, u32 size) {
    put(a, &value, size);
}

static void put8(struct aml *a, u8 v) {
    put(a, &v, 1);
}

size_t aml_scope(struct aml *a, const char *path) {
    put8(a, OP_SCOPE);
    size_t at = a->len;
    put(a, path, str_len(path));
    return at;
}

size_t aml_device(struct aml *a, const char *name) {
    put8(a, OP_EXT);
    put8(a, OP_EXT_DEVICE);
    size_t at = a->len;
    put(a, name, 4);
    return at;
}

size_t aml_method(struct aml *a, const char *name, u8 args) {
    put8(a, OP_METHOD);
    size_t at = a->len;
    put(a, name, 4);
    put8(a, args | METHOD_SERIALIZED);
    return at;
}

/* PkgLength counts itself: 6 bits in one byte, else 4 bits and one or two more bytes. */
void aml_end(struct aml *a, size_t block) {
    size_t body = a->len - block;
    size_t extra = body + 1 <= 0x3f ? 0 : body + 2 <= 0xfff ? 1 : 2;
    size_t total = body + 1 + extra;
    u8 length[3] = {(u8)total};
    if (extra) {
        length[0] = (u8)(extra << 6 | (total & 0xf));
        length[1] = (u8)(total >> 4);
        length[2] = (u8)(total >> 12);
    }
    put(a, length, 1 + extra); /* makes room, or fails */
    if (a->failed || total > 0xfffff) {
        a->failed = true;
        return;
    }
    memmove(a->buf + block + 1 + extra, a->buf + block, body);
    memcpy(a->buf + block, length, 1 + extra);
}

void aml_name(struct aml *a, const char *name) {
    put8(a, OP_NAME);
    put(a, name, 4);
}

void aml_int(struct aml *a, u64 v) {
    if (v <= 1) {
        put8(a, v ? OP_ONE : OP_ZERO);
    } else if (v <= 0xff) {
        put8(a, OP_BYTE);
        put_le(a, v, 1);
    } else if (v <= 0xffff) {
        put8(a, OP_WORD);
        put_le(a, v, 2);
    } else if (v <= 0xffffffff) {
        put8(a, OP_DWORD);
        put_le(a, v, 4);
    } else {
        put8(a, OP_QWORD);
        put_le(a, v, 8);
    }
}

void aml_string(struct aml *a, const char *text) {
    put8(a, OP_STRING);
    put(a, text, str_len(text) + 1);
}

void aml_name_int(struct aml *a, const char *name, u64 value) {
    aml_name(a, name);
    aml_int(a, value);
}

void aml_name_string(struct aml *a, const char *name, const char *text) {
    aml_name(a, name);
    aml_string(a, text);
}

static u32 hex_digit(char c) {
    return (u32)(c <= '9' ? c - '0' : c - 'A' + 10) & 0xf;
}

/* Three letters of 5 bits, four hexadecimal digits, stored big-endian. */
void aml_name_eisaid(struct aml *a, const char *name, const char *id) {
    u32 v = ((u32)id[0] & 0x1f) << 26 | ((u32)id[1] & 0x1f) << 21 | ((u32)id[2] & 0x1f) << 16 |
            hex_digit(id[3]) << 12 | hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 |
            hex_digit(id[6]);
    aml_name(a, name);
    put8(a, OP_DWORD);
    put_le(a, __builtin_bswap32(v), 4);
}

void aml_return_int(struct aml *a, u64 value) {
    put8(a, OP_RETURN);
    aml_int(a, value);
}

void aml_notify(struct aml *a, const char *scope, const char *name, u8 value) {
    put8(a, OP_NOTIFY);
    put8(a, '\\');
    put8(a, PREFIX_DUAL_NAME);
    put(a, scope, 4);
    put(a, name, 4);
    aml_int(a, value);
}

size_t aml_package(struct aml *a, u8 count) {
    put8(a, OP_PACKAGE);
    size_t at = a->len;
    put8(a, count);
    return at;
}

/* The buffer's size is always a word, so that it can be filled in later. */
struct aml_resources aml_resources(struct aml *a, const char *name) {
    struct aml_resources r;
    aml_name(a, name);
    put8(a, OP_BUFFER);
    r.block = a->len;
    put8(a, OP_WORD);
    r.size_at = a->len;
    put_le(a, 0, 2);
    return r;
}

void aml_resources_end(struct aml *a, struct aml_resources r) {
    put8(a, RES_END);
    put8(a, 0); /* checksum 0: not used */
    size_t size = a->len - r.size_at - 2;
    if (!a->failed) {
        a->buf[r.size_at] = (u8)size;
        a->buf[r.size_at + 1] = (u8)(size >> 8);
    }
    aml_end(a, r.block);
}

void aml_io(struct aml *a, u16 port, u8 length) {
    put8(a, RES_IO);
    put8(a, 1); /* decodes 16 bits */
    put_le(a, port, 2);
    put_le(a, port, 2);
    put8(a, 1);
    put8(a, length);
}

void aml_irq(struct aml *a, u8 irq) {
    put8(a, RES_IRQ);
    put_le(a, BIT(irq & 15), 2);
}

void aml_interrupt(struct aml *a, u32 gsi) {
    put8(a, RES_INTERRUPT);
    put_le(a, 6, 2);
    put8(a, 1 | 1 << 3); /* consumer, level, active high, shared */
    put8(a, 1);
    put_le(a, gsi, 4);
}

void aml_memory32(struct aml *a, u32 base, u32 size) {
    put8(a, RES_MEMORY32);
    put_le(a, 9, 2);
    put8(a, 1);
    put_le(a, base, 4);
    put_le(a, size, 4);
}

/* Word, DWord and QWord address space descriptors differ by the width of their five numbers. */
static void window(struct aml *a, u8 tag, u8 space, u8 type_flags, u64 first, u64 last) {
    u32 width = tag == RES_WORD ? 2 : tag == RES_DWORD ? 4 : 8;
    put8(a, tag);
    put_le(a, 3 + 5 * width, 2);
    put8(a, space);
    put8(a, SPACE_FIXED);
    put8(a, type_flags);
    put_le(a, 0, width);
    put_le(a, first, width);
    put_le(a, last, width);
    put_le(a, 0, width);
    put_le(a, last - first + 1, width);
}

void aml_bus_numbers(struct aml *a, u16 first, u16 last) {
    window(a, RES_WORD, SPACE_BUS, 0, first, last);
}

void aml_io_window(struct aml *a, u16 first, u16 last) {
    window(a, RES_WORD, SPACE_IO, 3, first, last); /* the entire range */
}

void aml_memory_window32(struct aml *a, u32 first, u32 last) {
    window(a, RES_DWORD, SPACE_MEMORY, 1, first, last); /* not cacheable, read and write */
}

void aml_memory_window64(struct aml *a, u64 first, u64 last) {
    window(a, RES_QWORD, SPACE_MEMORY, 1, first, last);
}
