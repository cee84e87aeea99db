#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/storage/interop.py [--seed S] [--rounds N]

Images go to and fro between Sosia and qemu-img: made by one, written by the other and by both in turns, on
backing files, compressed, with internal snapshots, resized, converted, committed. After every step qemu-img
check is clean, and qemu-img compare and `sosia image compare` agree with a raw file that holds what must be
there. Prints, last, "interop: N passed, N failed".
"""
import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile

SOSIA = os.path.abspath(os.environ.get("SOSIA", "build/sosia"))
POKE = os.path.abspath(os.environ.get("POKE", "build/gcc-rel/tests/storage/poke"))
count = dict(passed=0, failed=0)


class Wrong(Exception):
    pass


def run(*command, status=0):
    p = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, check=False, timeout=120)
    if p.returncode != status:
        raise Wrong("%s: %d: %s" % (" ".join(map(str, command)), p.returncode, p.stdout.decode(errors="replace")[-500:]))
    return p.stdout.decode(errors="replace")


def clean(image, model):
    run("qemu-img", "check", image)
    run(SOSIA, "image", "check", image)
    run("qemu-img", "compare", "-F", "raw", image, model)
    run(SOSIA, "image", "compare", "--backing", image, model)


def qemu_io(image, model, steps):
    """The same random work by qemu-io on both."""
    size = os.path.getsize(model)
    for target, fmt in ((image, "qcow2"), (model, "raw")):
        state = random.Random(steps * 7919 + size)
        commands = []
        for _ in range(steps):
            at = state.randrange(size // 512) * 512
            length = min(size - at, (1 + state.randrange(120)) * 512)
            kind = state.randrange(6)
            commands += ["-c", "write %s %d %d" % ("-z" if kind == 0 else "-z -u" if kind == 1 and fmt == "qcow2" else
                                                  "-z" if kind == 1 else "-P %d" % (1 + state.randrange(255)),
                                                  at, length)]
        run("qemu-io", "-f", fmt, *commands, target)


def poke(image, model, steps):
    run(POKE, image, model, random.randrange(1, 1 << 30), steps, os.path.dirname(image))


def zeros(path, size):
    with open(path, "wb") as f:
        f.truncate(size)


def text(path, size):
    """Compressible, and different everywhere."""
    with open(path, "wb") as f:
        for i in range(size // 16):
            f.write(b"%015d\n" % (i * 77 // 5))
        f.truncate(size)


def turns(image, model, rounds):
    for _ in range(rounds):
        random.choice([poke, qemu_io])(image, model, random.randrange(3, 25))
        clean(image, model)


def made_by_sosia(d, rounds):
    for options in ([], ["--cluster-size", "512"], ["--cluster-size", "2M"], ["--lazy-refcounts"],
                    ["--refcount-bits", "1"], ["--refcount-bits", "64", "--cluster-size", "4K"], ["--version", "2"]):
        size = 24 << 20
        zeros(d + "/m", size)
        run(SOSIA, "image", "create", *options, d + "/i", size)
        clean(d + "/i", d + "/m")
        turns(d + "/i", d + "/m", rounds)


def made_by_qemu(d, rounds):
    for options in ("cluster_size=64k", "cluster_size=1k,refcount_bits=8", "compat=0.10", "lazy_refcounts=on",
                    "preallocation=metadata", "preallocation=falloc,cluster_size=16k"):
        size = 24 << 20
        zeros(d + "/m", size)
        run("qemu-img", "create", "-f", "qcow2", "-o", options, d + "/i", size)
        turns(d + "/i", d + "/m", rounds)


def compressed(d, rounds):
    for kind in ("zlib", "zstd"):
        for cluster in ("64k", "4k", "2M"):
            text(d + "/m", 12 << 20)
            run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=%s,cluster_size=%s" % (kind, cluster),
                d + "/m", d + "/i")
            clean(d + "/i", d + "/m")
            turns(d + "/i", d + "/m", rounds)


def backing(d, rounds):
    for cluster, base_size in (("64k", 10 << 20), ("4k", (20 << 20) + 512), ("512", 4 << 20)):
        text(d + "/base.raw", base_size)
        run(SOSIA, "image", "convert", d + "/base.raw", d + "/base")
        run("qemu-img", "create", "-f", "qcow2", "-b", "base", "-F", "qcow2", d + "/middle", "16M")
        run(SOSIA, "image", "create", "--cluster-size", cluster, "--backing-file", "middle", "--backing-format", "qcow2",
            d + "/i", "16M")
        with open(d + "/base.raw", "rb") as f:
            data = f.read()[:16 << 20]
        with open(d + "/m", "wb") as f:
            f.write(data)
            f.truncate(16 << 20)
        clean(d + "/i", d + "/m")
        turns(d + "/i", d + "/m", rounds)
        run(SOSIA, "image", "convert", "--backing", d + "/i", d + "/flat")
        clean(d + "/flat", d + "/m")
        run(SOSIA, "image", "commit", "--backing-dir", d, d + "/i")
        clean(d + "/i", d + "/m")
        clean(d + "/middle", d + "/m")


def snapshots(d, rounds):
    zeros(d + "/m", 8 << 20)
    run("qemu-img", "create", "-f", "qcow2", d + "/i", "8M")
    for n in range(rounds):
        turns(d + "/i", d + "/m", 1)
        shutil.copyfile(d + "/m", d + "/m%d" % n)
        run("qemu-img", "snapshot", "-c", "s%d" % n, d + "/i")
        clean(d + "/i", d + "/m")
    turns(d + "/i", d + "/m", rounds)
    for n in range(rounds):
        run("qemu-img", "snapshot", "-a", "s%d" % n, d + "/i")
        clean(d + "/i", d + "/m%d" % n)


def resized(d, rounds):
    zeros(d + "/m", 6 << 20)
    run(SOSIA, "image", "create", "--cluster-size", "512", d + "/i", "6M")
    for size in (30 << 20, (31 << 20) + 512, 3 << 20, 9 << 20):
        turns(d + "/i", d + "/m", rounds)
        run(SOSIA, "image", "resize", "--shrink", d + "/i", size)
        os.truncate(d + "/m", size)
        clean(d + "/i", d + "/m")


def converted(d, _rounds):
    text(d + "/m", 20 << 20)
    with open(d + "/m", "r+b") as f:  # holes, and zeros that are none
        f.seek(5 << 20)
        f.write(bytes(3 << 20))
        f.truncate(60 << 20)
    run(SOSIA, "image", "convert", d + "/m", d + "/i")
    clean(d + "/i", d + "/m")
    if os.stat(d + "/i").st_blocks * 512 > 18 << 20:
        raise Wrong("zeros take room in the qcow2 image")
    run(SOSIA, "image", "convert", "--to", "raw", d + "/i", d + "/r")
    run("cmp", d + "/r", d + "/m")
    if os.stat(d + "/r").st_blocks * 512 > 18 << 20:
        raise Wrong("zeros take room in the raw image")


def refused(d, _rounds):
    """What an image asks for is not done unless somebody says so."""
    text(d + "/secret", 1 << 20)
    os.mkdir(d + "/in")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", d + "/secret", "-F", "raw", d + "/in/i")
    for options in ([], ["--backing-dir", d + "/in"]):
        run(SOSIA, "image", "convert", *options, d + "/in/i", d + "/out", status=2)
        if os.path.exists(d + "/out"):
            raise Wrong("a refused conversion left a file")
    os.symlink(d + "/secret", d + "/in/link")
    run("qemu-img", "rebase", "-u", "-b", "link", "-F", "raw", d + "/in/i")
    run(SOSIA, "image", "convert", "--backing-dir", d + "/in", d + "/in/i", d + "/out", status=2)
    run(SOSIA, "image", "convert", "--backing-dir", d, d + "/in/i", d + "/out")
    for name in ("a", "b"):
        run("qemu-img", "create", "-q", "-f", "qcow2", d + "/" + name, "1M")
    run("qemu-img", "rebase", "-u", "-b", "b", "-F", "qcow2", d + "/a")
    run("qemu-img", "rebase", "-u", "-b", "a", "-F", "qcow2", d + "/b")
    if "loop" not in run(SOSIA, "image", "convert", "--backing", d + "/a", d + "/out2", status=2):
        raise Wrong("a loop of backing files is not named")
    run("qemu-img", "rebase", "-u", "-b", "json:{}", "-F", "raw", d + "/a")
    run(SOSIA, "image", "convert", "--backing", d + "/a", d + "/out2", status=2)
    run(SOSIA, "image", "info", d + "/a")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    opt = parser.parse_args()
    random.seed(opt.seed)
    for test in (made_by_sosia, made_by_qemu, compressed, backing, snapshots, resized, converted, refused):
        with tempfile.TemporaryDirectory(dir="build") as tmp:
            try:
                test(os.path.abspath(tmp), opt.rounds)
                count["passed"] += 1
            except Wrong as e:
                count["failed"] += 1
                print("FAILED %s (seed %d): %s" % (test.__name__, opt.seed, e))
    print("interop: %(passed)d passed, %(failed)d failed" % count)
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
