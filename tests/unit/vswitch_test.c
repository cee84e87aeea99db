/* SPDX-License-Identifier: Apache-2.0 */
/* The switch between machines: learning, VLANs, spoofed and flooding ports, addresses that run out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "hosts/linux/vswitch.h"

static struct vswitch *sw;
static u64 now = 1000 * NSEC_PER_SEC;

static int setup(void **state) {
    (void)state;
    sw = calloc(1, sizeof(*sw));
    return !sw;
}

static int teardown(void **state) {
    (void)state;
    free(sw);
    return 0;
}

static u32 plug(u16 vlan, u8 n) {
    u8 mac[6] = {2, 0, 0, 0, 0, n};
    int port = vswitch_plug(sw, vlan, mac, false, now);
    assert_true(port >= 0);
    return (u32)port;
}

/* Sends a frame from port with source 02::src to 02::dst (0xff: to all); the ports as a bit mask.
 */
static u64 sends(u32 port, u32 src, u32 dst) {
    u8 f[60] = {2, 0, 0, (u8)(dst >> 16), (u8)(dst >> 8), (u8)dst,
                2, 0, 0, (u8)(src >> 16), (u8)(src >> 8), (u8)src};
    struct vswitch_set to;
    if (dst == 0xff) {
        memset(f, 0xff, 6);
    }
    vswitch_frame(sw, port, f, sizeof(f), now, &to);
    assert_int_equal(to.bits[1] | to.bits[2] | to.bits[3], 0);
    assert_false(vswitch_has(&to, port));
    return to.bits[0];
}

static void learning(void **state) {
    (void)state;
    u32 a = plug(0, 1), b = plug(0, 2), c = plug(0, 3);
    assert_int_equal(sends(a, 1, 0xff), BIT(b) | BIT(c));
    assert_int_equal(sends(a, 1, 2), BIT(b)); /* known since it was plugged */
    assert_int_equal(sends(a, 1, 99), BIT(b) | BIT(c));
    assert_int_equal(sends(c, 99, 1), BIT(a)); /* a second address behind c */
    assert_int_equal(sends(a, 1, 99), BIT(c));
    assert_int_equal(sends(c, 3, 99), 0); /* its own */
    vswitch_unplug(sw, c);
    assert_int_equal(sends(a, 1, 99), BIT(b)); /* forgotten */
    assert_int_equal(sends(a, 1, 3), BIT(b));
    assert_int_equal(plug(0, 3), c);
    assert_int_equal(sends(a, 1, 3), BIT(c));
}

static void vlans(void **state) {
    (void)state;
    u32 a = plug(7, 1), b = plug(7, 2), c = plug(8, 1), d = plug(8, 2), e = plug(0, 1);
    assert_int_equal(sends(a, 1, 0xff), BIT(b));
    assert_int_equal(sends(c, 1, 0xff), BIT(d));
    assert_int_equal(sends(e, 1, 0xff), 0);
    assert_int_equal(sends(a, 1, 2), BIT(b)); /* the same addresses, other networks */
    assert_int_equal(sends(c, 1, 2), BIT(d));
    assert_int_equal(sends(d, 50, 0xff), BIT(c));
    assert_int_equal(sends(a, 1, 50), BIT(b)); /* what 8 learnt is nothing to 7 */
    /* a tag inside the frame changes nothing */
    u8 f[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 8};
    struct vswitch_set to;
    vswitch_frame(sw, a, f, sizeof(f), now, &to);
    assert_int_equal(to.bits[0], BIT(b));
}

static void spoofing(void **state) {
    (void)state;
    u32 a = plug(0, 1), b = plug(0, 2), c = plug(0, 3);
    assert_int_equal(sends(c, 1, 2), 0); /* c says it is a */
    assert_int_equal(sw->port[c].spoofed, 1);
    assert_int_equal(sends(b, 2, 1), BIT(a));
    assert_int_equal(sends(a, 60, 2), BIT(b)); /* learnt, not a's own: */
    assert_int_equal(sends(c, 60, 2), 0);      /* not taken from a live port */
    now += VSWITCH_MOVE_NS;
    assert_int_equal(sends(c, 60, 2), BIT(b)); /* but from one that has long been silent */
    assert_int_equal(sends(b, 2, 60), BIT(c));
    u8 group[60] = {2, 0, 0, 0, 0, 1, 3};
    struct vswitch_set to;
    vswitch_frame(sw, c, group, sizeof(group), now, &to);
    assert_int_equal(to.bits[0], 0);
}

