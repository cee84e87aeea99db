#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/storage/crash.py [--boots N] [--stops N] [--engine E] [--seed S]

Machines whose guest writes and fsyncs without end (tests/storage/load.c) are killed at random moments.
Before that each is stopped --stops times, at random moments, too, and its disk copied: what a kill at
that moment would have left. Of every such disk: qemu-img check finds nothing worse than leaks, and every
sector holds what it held when the guest was last told that its data is stable, or something newer.

Prints, last, "crash: N passed, N failed"; N counts disks.
"""
import argparse
import fcntl
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

SOSIA = os.environ.get("SOSIA", "build/sosia")
KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"
INITRD = "build/tests/storage/initrd.img"
BLOCK, SECTOR, BLOCKS = 4096, 512, 4096
MASK = (1 << 64) - 1


class Generator:
    """The guest's random numbers."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        s = self.state
        s ^= s << 13 & MASK
        s ^= s >> 7
        s ^= s << 17 & MASK
        self.state = s
        return s >> 16


def rounds(seed):
    """Yields for each round its writes: (block, True for zeros)."""
    g = Generator(seed)
    while True:
        ops = []
        for _ in range(1 + g.next() % 12):
            block = g.next() % BLOCKS
            ops.append((block, g.next() % 8 == 0))
        yield ops


def expected(seed, acked, ahead):
    """For each block the versions that it may hold: as of round `acked`, or anything later."""
    allowed = {}
    for number, ops in enumerate(rounds(seed), 1):
        if number > acked + ahead:
            return allowed
        for block, zero in ops:
            version = 0 if zero else number
            if number <= acked:
                allowed[block] = {version}
            else:
                allowed.setdefault(block, {0}).add(version)


