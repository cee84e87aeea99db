/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata service of the API's machine: its data through requests, and which network cards
 * have it on their wire.
 */
#include <arpa/inet.h>
#include <string.h>

#include "cmd/api.h"
#include "core/dev/mmds_net.h"

static const u8 service_mac[6] = {0x06, 0x01, 0x23, 0x45, 0x67, 0x01}; /* as Firecracker's */

int api_get_mmds(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)call;
    (void)e;
    const json_t *data = a->mmds.data;
    *out = data && !json_is_null(data) ? json_deep_copy(data) : json_object();
    return 0;
}

int api_put_mmds(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    json_t *body = call->body;
    (void)out;
    call->body = NULL;
    return mmds_store_put(&a->mmds, body, e);
}

int api_patch_mmds(struct api *a, struct api_call *call, json_t **out, struct api_text *e) {
    (void)out;
    return mmds_store_patch(&a->mmds, call->body, e);
}

/* Is the card with this number named in mmds/config? */
static bool has_service(const struct api *a, const json_t *config, u32 i) {
    const json_t *net = json_array_get(a->config.many[API_NETWORKS], i);
    const char *id = json_string_value(json_object_get(net, "iface_id"));
    const json_t *list = json_object_get(config, "network_interfaces");
    for (size_t k = 0; id && k < json_array_size(list); k++) {
        const char *name = json_string_value(json_array_get(list, k));
        if (name && !strcmp(name, id)) {
            return true;
        }
    }
    return false;
}

static void configure(struct api *a, const json_t *config) {
    const char *version = json_string_value(json_object_get(config, "version"));
    struct host *host = linux_host_host(a->lh);
    if (!a->service.host) {
        mmds_service_init(&a->service, &a->mmds, host);
    }
    a->service.v2 = version && !strcmp(version, "V2");
    a->service.imds_compat = json_is_true(json_object_get(config, "imds_compat"));
}

int api_mmds_wrap(void *ctx, u32 i, struct net_backend **be, struct err *err) {
    struct api *a = ctx;
    const json_t *config = a->config.single[API_MMDS_CONFIG];
    const char *address = json_string_value(json_object_get(config, "ipv4_address"));
    struct in_addr ip;
    if (!config || !has_service(a, config, i)) {
        return 0;
    }
    if (!address || inet_pton(AF_INET, address, &ip) != 1) {
        return ERR_SET(err, ERR_INVAL, "the metadata service has no address");
    }
    configure(a, config);
    struct mmds_opts opts = {.address = ntohl(ip.s_addr),
                             .reply_max = mmds_http_reply_max(a->mmds.limit),
                             .respond = mmds_http_respond,
                             .respond_ctx = &a->service};
    memcpy(opts.mac, service_mac, sizeof(opts.mac));
    struct net_backend *wrapped = NULL;
    int rc = mmds_net_create(linux_host_host(a->lh), *be, &opts, &wrapped, err);
    if (!rc) {
        *be = wrapped;
        a->mmds_card[i] = wrapped;
    }
    return rc;
}

void api_mmds_counters(const struct api *a, struct mmds_counters *sum) {
    *sum = (struct mmds_counters){0};
    for (u32 i = 0; i < MACHINE_MAX_NETS; i++) {
        struct mmds_counters n;
        if (!a->mmds_card[i]) {
            continue;
        }
        mmds_net_counters(a->mmds_card[i], &n);
        sum->rx_frames += n.rx_frames;
        sum->rx_bad += n.rx_bad;
        sum->tx_frames += n.tx_frames;
        sum->tx_bytes += n.tx_bytes;
        sum->tx_errors += n.tx_errors;
        sum->opened += n.opened;
        sum->closed += n.closed;
    }
}
