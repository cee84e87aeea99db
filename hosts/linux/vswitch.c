/* SPDX-License-Identifier: Apache-2.0 */
/* The learning switch; see vswitch.h. The table is open addressing with linear probing; it is never
 * more than half full, because ports are limited. */
#include "hosts/linux/vswitch.h"

#include <string.h>

#include "core/base/err.h"

static u64 mac_key(u16 vlan, const u8 *mac) {
    u64 key = vlan;
    for (u32 i = 0; i < 6; i++) {
        key = key << 8 | mac[i];
    }
    return key + 1;
}

static u32 slot_of(u64 key) {
    key *= 0x9e3779b97f4a7c15ull;
    return (u32)(key >> 40) & (VSWITCH_SLOTS - 1);
}

static bool is_group(const u8 *mac) {
    return mac[0] & 1;
}

/* The entry, or the free one where it would go. */
static struct vswitch_mac *table_find(struct vswitch *sw, u64 key) {
    u32 at = slot_of(key);
    while (sw->table[at].key && sw->table[at].key != key) {
        at = (at + 1) & (VSWITCH_SLOTS - 1);
    }
    return &sw->table[at];
}

/* Removes an entry and moves up those behind it that it had pushed away. */
static void table_remove(struct vswitch *sw, struct vswitch_mac *e) {
    u32 hole = (u32)(e - sw->table), at = hole;
    sw->port[e->port].macs--;
    for (;;) {
        at = (at + 1) & (VSWITCH_SLOTS - 1);
        struct vswitch_mac *next = &sw->table[at];
        if (!next->key) {
            break;
        }
        u32 home = slot_of(next->key);
        if (((at - home) & (VSWITCH_SLOTS - 1)) >= ((at - hole) & (VSWITCH_SLOTS - 1))) {
            sw->table[hole] = *next;
            hole = at;
        }
    }
    sw->table[hole] = (struct vswitch_mac){0};
}

static struct vswitch_mac *table_add(struct vswitch *sw, u64 key, u32 port, u64 now_ns) {
    struct vswitch_mac *e = table_find(sw, key);
    *e = (struct vswitch_mac){.key = key, .seen_ns = now_ns, .port = (u16)port};
    sw->port[port].macs++;
    return e;
}

static bool is_ports(const struct vswitch *sw, u32 slot, u32 port) {
    return sw->table[slot].key && sw->table[slot].port == port;
}

/* Drops addresses of a port that were not seen for long; once a second at most. */
static void port_age(struct vswitch *sw, u32 port, u64 now_ns) {
    struct vswitch_port *p = &sw->port[port];
    if (now_ns - p->aged_ns < NSEC_PER_SEC) {
        return;
    }
    p->aged_ns = now_ns;
    for (u32 i = 0; i < VSWITCH_SLOTS; i++) {
        while (is_ports(sw, i, port) && !sw->table[i].pinned &&
               now_ns - sw->table[i].seen_ns > VSWITCH_AGE_NS) {
            table_remove(sw, &sw->table[i]);
        }
    }
}

/* --- plugging --------------------------------------------------------------------------------- */

static int port_free(const struct vswitch *sw) {
    for (u32 i = 0; i < VSWITCH_PORTS; i++) {
        if (!sw->port[i].used) {
            return (int)i;
        }
    }
    return -ERR_NOMEM;
}

/* An address that nobody pinned in this VLAN. Learnt ones give way to it. */
static int mac_choose(struct vswitch *sw, u16 vlan, u8 mac[6], bool generated) {
    for (u32 tries = 0; tries <= VSWITCH_PORTS; tries++) {
        struct vswitch_mac *e = table_find(sw, mac_key(vlan, mac));
        if (e->key && !e->pinned) {
            table_remove(sw, e);
            return 0;
        }
        if (!e->key) {
            return 0;
        }
        if (!generated) {
            break;
        }
        mac[5]++;
        mac[4] = (u8)(mac[4] + !mac[5]);
    }
    return -ERR_EXISTS;
}

int vswitch_plug(struct vswitch *sw, u16 vlan, u8 mac[6], bool generated, u64 now_ns) {
    int port = port_free(sw);
    if (vlan > VSWITCH_VLAN_MAX) {
        return -ERR_RANGE;
    }
    if (port < 0) {
        return port;
    }
    if (is_group(mac)) {
        return -ERR_INVAL;
    }
    int rc = mac_choose(sw, vlan, mac, generated);
    if (rc) {
        return rc;
    }
    sw->port[port] = (struct vswitch_port){.used = true, .vlan = vlan};
    memcpy(sw->port[port].mac, mac, 6);
    table_add(sw, mac_key(vlan, mac), (u32)port, now_ns)->pinned = true;
    sw->high = MAX(sw->high, (u32)port + 1);
    return port;
}

void vswitch_unplug(struct vswitch *sw, u32 port) {
    /* round and round: what moves up when an entry goes may pass behind the search */
    for (u32 i = 0; sw->port[port].macs; i = (i + 1) & (VSWITCH_SLOTS - 1)) {
        while (is_ports(sw, i, port)) {
            table_remove(sw, &sw->table[i]);
        }
    }
    sw->port[port] = (struct vswitch_port){0};
}

/* --- frames ----------------------------------------------------------------------------------- */

/* False: the source address is not the port's to use. */
static bool learn(struct vswitch *sw, u32 port, const u8 *mac, u64 now_ns) {
    struct vswitch_port *p = &sw->port[port];
    u64 key = mac_key(p->vlan, mac);
    struct vswitch_mac *e = table_find(sw, key);
    if (is_group(mac)) {
        return false;
    }
    if (e->key && e->port == port) {
        e->seen_ns = now_ns;
        return true;
    }
    if (e->key && (e->pinned || now_ns - e->seen_ns < VSWITCH_MOVE_NS)) {
        return false;
    }
    if (e->key) {
        table_remove(sw, e);
    }
    if (p->macs >= VSWITCH_MACS_PER_PORT) {
        port_age(sw, port, now_ns);
    }
    if (p->macs < VSWITCH_MACS_PER_PORT) {
        table_add(sw, key, port, now_ns);
    }
    return true;
}

/* May the port send a frame to all once more? */
static bool may_flood(struct vswitch_port *p, u64 now_ns) {
    if (now_ns - p->flood_window >= VSWITCH_FLOOD_NS) {
        p->flood_window = now_ns;
        p->floods = 0;
    }
    if (p->floods >= VSWITCH_FLOODS) {
        p->flooded++;
        return false;
    }
    p->floods++;
    return true;
}

void vswitch_frame(struct vswitch *sw, u32 port, const u8 *frame, u32 len, u64 now_ns,
                   struct vswitch_set *to) {
    struct vswitch_port *p = &sw->port[port];
    *to = (struct vswitch_set){0};
    p->frames++;
    p->bytes += len;
    if (!learn(sw, port, frame + 6, now_ns)) {
        p->spoofed++;
        return;
    }
    if (!is_group(frame)) {
        struct vswitch_mac *e = table_find(sw, mac_key(p->vlan, frame));
        if (e->key) {
            if (e->port != port) {
                to->bits[e->port / 64] |= BIT(e->port % 64);
            }
            return;
        }
    }
    if (!may_flood(p, now_ns)) {
        return;
    }
    for (u32 i = 0; i < sw->high; i++) {
        if (i != port && sw->port[i].used && sw->port[i].vlan == p->vlan) {
            to->bits[i / 64] |= BIT(i % 64);
        }
    }
}
