/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SMBIOS (DMTF DSP0134 3.4): the 64-bit entry point and the structures that tools look for: BIOS
 * (type 0), system (1), chassis (3) and the end (127). The virtual-machine bit of type 0 is set.
 */
#include "core/base/fmt.h"
#include "core/boot/layout.h"
#include "core/boot/platform.h"

struct smbios_entry {
    char anchor[5];
    u8 checksum, length, major, minor, docrev, revision, reserved;
    u32 max_size;
    u64 table;
} PACKED;

_Static_assert(sizeof(struct smbios_entry) == 24, "64-bit entry point");

enum { TYPE_BIOS = 0, TYPE_SYSTEM = 1, TYPE_CHASSIS = 3, TYPE_END = 127 };

struct table {
    u8 bytes[512];
    size_t len;
};

/* One structure and its strings, each with its NUL, and a NUL behind the last. */
static void add(struct table *t, const u8 *formatted, size_t n, const char *const *strings) {
    memcpy(t->bytes + t->len, formatted, n);
    t->len += n;
    for (; strings && *strings; strings++) {
        memcpy(t->bytes + t->len, *strings, str_len(*strings) + 1);
        t->len += str_len(*strings) + 1;
    }
    t->len += strings ? 1 : 2;
}

static void add_all(struct table *t, const struct platform *p) {
    static const char *const bios_strings[] = {"Sosia", "1", "01/01/2026", NULL};
    static const char *const system_strings[] = {"Sosia", "Virtual PC", "1", NULL};
    static const char *const chassis_strings[] = {"Sosia", NULL};
    u8 bios[24] = {TYPE_BIOS, sizeof(bios), 0, 0, 1, 2, 0, 0xf0, 3};
    u8 system[27] = {TYPE_SYSTEM, sizeof(system), 1, 0, 1, 2, 3, 0};
    u8 chassis[21] = {TYPE_CHASSIS, sizeof(chassis), 2, 0, 1, 1, 0, 0, 0, 3, 3, 3, 2};
    u8 end[4] = {TYPE_END, sizeof(end), 3, 0};
    bios[10] = 1 << 3; /* characteristics not supported */
    bios[19] = 1 << 4; /* extension byte 2: virtual machine */
    memcpy(system + 8, p->uuid, sizeof(p->uuid));
    system[24] = 6; /* woken by the power switch */
    add(t, bios, sizeof(bios), bios_strings);
    add(t, system, sizeof(system), system_strings);
    add(t, chassis, sizeof(chassis), chassis_strings);
    add(t, end, sizeof(end), NULL);
}

int smbios_write(const struct platform *p, struct ram *ram, struct err *err) {
    struct smbios_entry e = {.length = sizeof(e), .major = 3, .minor = 4, .revision = 1};
    struct table t = {0};
    u8 sum = 0, bytes[sizeof(e)];
    add_all(&t, p);
    memcpy(e.anchor, "_SM3_", 5);
    e.max_size = (u32)t.len;
    e.table = LAYOUT_SMBIOS + 32;
    memcpy(bytes, &e, sizeof(e));
    for (size_t i = 0; i < sizeof(bytes); i++) {
        sum = (u8)(sum + bytes[i]);
    }
    e.checksum = (u8)(0u - sum);
    int rc = ram_write(ram, LAYOUT_SMBIOS, &e, sizeof(e));
    rc = rc ? rc : ram_write(ram, e.table, t.bytes, t.len);
    return rc ? ERR_SET(err, ERR_RANGE, "memory: less than 1 MiB, too small for SMBIOS") : 0;
}
