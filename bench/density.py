#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: bench/density.py [--machines N] [--seconds S] [--memory MIB] [--engine soft|kvm] [--qemu N]

How many machines fit on this host: starts N machines of 128 MiB with a Linux guest, one after the
other, lets them idle, then gives each a little work (one short command a second). Prints for each
phase the medians per machine: memory beside guest RAM (proportional set size of everything but the
guest's RAM), guest RAM resident, processor time in percent of a core; and machines started a second.
--qemu N does the same with N machines of QEMU TCG. The limit: N, or a quarter of memory left."""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOSIA = os.environ.get("SOSIA", os.path.join(ROOT, "build/sosia"))
GUEST = os.path.join(ROOT, "build/guests/linux-cloud-amd64")
TICK = os.sysconf("SC_CLK_TCK")
CMDLINE = "console=ttyS0 quiet"
WORK = b"while sleep 1; do uname -a >/dev/null; done &\n"


def memory_left():
    with open("/proc/meminfo") as f:
        text = f.read()
    total, free = (int(re.search(k + r":\s+(\d+)", text).group(1)) for k in ("MemTotal", "MemAvailable"))
    return free / total


class Machine:
    def __init__(self, command):
        self.out = tempfile.TemporaryFile()
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self.out, stderr=self.out)

    def up(self):
        self.out.seek(0)
        text = self.out.read()
        if self.p.poll() is not None:
            raise SystemExit("density: a machine ended: %r" % text[-500:])
        return b"init reached" in text

    def ticks(self):
        with open("/proc/%d/stat" % self.p.pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def memory(self, ram_kib):
        """(beside guest RAM, guest RAM) resident, KiB."""
        beside = ram = size = 0
        is_ram = False
        with open("/proc/%d/smaps" % self.p.pid) as f:
            for line in f:
                m = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)", line)
                if m:
                    size = (int(m.group(2), 16) - int(m.group(1), 16)) // 1024
                    # QEMU's RAM has no name: the mapping of exactly that size
                    is_ram = "guest-ram" in m.group(3) or (not m.group(3) and size == ram_kib)
                elif line.startswith("Pss:"):
                    n = int(line.split()[1])
                    ram, beside = (ram + n, beside) if is_ram else (ram, beside + n)
        return beside, ram

    def end(self):
        self.p.kill()
        self.p.wait()


def start_all(command, n):
    machines, begin = [], time.time()
    while len(machines) < n and memory_left() > 0.25:
        m = Machine(command)
        machines.append(m)
        while not m.up():
            time.sleep(0.01)
    return machines, len(machines) / (time.time() - begin)


def look(name, phase, machines, seconds, ram_kib):
    before, begin = [m.ticks() for m in machines], time.time()
    time.sleep(seconds)
    span = time.time() - begin
    cpu = [(m.ticks() - b) / TICK / span * 100 for m, b in zip(machines, before)]
    memory = [m.memory(ram_kib) for m in machines]
    print("%-12s %-6s %4d machines: %6.1f MiB beside guest RAM (most %.1f), %6.1f MiB of guest RAM, %5.2f %% of a core "
          "(most %.2f)" % (name, phase, len(machines), statistics.median(b for b, _ in memory) / 1024,
                           max(b for b, _ in memory) / 1024, statistics.median(r for _, r in memory) / 1024,
                           statistics.median(cpu), max(cpu)), flush=True)


def measure(name, command, n, a):
    machines, rate = start_all(command, n)
    try:
        print("%-12s started %d, %.2f a second to the guest's init" % (name, len(machines), rate), flush=True)
        time.sleep(a.settle)
        look(name, "idle", machines, a.seconds, a.memory * 1024)
        for m in machines:
            m.p.stdin.write(WORK)
            m.p.stdin.flush()
        time.sleep(a.settle)
        look(name, "light", machines, a.seconds, a.memory * 1024)
    finally:
        for m in machines:
            m.end()


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("--machines", type=int, default=16)
    p.add_argument("--qemu", type=int, default=4)
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("--settle", type=float, default=80, help="seconds before looking at idle machines")
    p.add_argument("--memory", type=int, default=128)
    p.add_argument("--engine", default="soft")
    a = p.parse_args()
    boot = ["-kernel", GUEST + "/vmlinuz", "-initrd", GUEST + "/initrd.img", "-append", CMDLINE]
    measure("sosia " + a.engine,
            [SOSIA, "run", "--quiet", "--engine", a.engine, "--memory", "%dM" % a.memory,
             *["-" + o if o in ("-kernel", "-initrd") else "--cmdline" if o == "-append" else o for o in boot]],
            a.machines, a)
    if a.qemu:
        measure("qemu tcg", ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(a.memory),
                             "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", *boot], a.qemu, a)


sys.exit(main())
