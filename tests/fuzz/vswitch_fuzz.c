/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the switch: ports come and go, frames from few addresses so that they collide, time
 * passes. No frame may leave its VLAN, and the table must agree with itself. */
#include <stdlib.h>
#include <string.h>

#include "hosts/linux/vswitch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct vswitch *sw) {
    u32 count[VSWITCH_PORTS] = {0};
    for (u32 i = 0; i < VSWITCH_SLOTS; i++) {
        const struct vswitch_mac *e = &sw->table[i];
        if (e->key && (!sw->port[e->port].used || ++count[e->port] > VSWITCH_MACS_PER_PORT ||
                       (e->key - 1) >> 48 != sw->port[e->port].vlan)) {
            abort();
        }
    }
    for (u32 p = 0; p < VSWITCH_PORTS; p++) {
        if (count[p] != sw->port[p].macs) {
            abort();
        }
    }
}

static void frame(struct vswitch *sw, u32 port, const uint8_t *d, u64 now) {
    u8 f[60] = {(u8)(d[0] & 3),  0,   0, 0, d[1], d[2], (u8)(d[3] & 3), 0, 0, 0,
                (u8)(d[3] >> 4), d[4]};
    struct vswitch_set to;
    vswitch_frame(sw, port, f, sizeof(f), now, &to);
    for (u32 p = 0; p < VSWITCH_PORTS; p++) {
        if (vswitch_has(&to, p) &&
            (p == port || !sw->port[p].used || sw->port[p].vlan != sw->port[port].vlan)) {
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct vswitch sw;
    u64 now = NSEC_PER_SEC;
    memset(&sw, 0, sizeof(sw));
    for (; size >= 8; data += 8, size -= 8) {
        u32 port = data[1];
        now += (u64)(data[2] & 15) * data[7] * (NSEC_PER_SEC / 100);
        if (data[0] < 40) {
            u8 mac[6] = {(u8)(data[3] & 3), 0, 0, 0, (u8)(data[3] >> 4), data[4]};
            vswitch_plug(&sw, (u16)(data[5] & 1 ? data[6] : data[5] & 2), mac, data[5] & 4, now);
        } else if (sw.port[port].used && data[0] < 50) {
            vswitch_unplug(&sw, port);
        } else if (sw.high && sw.port[port % sw.high].used) {
            frame(&sw, port % sw.high, data + 3, now);
        }
    }
    check(&sw);
    return 0;
}
