#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a Linux guest that checks itself: tests/snapshot/run.py [--engine E] [NAME...]

The guest checks a pattern in its memory, that its clock does not run backwards and what it wrote to its
disk, says "beat N" after each round and "BAD ..." when something is wrong. It is saved, ended, restored,
copied, and goes on counting where it was.
"""
import argparse
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOSIA = os.environ.get("SOSIA", os.path.join(TOP, "build/sosia"))
GUEST = os.environ.get("GUEST", os.path.join(TOP, "build/guests/linux-cloud-amd64"))
PATIENCE = 120  # seconds for anything to happen: the host may be busy

WORK = ('dd if=/dev/urandom of=/tmp/p bs=64k count=32 2>/dev/null; md5sum /tmp/p > /tmp/s; l=0; i=0; while true; do '
        'i=$((i+1)); md5sum -c -s /tmp/s || echo BAD memory; n=$(cut -d. -f1 /proc/uptime); '
        '[ $n -ge $l ] || echo BAD time; l=$n; if [ -b /dev/vda ]; then '
        'echo $i > /tmp/b; dd if=/tmp/b of=/dev/vda bs=512 seek=$((i%64)) conv=sync,fsync 2>/dev/null; '
        'echo 3 > /proc/sys/vm/drop_caches; '
        'r=$(dd if=/dev/vda bs=512 skip=$((i%64)) count=1 2>/dev/null | head -n1); [ x$r = x$i ] || echo BAD disk $r; fi; '
        'g=$(cut -c1-9 /sys/firmware/acpi/interrupts/gpe00); echo beat $i generation $((g)); sleep 0.1; done')


class Failure(Exception):
    pass


def need(ok, why):
    if not ok:
        raise Failure(why)


class Bench:
    """A directory, and the machines that run."""

    def __init__(self, engine):
        self.dir = tempfile.mkdtemp(prefix="sosia-snapshot-")
        self.engine = engine
        self.run = os.path.join(self.dir, "run")
        os.mkdir(self.run, 0o700)
        self.env = dict(os.environ, XDG_RUNTIME_DIR=self.run)
        self.names = []
        self.counter = 0

    def path(self, name):
        return os.path.join(self.dir, name)

    def sosia(self, *args, ok=True):
        # into a file: a machine in the background keeps a pipe open
        with tempfile.TemporaryFile("w+", errors="replace") as out:
            r = subprocess.run([SOSIA, *args], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=self.env,
                               timeout=PATIENCE)
            out.seek(0)
            text = out.read()
        if ok is not None:
            need((r.returncode == 0) == ok, "sosia %s: status %d: %s" % (" ".join(args), r.returncode, text))
        return text

    def refused(self, *args, why):
        out = self.sosia(*args, ok=False)
        need(re.search(why, out), "sosia %s: refused, but not with /%s/: %s" % (" ".join(args), why, out))

    def log(self, name):
        with open(self.path(name + ".log"), errors="replace") as f:
            return f.read()

    def beats(self, name):
        return [int(n) for n in re.findall(r"beat (\d+) generation \d+\r?\n", self.log(name))]

    def generation(self, name):
        return int(re.findall(r"generation (\d+)", self.log(name))[-1])

    def machine(self, *args, memory="128M", cpus=1):
        self.counter += 1
        name = "m%d" % self.counter
        self.names.append(name)
        self.sosia("run", "-d", "--quiet", "--engine", self.engine, "--name", name, "--memory", memory, "--cpus", str(cpus),
                   "--kernel", GUEST + "/vmlinuz", "--initrd", GUEST + "/initrd.img", "--console", "file=" + self.path(name + ".log"),
                   "--cmdline", 'console=ttyS0 quiet sosia.run="%s"' % WORK, *args)
        self.wait(name, 3)
        return name

    def restore(self, file, *args):
        self.counter += 1
        name = "m%d" % self.counter
        self.names.append(name)
        self.sosia("restore", "-d", "--quiet", "--name", name, "--console", "file=" + self.path(name + ".log"), *args, file)
        return name

    def wait(self, name, beats):
        """Until it has said so many beats more than it had; the log of a restored machine begins empty."""
        end = time.time() + PATIENCE
        while len(self.beats(name)) < beats if os.path.exists(self.path(name + ".log")) else True:
            need(time.time() < end, "%s: no beat %d: %s" % (name, beats,
                                                           self.log(name)[-300:] if os.path.exists(self.path(name + ".log")) else ""))
            time.sleep(0.05)
        self.sound(name)

    def sound(self, name):
        text = self.log(name)
        need("BAD" not in text and "panic" not in text, "%s: %s" % (name, text[-500:]))
        seen = self.beats(name)
        need(seen == list(range(seen[0], seen[0] + len(seen))), "%s: beats %s" % (name, seen))

    def goes_on(self, file, since, *args, beats=3):
        name = self.restore(file, *args)
        self.wait(name, beats)
        first = self.beats(name)[0]
        need(since <= first <= since + 1, "%s begins with beat %d after %d" % (name, first, since))
        return name

    def kill(self, *names):
        for name in names or list(self.names):
            self.sosia("kill", name, ok=None)
            self.sosia("wait", name, ok=None)
            if name in self.names:
                self.names.remove(name)

    def disk(self, name, qcow2=False):
        path = self.path(name)
        if qcow2:
            self.sosia("image", "create", path, "1M")
        else:
            with open(path, "wb") as f:
                f.truncate(1 << 20)
        return path

    def close(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def last(b, name):
    return b.beats(name)[-1]


def saved(b, name, file, *args):
    """A snapshot that ends the machine; its last beat."""
    b.sosia("snapshot", name, file, "--stop", *args)
    b.sosia("wait", name, ok=None)
    b.sound(name)
    return last(b, name)


def test_basic(b):
    m = b.machine(cpus=2)
    f = b.path("s")
    b.sosia("snapshot", m, f)
    b.wait(m, len(b.beats(m)) + 2)  # goes on
    n = saved(b, m, f)
    one = b.goes_on(f, n)
    b.goes_on(f, n)  # beside the first one
    need(b.generation(one) == 1, "the guest does not know that it is another one: %d" % b.generation(one))
    info = json.loads(b.sosia("snapshot", "info", f, "--json", "--check"))
    need(info["engine"] == b.engine and info["vcpus"] == 2 and not info["incremental"], str(info))
    again = saved(b, one, b.path("s2"))  # of a restored machine
    b.goes_on(b.path("s2"), again, "--check")
    need(os.stat(f).st_mode & 0o77 == 0, "others can read the guest's memory")


def test_disk(b):
    for qcow2 in False, True:
        d = b.disk("disk%d" % qcow2, qcow2)
        m = b.machine("--disk", d)
        f = b.path("d%d" % qcow2)
        n = saved(b, m, f)
        copy = b.path("copy%d" % qcow2)
        shutil.copy(d, copy)
        b.kill(b.goes_on(f, n, "--overlay"))
        b.kill(b.goes_on(f, n, "--overlay"))  # nothing was written
        b.kill(b.goes_on(f, n))
        b.refused("restore", f, why="was written to since the snapshot")
        b.kill(b.goes_on(f, n, "--disk", copy))


def test_incremental(b):
    m = b.machine()
    b.sosia("snapshot", m, b.path("base"), "--track")
    b.wait(m, len(b.beats(m)) + 2)
    out = b.sosia("snapshot", m, b.path("one"), "--incremental")
    need("incremental" in out, out)
    b.wait(m, len(b.beats(m)) + 2)
    n = saved(b, m, b.path("two"), "--incremental")
    need(os.stat(b.path("two.mem")).st_blocks < os.stat(b.path("base.mem")).st_blocks, "the increment is not smaller")
    b.kill(b.goes_on(b.path("two"), n, "--check"))
    b.sosia("snapshot", "merge", b.path("base"), b.path("one"), b.path("m1"))
    b.refused("snapshot", "merge", b.path("base"), b.path("two"), b.path("m2"), why="does not stand on")
    b.kill(b.restore(b.path("m1"), "--check"))
    tracked = b.goes_on(b.path("two"), n, "--track")
    n = saved(b, tracked, b.path("three"), "--incremental")
    b.kill(b.goes_on(b.path("three"), n))
    os.rename(b.path("base"), b.path("gone"))
    b.refused("restore", b.path("three"), why="base")


def seal(data):
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def test_damaged(b):
    m = b.machine()
    f, g = b.path("s"), b.path("g")
    n = saved(b, m, f)
    with open(f, "rb") as s:
        good = s.read()
    shutil.copy(f + ".mem", g + ".mem")

    def expect(data, why, *args):
        with open(g, "wb") as s:
            s.write(data)
        b.refused("restore", "--name", "never", *args, g, why=why)
        need("never" not in b.sosia("ls"), "it runs")

    for size in 0, 1, 8, 63, 64, len(good) // 2, len(good) - 1:
        expect(good[:size], "not the state file|truncated")
    for at in 0, 9, 30, 70, len(good) // 2, len(good) - 1:
        expect(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:], "not the state|newer|truncated|damaged|checksum")
    expect(seal(good[:8] + struct.pack("<I", 2) + good[12:]), "newer")
    # sections are hostile even when the checksum is right
    at = good.index(b"MACH") + 40
    expect(seal(good[:at] + b"\xff" * 64 + good[at + 64:]), "damaged|saved state")
    with open(g + ".mem", "r+b") as s:
        s.truncate((128 << 20) - 1)
    expect(good, "truncated")
    with open(g + ".mem", "r+b") as s:
        s.truncate(128 << 20)
        s.seek(64 << 20)
        s.write(b"x")
    expect(good, "checksum of the memory", "--check")
    with open(g + ".mem", "r+b") as s:
        s.seek(0xff000)
        s.write(b"x" * 16)
    expect(good, "another snapshot")
    b.goes_on(f, n)


def test_full(b):
    """The file system is full: the machine goes on, nothing is left behind."""
    if os.geteuid():
        return "needs root, for a small file system"
    where = b.path("small")
    os.mkdir(where)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", where], stderr=subprocess.DEVNULL).returncode:
        return "no right to mount"
    try:
        m = b.machine()
        b.refused("snapshot", m, where + "/s", why="full")
        need(os.listdir(where) == [], "left behind: %s" % os.listdir(where))
        b.wait(m, len(b.beats(m)) + 2)
        n = saved(b, m, b.path("s"))
        b.goes_on(b.path("s"), n)
    finally:
        subprocess.run(["umount", "-l", where])
    return None


def test_clone(b):
    d = b.disk("disk")
    m = b.machine("--disk", d)
    b.refused("clone", m, "2", why="use --stop")
    b.wait(m, len(b.beats(m)) + 2)
    names = ["%s-%d" % (m, i) for i in (1, 2, 3)]
    b.names += names
    b.sosia("clone", m, "3", "--stop", "--", "--console", "ring")
    for name in names:
        end = time.time() + PATIENCE
        while not re.search(r"beat \d+ generation 1", b.sosia("logs", name, ok=None)):
            need(time.time() < end, "%s does not beat" % name)
            time.sleep(0.1)
        need("BAD" not in b.sosia("logs", name), name)
    need(not [f for f in os.listdir(b.run + "/sosia") if "clone" in f], "files are left behind")


class Handler(threading.Thread):
    """A page fault handler as those of Firecracker: gets the layout and a userfaultfd, fills pages from the file."""
    COPY = 0xc028aa03  # UFFDIO_COPY

    def __init__(self, path, memory):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        with open(memory, "rb") as f:
            self.memory = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.pages = 0
        self.layout = None

    def run(self):
        peer, _ = self.listener.accept()
        data, fds, _, _ = socket.recv_fds(peer, 65536, 1)
        self.layout = json.loads(data)
        poller = select.poll()
        poller.register(fds[0], select.POLLIN)
        poller.register(peer, select.POLLRDHUP | select.POLLHUP)
        while not any(fd == peer.fileno() for fd, _ in poller.poll()):
            try:
                message = os.read(fds[0], 32)
            except BlockingIOError:
                continue
            if message[0] != 0x12:  # not a page fault
                continue
            at = struct.unpack_from("<Q", message, 16)[0] & ~0xfff
            for r in self.layout:
                if 0 <= at - r["base_host_virt_addr"] < r["size"]:
                    source = self.base + at - r["base_host_virt_addr"] + r["offset"]
                    try:
                        fcntl.ioctl(fds[0], self.COPY, struct.pack("<QQQQq", at, source, r["page_size"], 0, 0))
                        self.pages += 1
                    except FileExistsError:
                        pass
        os.close(fds[0])


def test_uffd(b):
    m = b.machine()
    f = b.path("s")
    n = saved(b, m, f)
    b.refused("restore", "--uffd", b.path("nobody"), f, why="page fault handler|userfaultfd")
    if "userfaultfd" in b.sosia("restore", "--uffd", b.path("nobody"), f, ok=False):
        return "userfaultfd is not allowed here"
    h = Handler(b.path("handler"), f + ".mem")
    h.start()
    b.kill(b.goes_on(f, n, "--uffd", b.path("handler")))
    h.join(PATIENCE)
    need(not h.is_alive() and 100 < h.pages < (128 << 20) // 4096, "%d pages" % h.pages)
    return None


def test_engine(b):
    m = b.machine()
    b.sosia("engine", m, b.engine)
    b.wait(m, len(b.beats(m)) + 2)
    b.refused("engine", m, "magic", why="not one of")


def test_fork(b):
    """A kernel that knows the generation identifier (Debian's 6.1 does not) seeds its random numbers anew."""
    guest = os.path.join(TOP, "build/guests/linux-6.12-cloud-amd64")
    if not os.path.exists(guest + "/initrd.img"):
        return "no kernel with CONFIG_VMGENID: guests/linux/build.sh 6.12-cloud-amd64"
    log = b.path("fork.log")
    b.names += ["fork", "forked"]
    b.sosia("run", "-d", "--quiet", "--engine", b.engine, "--name", "fork", "--memory", "128M", "--kernel", guest + "/vmlinuz",
            "--initrd", guest + "/initrd.img", "--console", "file=" + log,
            "--cmdline", 'console=ttyS0 sosia.run="i=0; while sleep 0.2; do echo beat $((i=i+1)) generation 0; done"')
    b.wait("fork", 2)
    need("reseeded" not in b.log("fork"), "reseeded without a reason")
    saved(b, "fork", b.path("s"))
    b.sosia("restore", "-d", "--quiet", "--name", "forked", "--console", "file=" + b.path("forked.log"), b.path("s"))
    b.wait("forked", 2)
    need("crng reseeded due to virtual machine fork" in b.log("forked"), b.log("forked")[-300:])


def test_merge(b):
    """Memory that may be merged is saved and restored like other memory."""
    m = b.machine("--merge-pages")
    n = saved(b, m, b.path("s"))
    one = b.goes_on(b.path("s"), n, "--merge-pages", "--check")
    with open("/proc/%s/smaps" % open(os.path.join(b.run, "sosia", one + ".lock")).read().strip()) as f:
        areas = re.findall(r"(?m)^[0-9a-f]+-.* (\S*)\n(?:.*\n)*?VmFlags: (.*)$", f.read())
    flags = [flags for path, flags in areas if path.endswith("/s.mem")]
    if not os.path.exists("/sys/kernel/mm/ksm"):
        return "this kernel has no KSM"
    need(flags and all(" mg" in " " + f for f in flags), "not mergeable: %s" % flags)


TESTS = [test_fork, test_merge, test_basic, test_disk, test_incremental, test_damaged, test_full, test_clone, test_uffd, test_engine]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--engine", default="soft")
    p.add_argument("names", nargs="*")
    a = p.parse_args()
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for test in TESTS:
        name = test.__name__[5:]
        if a.names and name not in a.names:
            continue
        begin = time.time()
        b = Bench(a.engine)
        try:
            why = test(b)
            counts["skipped" if why else "passed"] += 1
            print("SKIPPED %s: %s" % (name, why) if why else "ok      %s (%.1f s)" % (name, time.time() - begin), flush=True)
        except (Failure, subprocess.TimeoutExpired, OSError, ValueError, IndexError) as e:
            counts["failed"] += 1
            print("FAILED  %s: %s" % (name, e), flush=True)
        finally:
            b.close()
    print("snapshot: %(passed)d passed, %(failed)d failed, %(skipped)d skipped" % counts)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
