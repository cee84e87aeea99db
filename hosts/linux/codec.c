/* SPDX-License-Identifier: Apache-2.0 */
/* Decompression of qcow2 clusters by zlib and zstd. The input may go on behind its end: what counts
 * is that exactly one cluster comes out. No state, no lock. */
#include <zlib.h>
#include <zstd.h>

#include "hosts/linux/host.h"

enum { QCOW2_WINDOW_BITS = -12 }; /* raw deflate */

static int codec_inflate(const u8 *in, size_t in_len, u8 *out, size_t out_len) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
                  .avail_in = (uInt)in_len,
                  .next_out = out,
                  .avail_out = (uInt)out_len};
    if (inflateInit2(&z, QCOW2_WINDOW_BITS) != Z_OK) {
        return -ERR_NOMEM;
    }
    int rc = inflate(&z, Z_FINISH);
    bool whole = !z.avail_out && (rc == Z_STREAM_END || rc == Z_BUF_ERROR);
    inflateEnd(&z);
    return whole ? 0 : -ERR_FORMAT;
}

static int codec_zstd(const u8 *in, size_t in_len, u8 *out, size_t out_len) {
    ZSTD_inBuffer from = {.src = in, .size = in_len};
    ZSTD_outBuffer to = {.dst = out, .size = out_len};
    ZSTD_DStream *z = ZSTD_createDStream();
    if (!z) {
        return -ERR_NOMEM;
    }
    size_t rc = 1;
    while (to.pos < to.size && from.pos < from.size && !ZSTD_isError(rc)) {
        size_t before = to.pos + from.pos;
        rc = ZSTD_decompressStream(z, &to, &from);
        if (to.pos + from.pos == before) {
            break;
        }
    }
    ZSTD_freeDStream(z);
    return !ZSTD_isError(rc) && to.pos == to.size ? 0 : -ERR_FORMAT;
}

const struct image_codec linux_codec = {.inflate = codec_inflate, .zstd = codec_zstd};
