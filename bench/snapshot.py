#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots in figures: bench/snapshot.py [--clones N] [--rounds N]

Restoring a machine of 512 MiB (until its processors may run, by the clock of the monitor), saving one of 256
MiB to memory, beside how fast the host copies, and what a copy that has not run yet takes for itself. Medians;
nothing is asserted.
"""
import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOSIA = os.path.join(TOP, "build/sosia")
GUEST = os.path.join(TOP, "build/guests/linux-cloud-amd64")


class Bench:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="sosia-bench-", dir="/dev/shm")
        self.env = dict(os.environ, XDG_RUNTIME_DIR=self.dir)

    def sosia(self, *args, check=True):
        with tempfile.TemporaryFile("w+", errors="replace") as out:
            subprocess.run([SOSIA, *args], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=self.env,
                           check=check, timeout=120)
            out.seek(0)
            return out.read()

    def machine(self, name, memory):
        self.sosia("run", "-d", "--quiet", "--engine", "soft", "--name", name, "--memory", memory, "--kernel", GUEST + "/vmlinuz",
                   "--initrd", GUEST + "/initrd.img", "--console", "ring", "--cmdline", 'console=ttyS0 quiet sosia.run="echo ready; sleep 9999"')
        end = time.time() + 120
        while not re.search(r"(?m)^ready", self.sosia("logs", name, check=False)):
            if time.time() > end:
                raise SystemExit("the guest does not come up")
            time.sleep(0.2)

    def end(self, name):
        """A machine that is just starting does not listen yet."""
        end = time.time() + 60
        while self.sosia("ls", check=False).find(name + " ") >= 0 and time.time() < end:
            self.sosia("kill", name, check=False)
            time.sleep(0.02)


def copy_rate():
    data = os.urandom(1 << 20) * 64
    begin = time.time()
    bytearray(data)
    return len(data) / (time.time() - begin) / 1e9


def save(b, rounds):
    b.machine("a", "256M")
    times, size = [], 0
    for _ in range(rounds):
        out = b.sosia("snapshot", "a", b.dir + "/s", "--no-sync")
        times.append(float(re.search(r"paused for ([\d.]+) ms", out).group(1)))
        size = float(re.search(r"([\d.]+) MiB", out).group(1))
    b.end("a")
    print("save 256 MiB (%.0f MiB not zero): %.0f ms, best %.0f ms; this host copies %.1f GB/s"
          % (size, statistics.median(times), min(times), copy_rate()))


def restore(b, rounds):
    b.machine("a", "512M")
    b.sosia("snapshot", "a", b.dir + "/s", "--no-sync", "--stop")
    times, computing = [], []
    for _ in range(rounds):
        out = open(b.dir + "/out", "w+")
        p = subprocess.Popen([SOSIA, "restore", "--quiet", "--stats", "--name", "r", "--console", "none", b.dir + "/s"],
                             stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=b.env)
        while "r " not in b.sosia("ls", check=False) and p.poll() is None:
            time.sleep(0.05)
        b.end("r")
        p.wait(timeout=60)
        out.seek(0)
        found = re.search(r"ready to run ([\d.]+) ms after the start of the command, ([\d.]+)", out.read())
        out.close()
        times.append(float(found.group(1)))
        computing.append(float(found.group(2)))
    print("restore 512 MiB until it may run: %.1f ms, best %.1f ms (%.1f ms of the process computing, its loading included)"
          % (statistics.median(times), min(times), statistics.median(computing)))


def clones(b, count):
    names = ["c%d" % i for i in range(count)]
    begin = time.time()
    for name in names:
        b.sosia("restore", "-d", "--quiet", "--paused", "--name", name, "--console", "none", b.dir + "/s")
    took = time.time() - begin
    dirty, pss = [], []
    for name in names:
        pid = open(b.dir + "/sosia/" + name + ".lock").read().strip()
        text = open("/proc/%s/smaps_rollup" % pid).read()
        dirty.append(int(re.search(r"Private_Dirty: +(\d+)", text).group(1)))
        pss.append(int(re.search(r"Pss: +(\d+)", text).group(1)))
    print("%d copies of 512 MiB: %.2f MiB of their own each before they run (most %.2f), %.2f MiB with shares; %.0f a second"
          % (count, statistics.median(dirty) / 1024, max(dirty) / 1024, statistics.median(pss) / 1024, count / took))
    for name in names:
        b.end(name)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--clones", type=int, default=100)
    p.add_argument("--rounds", type=int, default=9)
    a = p.parse_args()
    b = Bench()
    try:
        save(b, a.rounds)
        restore(b, a.rounds)
        clones(b, a.clones)
    finally:
        for line in b.sosia("ls", check=False).splitlines()[1:]:
            b.end(line.split()[0])
        shutil.rmtree(b.dir, ignore_errors=True)


if __name__ == "__main__":
    main()
