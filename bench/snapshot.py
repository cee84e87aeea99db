#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots in figures: bench/snapshot.py [--clones N] [--rounds N]

save      a machine of 256 MiB to memory: how long it stands still, how long all of it takes (with checksums),
          and the processor time of its process
restore   from the start of the process (before exec) until the threads of the processors have been let go, for
          machines of 128, 512 and 2048 MiB: it must not depend on the size; and /bin/true, which is what a
          process takes on this host
clones    memory of its own of a copy that has not run yet

Medians and best; a busy host disturbs wall times much and processor time little. Nothing is asserted.
"""
import argparse
import os
import re
import resource
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


def processor_ms(pid):
    with open("/proc/%s/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def verdict(what, value, goal, unit):
    print("  goal: %s: %.2f of %g %s, %s" % (what, value, goal, unit, "reached" if value <= goal else "missed"))


def save(b, rounds):
    b.machine("a", "256M")
    pid = open(b.dir + "/sosia/a.lock").read().strip()
    paused, whole, before, size = [], [], processor_ms(pid), 0
    used_by_commands = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(rounds):
        out = b.sosia("snapshot", "a", b.dir + "/s", "--no-sync")
        m = re.search(r"([\d.]+) MiB of memory, paused for ([\d.]+) ms, ([\d.]+) ms in all", out)
        size = float(m.group(1))
        paused.append(float(m.group(2)))
        whole.append(float(m.group(3)))
    used = (processor_ms(pid) - before) / rounds
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    sums = (now.ru_utime + now.ru_stime - used_by_commands.ru_utime - used_by_commands.ru_stime) * 1000 / rounds
    b.end("a")
    print("save 256 MiB (%.0f MiB not zero): stands still for %.0f ms (best %.0f), %.0f ms in all (best %.0f); its "
          "process computes for %.0f ms, the command for %.0f ms; this host copies %.1f GB/s"
          % (size, statistics.median(paused), min(paused), statistics.median(whole), min(whole), used, sums, copy_rate()))
    verdict("standing still for a full snapshot, best", min(paused), 100, "ms")
    verdict("standing still for a full snapshot, processor time", used, 100, "ms")


def run_true(b):
    begin = time.monotonic()
    pid = os.posix_spawn("/bin/true", ["/bin/true"], b.env)
    os.waitpid(pid, 0)
    return (time.monotonic() - begin) * 1000


def restore_once(b):
    """Milliseconds: from before exec until the processors may run, of them in the command, computing."""
    with open(b.dir + "/out", "w+") as out:
        begin = time.monotonic()
        p = subprocess.Popen([SOSIA, "restore", "--quiet", "--stats", "--paused", "--name", "r", "--console", "none",
                              b.dir + "/s"], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=b.env)
        while "r " not in b.sosia("ls", check=False) and p.poll() is None:
            time.sleep(0.05)
        b.end("r")
        p.wait(timeout=60)
        out.seek(0)
        m = re.search(r"ready to run ([\d.]+) ms after .* command, ([\d.]+) ms of them computing, at ([\d.]+) s", out.read())
    return (float(m.group(3)) - begin) * 1000, float(m.group(1)), float(m.group(2))


def restore(b, rounds, memory):
    b.machine("a", "%dM" % memory)
    b.sosia("snapshot", "a", b.dir + "/s", "--no-sync", "--stop")
    b.end("a")
    restore_once(b)
    rows = [restore_once(b) for _ in range(rounds)]
    whole, command, computing = (sorted(r[i] for r in rows) for i in range(3))
    print("restore %4d MiB, from exec until it may run: %.1f ms (best %.1f), %.1f ms (best %.1f) of them in the command; "
          "%.1f ms computing" % (memory, statistics.median(whole), whole[0], statistics.median(command), command[0],
                                 statistics.median(computing)))
    return statistics.median(computing), whole[0]


def restores(b, rounds):
    for memory in 128, 2048, 512:  # the last one is for the copies
        computing, best = restore(b, rounds, memory)
    print("  /bin/true on this host: %.1f ms" % statistics.median(run_true(b) for _ in range(rounds)))
    verdict("restore of 512 MiB, best", best, 5, "ms")
    verdict("restore of 512 MiB, processor time", computing, 5, "ms")


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
    verdict("memory of its own of a copy", statistics.median(dirty) / 1024, 3, "MiB")
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
        restores(b, a.rounds)
        clones(b, a.clones)
    finally:
        for line in b.sosia("ls", check=False).splitlines()[1:]:
            b.end(line.split()[0])
        shutil.rmtree(b.dir, ignore_errors=True)


if __name__ == "__main__":
    main()