def verify(raw, seed, acked):
    """None, or what is wrong with the disk's content."""
    allowed = expected(seed, acked, 40)
    with open(raw, "rb") as f:
        data = f.read()
    for sector in range(BLOCKS * BLOCK // SECTOR):
        piece = data[sector * SECTOR:(sector + 1) * SECTOR]
        number, version = int.from_bytes(piece[:8], "little"), int.from_bytes(piece[8:16], "little")
        if piece != (piece[:16] * (SECTOR // 16)) or (version and number != sector) or (number and not version):
            return "sector %d holds something that was never written" % sector
        if version not in allowed.get(sector * SECTOR // BLOCK, {0}):
            return "sector %d: version %d, allowed %s, synced up to round %d" % (
                sector, version, sorted(allowed.get(sector * SECTOR // BLOCK, {0}))[:9], acked)
    return None


def run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, timeout=600)


F_OFD_GETLK = 36
FLOCK = "hhqqi4x"


def is_locked(path):
    """Does anybody hold one of the locks that keep qemu-img out (hosts/linux/image_fd.c)?"""
    with open(path, "rb") as f:
        for byte in (100, 101, 103, 200, 201, 203):
            ask = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            if struct.unpack(FLOCK, fcntl.fcntl(f, F_OFD_GETLK, ask))[0] != fcntl.F_UNLCK:
                return True
    return False


def wait_unlocked(path, limit=60):
    """A killed process can be waited for before its io_uring is gone: the kernel takes the ring down
    by itself, and requests in flight hold the file, and so its locks, for some milliseconds more.
    What they write until then was asked for before the kill. True when nobody holds the file."""
    end = time.monotonic() + limit
    while is_locked(path):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Disk:
    """One kind of disk: how to make it, how to copy and judge it."""

    def __init__(self, tmp, kind):
        self.tmp, self.kind = tmp, kind
        self.path = os.path.join(tmp, "disk")
        self.option = "format=raw" if kind == "raw" else "format=qcow2"
        size = str(BLOCKS * BLOCK)
        base = os.path.join(tmp, "base")
        if kind == "backing":
            run(SOSIA, "image", "create", base, size)
            run(SOSIA, "image", "create", "--backing-file", "base", "--backing-format", "qcow2", self.path)
            self.option += ",backing-dir=" + tmp
        else:
            more = {"raw": ["--format", "raw"], "lazy": ["--lazy-refcounts", "--cluster-size", "4K"],
                    "small": ["--cluster-size", "512", "--refcount-bits", "64"]}.get(kind, [])
            run(SOSIA, "image", "create", *more, self.path, size)

    def judge(self, path, seed, acked):
        """(None or what is wrong, leaked clusters or 0)."""
        raw = path + ".raw"
        leaks = 0
        if self.kind not in ("raw", "lazy"):
            p = run("qemu-img", "check", "-f", "qcow2", path)
            if p.returncode not in (0, 3):
                return "qemu-img check: %d: %s" % (p.returncode, p.stdout.decode()), 0
            found = re.search(r"(\d+) leaked clusters", p.stdout.decode())
            leaks = int(found.group(1)) if found else 0
        if self.kind != "raw":
            p = run(SOSIA, "image", "check", "--repair", "all", path)
            if p.returncode:
                return "check --repair: %d: %s" % (p.returncode, p.stdout.decode()), leaks
            p = run("qemu-img", "check", "-f", "qcow2", path)
            if p.returncode:
                return "qemu-img check after repair: %d: %s" % (p.returncode, p.stdout.decode()), leaks
        p = run("qemu-img", "convert", "-O", "raw", "-f", "raw" if self.kind == "raw" else "qcow2", path, raw)
        if p.returncode:
            return "qemu-img convert: %s" % p.stdout.decode(), leaks
        wrong = verify(raw, seed, acked)
        os.unlink(raw)
        return wrong, leaks


class Machine:
    def __init__(self, disk, opt, seed):
        self.acked, self.text = 0, b""
        cmdline = 'console=ttyS0 quiet sosia.run="load /dev/vda %d %d"' % (seed, BLOCKS)
        aio = random.choice(["threads", "auto"])
        self.p = subprocess.Popen(
            [SOSIA, "run", "--quiet", "--engine", opt.engine, "--memory", "256M", "--kernel", KERNEL,
             "--initrd", INITRD, "--cmdline", cmdline, "--disk", "%s,%s,aio=%s" % (disk.path, disk.option, aio)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def read(self, seconds):
        """Takes what the guest says for so long. False when the machine is gone."""
        end = time.time() + seconds
        while True:
            ready = select.select([self.p.stdout], [], [], max(0, end - time.time()))[0]
            if not ready:
                return True
            data = os.read(self.p.stdout.fileno(), 65536)
            if not data:
                return False
            self.text = (self.text + data)[-200000:]
            for number in re.findall(rb"synced (\d+)\r?\n", self.text[-len(data) - 32:]):
                self.acked = max(self.acked, int(number))

    def wait_load(self, limit):
        end = time.time() + limit
        while self.acked < 3 and time.time() < end and self.read(0.2):
            pass
        return self.acked >= 3

    def stop(self):
        """Stands still in every thread; what it said before counts."""
        os.kill(self.p.pid, signal.SIGSTOP)
        tasks = "/proc/%d/task" % self.p.pid
        for _ in range(2000):
            states = []
            for t in os.listdir(tasks):
                with open("%s/%s/stat" % (tasks, t), encoding="utf-8") as f:
                    states.append(f.read().rsplit(")", 1)[1].split()[0])
            if all(s in "tT" for s in states):
                break
            time.sleep(0.001)

    def go(self):
        os.kill(self.p.pid, signal.SIGCONT)

    def kill(self):
        self.p.kill()
        self.p.wait()
        self.read(0)


def one_boot(kind, opt, count, number):
    seed = random.randrange(1, MASK)
    with tempfile.TemporaryDirectory(dir=opt.dir) as tmp:
        disk = Disk(tmp, kind)
        m = Machine(disk, opt, seed)
        if not m.wait_load(600):
            m.kill()
            print("FAILED %s: the guest did not begin:\n%s" % (kind, m.text.decode(errors="replace")[-2000:]))
            count["failed"] += 1
            return
        results = []
        for _ in range(opt.stops):
            m.read(random.random() * random.choice([0.05, 0.5]))
            acked = m.acked
            m.stop()
            copy = os.path.join(tmp, "copy")
            shutil.copyfile(disk.path, copy)
            m.go()
            results.append((disk.judge(copy, seed, acked), acked))
        m.read(random.random())
        acked = m.acked
        m.kill()
        if wait_unlocked(disk.path):
            results.append((disk.judge(disk.path, seed, acked), acked))
        else:
            results.append((("the killed machine's disk stays locked", 0), acked))
        leaks = sum(r[0][1] for r in results)
        for (wrong, _), acked in results:
            count["failed" if wrong else "passed"] += 1
            if wrong:
                print("FAILED boot %d, %s, seed %d, synced %d: %s" % (number, kind, seed, acked, wrong))
        print("boot %d: %s, %d disks looked at, rounds up to %d, %d leaks" % (
            number, kind, len(results), results[-1][1], leaks), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--boots", type=int, default=5)
    parser.add_argument("--stops", type=int, default=8)
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--kind", nargs="*", default=["plain", "backing", "lazy", "small", "raw"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--dir", default="build/tests/storage")
    opt = parser.parse_args()
    if not shutil.which("qemu-img") or not os.path.exists(INITRD):
        print("SKIPPED: qemu-img or %s is not there\ncrash: 0 passed, 0 failed, 1 skipped" % INITRD)
        return 0
    print("seed %d" % opt.seed)
    random.seed(opt.seed)
    count = dict(passed=0, failed=0)
    for i in range(opt.boots):
        one_boot(opt.kind[i % len(opt.kind)], opt, count, i + 1)
    print("crash: %(passed)d passed, %(failed)d failed" % count)
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