static void address_flood(void **state) {
    (void)state;
    u32 a = plug(0, 1), b = plug(0, 2), c = plug(0, 3);
    sends(b, 70, 1);
    for (u32 i = 0; i < 100000; i++) {
        now += NSEC_PER_SEC / 10000;
        sends(c, 1000 + i, 1);
    }
    assert_int_equal(sw->port[c].macs, VSWITCH_MACS_PER_PORT);
    assert_int_equal(sends(a, 1, 70), BIT(b)); /* the others' places are theirs */
    now += 2 * VSWITCH_AGE_NS;
    sends(c, 5000000, 1); /* its old ones make room */
    assert_int_equal(sw->port[c].macs, 2);
    vswitch_unplug(sw, c);
    assert_int_equal(sends(a, 1, 1000), BIT(b));
}

static void frame_flood(void **state) {
    (void)state;
    u32 a = plug(0, 1), b = plug(0, 2), passed = 0;
    for (u32 i = 0; i < 3 * VSWITCH_FLOODS; i++) {
        passed += sends(a, 1, 0xff) != 0;
    }
    assert_int_equal(passed, VSWITCH_FLOODS);
    assert_int_equal(sends(a, 1, 2), BIT(b)); /* those with an address go on */
    assert_int_equal(sends(b, 2, 0xff), BIT(a));
    now += VSWITCH_FLOOD_NS;
    assert_int_equal(sends(a, 1, 0xff), BIT(b));
}

static void addresses(void **state) {
    (void)state;
    u8 mac[6] = {2, 0, 0, 0, 0, 0xfe}, group[6] = {1}, same[6] = {2, 0, 0, 0, 0, 0xfe};
    assert_int_equal(vswitch_plug(sw, 4095, mac, true, now), -ERR_RANGE);
    assert_int_equal(vswitch_plug(sw, 0, group, true, now), -ERR_INVAL);
    for (u32 i = 0; i < VSWITCH_PORTS; i++) {
        memcpy(mac, same, 6);
        assert_int_equal(vswitch_plug(sw, 0, mac, true, now), i);
        assert_int_equal(mac[5], (u8)(0xfe + i));
        assert_int_equal(mac[4], (0xfe + i) >> 8);
    }
    assert_int_equal(vswitch_plug(sw, 0, mac, true, now), -ERR_NOMEM);
    vswitch_unplug(sw, 9);
    assert_int_equal(vswitch_plug(sw, 0, same, false, now), -ERR_EXISTS);
    assert_int_equal(vswitch_plug(sw, 1, same, false, now), 9);
}

/* Ports come and go with full tables; every entry belongs to a live port and can be found. */
static void churn(void **state) {
    (void)state;
    bool used[VSWITCH_PORTS] = {0};
    srand(1);
    for (u32 i = 0; i < 60000; i++) {
        u32 port = (u32)rand() % VSWITCH_PORTS;
        now += NSEC_PER_SEC / 100;
        if (!used[port]) {
            u8 mac[6] = {2, 1, 0, 0, (u8)(i >> 8), (u8)i};
            int got = vswitch_plug(sw, (u16)(i % 3), mac, true, now);
            assert_true(got >= 0);
            used[got] = true;
        } else if (rand() % 50 == 0) {
            vswitch_unplug(sw, port);
            used[port] = false;
        } else {
            struct vswitch_set to;
            u8 f[60] = {2, 1, 0, 0, (u8)rand(), (u8)rand(), 2, 2, 0, 0, (u8)rand(), (u8)rand()};
            vswitch_frame(sw, port, f, sizeof(f), now, &to);
            for (u32 p = 0; p < VSWITCH_PORTS; p++) {
                assert_true(!vswitch_has(&to, p) ||
                            (used[p] && sw->port[p].vlan == sw->port[port].vlan));
            }
        }
    }
    u32 count[VSWITCH_PORTS] = {0};
    for (u32 i = 0; i < VSWITCH_SLOTS; i++) {
        if (sw->table[i].key) {
            assert_true(sw->port[sw->table[i].port].used);
            count[sw->table[i].port]++;
        }
    }
    for (u32 p = 0; p < VSWITCH_PORTS; p++) {
        assert_int_equal(count[p], sw->port[p].macs);
        assert_true(count[p] <= VSWITCH_MACS_PER_PORT);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(learning),    T(vlans),     T(spoofing), T(address_flood),
        T(frame_flood), T(addresses), T(churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
