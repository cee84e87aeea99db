/* SPDX-License-Identifier: Apache-2.0 */
/* --net KIND[,OPTION...]: from its text to a network back end and a card. */
#include "cmd/net.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/item.h"
#include "core/virtio/net.h"

static int take_u16(const struct item *it, u64 min, u64 max, u16 *out) {
    u64 n = 0;
    int rc = item_number(it, min, max, &n);
    *out = (u16)n;
    return rc;
}

static int take_rate(const struct item *it, struct token_bucket_config *b) {
    u64 n = 0;
    int rc = item_rate(it, &n);
    *b = (struct token_bucket_config){.size = n, .refill_ms = 1000};
    return rc;
}

int mac_parse(const char *text, u8 mac[6]) {
    bool good = strlen(text) == 17;
    for (size_t i = 0; good && i < 6; i++) {
        const char *p = text + 3 * i;
        good = isxdigit((unsigned char)p[0]) && isxdigit((unsigned char)p[1]) &&
               p[2] == (i < 5 ? ':' : 0);
        mac[i] = (u8)strtoul(p, NULL, 16);
    }
    return good ? 0 : -ERR_INVAL;
}

static int take_mac(struct net_option *n, const struct item *it) {
    static const u8 none[6];
    if (!it->value || mac_parse(it->value, n->mac) || n->mac[0] & 1 || !memcmp(n->mac, none, 6)) {
        return item_bad(it, "the address of a card, such as 52:54:00:12:34:56");
    }
    return 0;
}

static int take_forward(struct net_option *n, const struct item *it) {
    if (n->user.forward_count == NET_USER_FORWARDS) {
        return ERR_SET(it->err, ERR_INVAL, "--net user: at most %d hostfwd", NET_USER_FORWARDS);
    }
    if (!it->value) {
        return item_bad(it, "as in tcp:127.0.0.1:2222-:22");
    }
    n->user.forward[n->user.forward_count++] = it->value;
    return 0;
}

static int unknown(const struct item *it) {
    return ERR_SET(it->err, ERR_INVAL, "--net: unknown option '%s' (or not for this kind)",
                   it->key);
}

static int take_own(struct net_option *n, const struct item *it) {
    if (n->kind == NET_USER && !strcmp(it->key, "hostfwd")) {
        return take_forward(n, it);
    }
    if (n->kind == NET_USER && !strcmp(it->key, "restrict")) {
        return item_flag(it, &n->user.restricted);
    }
    if (n->kind == NET_USER && !strcmp(it->key, "host-loopback")) {
        bool on = true;
        int rc = item_flag(it, &on);
        n->user.no_loopback = !on;
        return rc;
    }
    if (n->kind == NET_SWITCH && !strcmp(it->key, "vlan")) {
        return take_u16(it, 1, 4094, &n->vlan);
    }
    return unknown(it);
}

static int take_one(struct net_option *n, const struct item *it) {
    if (!strcmp(it->key, "mac")) {
        return take_mac(n, it);
    }
    if (!strcmp(it->key, "mtu")) {
        return take_u16(it, 68, 65521, &n->mtu);
    }
    if (!strcmp(it->key, "queues")) {
        return take_u16(it, 1, VIRTIO_NET_PAIRS_MAX, &n->queues);
    }
    if (!strcmp(it->key, "rx-bps")) {
        return take_rate(it, &n->rx.bandwidth);
    }
    if (!strcmp(it->key, "tx-bps")) {
        return take_rate(it, &n->tx.bandwidth);
    }
    if (!strcmp(it->key, "rx-pps")) {
        return take_rate(it, &n->rx.ops);
    }
    if (!strcmp(it->key, "tx-pps")) {
        return take_rate(it, &n->tx.ops);
    }
    return take_own(n, it);
}

/* The first piece: what kind of network, and which. */
static int take_kind(struct net_option *n, const struct item *it) {
    static const struct {
        const char *key;
        enum net_kind kind;
        bool named;
    } kinds[] = {{"none", NET_NONE, false},
                 {"user", NET_USER, false},
                 {"tap", NET_TAP, true},
                 {"switch", NET_SWITCH, true},
                 {"passt", NET_PASST, true}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!strcmp(it->key, kinds[i].key) && (it->value && *it->value) == kinds[i].named) {
            n->kind = kinds[i].kind;
            n->name = it->value;
            return 0;
        }
    }
    return ERR_SET(it->err, ERR_INVAL,
                   "--net %s: not one of user, tap=NAME, switch=NAME, passt=SOCKET, none", it->key);
}

int net_option_parse(struct net_option *n, char *text, struct err *err) {
    struct item it = {.option = "--net", .err = err};
    bool first = true;
    int rc = 0;
    *n = (struct net_option){0};
    for (; !rc && item_next(&text, &it); first = false) {
        rc = first ? take_kind(n, &it) : take_one(n, &it);
    }
    n->user.mtu = n->mtu;
    return rc;
}

/* --- addresses -------------------------------------------------------------------------------- */

static u64 hash_bytes(u64 hash, const void *data, size_t len) {
    const u8 *p = data;
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ p[i]) * 0x100000001b3ull; /* FNV-1a */
    }
    return hash;
}

void mac_generate(const char *machine, u32 index, u8 mac[6]) {
    char id[64];
    uid_t uid = geteuid();
    u64 hash = 0xcbf29ce484222325ull;
    int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, id, sizeof(id));
    if (fd >= 0) {
        close(fd);
    }
    hash = hash_bytes(hash, id, n > 0 ? (size_t)n : 0);
    hash = hash_bytes(hash, &uid, sizeof(uid));
    hash = hash_bytes(hash, machine, strlen(machine));
    hash = hash_bytes(hash, &index, sizeof(index));
    hash ^= hash >> 32;
    mac[0] = 0x52; /* locally administered, one card */
    mac[1] = 0x54;
    memcpy(mac + 2, &hash, 4);
}

/* --- opening ---------------------------------------------------------------------------------- */

static int open_backend(struct linux_host *lh, const struct net_option *n, bool generated,
                        struct net_config *cfg, struct err *err) {
    struct net_switch_opts sw = {.name = n->name,
                                 .vlan = n->vlan,
                                 .generated_mac = generated,
                                 .server = {"sosia", "switch", "--serve", n->name}};
    switch (n->kind) {
    case NET_USER:
        return net_user_open(lh, &n->user, &cfg->backend, err);
    case NET_TAP:
        return net_tap_open(lh, n->name, &cfg->backend, err);
    case NET_SWITCH:
        return net_switch_open(lh, &sw, cfg->mac, &cfg->backend, err);
    case NET_PASST:
        return net_passt_open(lh, n->name, &cfg->backend, err);
    default:
        return 0;
    }
}

int net_open(struct linux_host *lh, const struct net_option *n, const char *machine, u32 index,
             struct net_config *cfg, struct err *err) {
    static const u8 none[6];
    bool generated = !memcmp(n->mac, none, sizeof(none));
    *cfg = (struct net_config){.mtu = n->mtu, .queues = n->queues, .rx = n->rx, .tx = n->tx};
    memcpy(cfg->mac, n->mac, sizeof(cfg->mac));
    if (generated) {
        mac_generate(machine, index, cfg->mac);
    }
    return open_backend(lh, n, generated, cfg, err);
}
