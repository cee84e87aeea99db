/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames for the metadata service, and what it makes of them: TCP and HTTP. The input is a row of
 * frames, each with a byte of length in front (times 8); length 0 lets half a second pass, 255
 * shuts or opens the way back. Ethernet, addresses and port are put right, or nearly nothing would
 * arrive.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/mmds_http.h"
#include "hosts/fake/fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_output(void *ctx, const u8 *frame, size_t len) {
    volatile u8 last;
    last = frame[len - 1];
    (void)last;
    return *(const bool *)ctx ? -ERR_AGAIN : 0;
}

/* Most frames are for us, and some acknowledge what was really sent. */
static void mend(u8 *f, size_t len) {
    static const u8 address[4] = {0xa9, 0xfe, 0xa9, 0xfe};
    if (len < 54) {
        return;
    }
    if (f[12] != 8 || f[13] > 6) {
        f[12] = 8;
        f[13] = 0;
    }
    f[14] = f[14] & 7 ? 0x45 : f[14];
    memcpy(f + (f[13] ? 38 : 30), address, 4);
    f[23] = 6;
    f[20] &= 0x40;
    f[16] = (u8)((len - 14) >> 8);
    f[17] = (u8)(len - 14);
    f[36] = 0;
    f[37] = 80;
    f[46] = f[46] & 0xf ? 0x50 : f[46];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fake_host *fake = fake_host_create();
    struct mmds_store store = {.limit = 4096};
    struct mmds_service service;
    struct api_text e;
    bool shut = false;
    mmds_store_put(&store, json_pack("{s:{s:s,s:[i,i]}}", "a", "b", "c", "d", 1, 2), &e);
    mmds_service_init(&service, &store, &fake->host);
    service.v2 = size & 1;
    struct mmds_opts o = {.address = 0xa9fea9fe,
                          .reply_max = mmds_http_reply_max(store.limit),
                          .respond = mmds_http_respond,
                          .respond_ctx = &service,
                          .output = on_output,
                          .output_ctx = &shut};
    struct mmds_stack *stack = mmds_stack_create(&fake->host, &o);
    while (size) {
        size_t len = *data++ * 8u;
        u8 frame[2048];
        size--;
        if (!len) {
            fake_advance(fake, NSEC_PER_SEC / 2);
            mmds_stack_work(stack);
        } else if (len == 255 * 8) {
            shut = !shut;
        } else {
            len = MIN(len, size);
            memcpy(frame, data, len);
            mend(frame, len);
            mmds_stack_input(stack, frame, len);
            data += len;
            size -= len;
        }
    }
    mmds_stack_destroy(stack);
    mmds_store_free(&store);
    fake_host_destroy(fake);
    return 0;
}
