#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: guests/linux/vmlinux.py BZIMAGE VMLINUX

Takes the ELF kernel out of a bzImage. The payload's place stands in the setup header (Linux boot
protocol 2.08: setup_sects at 0x1f1, payload_offset at 0x248, payload_length at 0x24c).
"""
import struct
import subprocess
import sys

TOOLS = {
    b"\x02\x21\x4c\x18": ["lz4", "-dc"],
    b"\xfd7zX": ["xz", "-dc", "--single-stream"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"],
    b"\x1f\x8b\x08\x00": ["gzip", "-dc"],
}


def main():
    image = open(sys.argv[1], "rb").read()
    if image[0x202:0x206] != b"HdrS":
        sys.exit("%s: not a bzImage" % sys.argv[1])
    setup_sects = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = image[start:start + length]
    if payload[:4] == b"\x7fELF":
        elf = payload
    else:
        tool = TOOLS.get(payload[:4])
        if not tool:
            sys.exit("%s: payload of unknown format %s" % (sys.argv[1], payload[:4].hex()))
        # the last four bytes are the size of the unpacked kernel, which the tools may complain about
        elf = subprocess.run(tool, input=payload[:-4], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             check=False).stdout
    if elf[:4] != b"\x7fELF":
        sys.exit("%s: cannot unpack the payload" % sys.argv[1])
    open(sys.argv[2], "wb").write(elf)


if __name__ == "__main__":
    main()
