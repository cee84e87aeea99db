#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: bench/programs.py [--rows NAME,...] [--rounds N] [--monitors NAME,...] [--clock cpu]
                         [--write FILE]

Runs the rows of bench/progs.c natively and in guests (same kernel, same files) under each monitor.
All guests stay booted; each row runs in one after the other, so that what else the machine does
falls on all alike, and that is repeated N times. Prints medians, ratios and geometric means, and
fails when a program's output differs from the native one. Times are never asserted.
"""
import argparse
import json
import math
import os
import re
import select
import statistics
import subprocess
import sys
import time

KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"
SMALL = "build/guests/linux-cloud-amd64/initrd.img"
INITRD = "build/bench/programs.img"
ROOT = "build/guests/userland/root"
PROGS = "build/bench/progs"
TWELVE = ["openssl", "xz", "zstd", "python", "sqlite", "gcc", "forkexec", "pipes", "matrix", "getppid",
          "memcpy", "chase"]
MORE = ["boot", "fault", "signal", "pingpong", "fork", "avxdot", "movsb", "gcc40", "primes", "gcc1", "gcc2"]
TWO = ["gcc1", "gcc2"]  # one compiler, two at once, in guests with two vCPUs
CMDLINE = "console=ttyS0 quiet mitigations=off panic=-1"
BOOT_CMDLINE = CMDLINE + " sosia.nomodules sosia.run=true"
LIMIT = 900


def sosia(cpus, initrd, cmdline, *more):
    return ["build/sosia", "run", "--quiet", "--engine", "soft", "--cpus", str(cpus), "--memory", "1G", "--kernel",
            KERNEL, "--initrd", initrd, "--cmdline", cmdline, *more]


def qemu(cpus, initrd, cmdline):
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", str(cpus), "-m", "1024", "-nographic",
            "-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", KERNEL, "-initrd", initrd, "-append", cmdline]


def command(monitor, cpus, initrd=INITRD, cmdline=CMDLINE):
    if monitor == "native":
        return [PROGS, "--root", ROOT]
    if monitor == "tcg":
        return qemu(cpus, initrd, cmdline)
    mode = ["--translator", "on"] if monitor == "sosia" else ["--translator", "off"]
    return sosia(cpus, initrd, cmdline, "--stats", *mode)


class Machine:
    """A monitor with its guest, or the native program: takes row names, gives times."""

    def __init__(self, monitor, cpus, initrd=INITRD, cmdline=CMDLINE):
        self.name = "%s, %d vCPU" % (monitor, cpus)
        self.native = monitor == "native"
        self.log = open("build/bench/%s-%d.log" % (monitor, cpus), "wb")
        self.start = time.time()
        self.p = subprocess.Popen(command(monitor, cpus, initrd, cmdline), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=self.log)
        self.text = ""

    def wait(self, pattern, limit=LIMIT):
        """The match of pattern in what is said from now on; drops what was before it."""
        end = time.time() + limit
        while True:
            m = re.search(pattern, self.text)
            if m:
                self.text = self.text[m.end():]
                return m
            if not select.select([self.p.stdout], [], [], max(0, end - time.time()))[0]:
                raise RuntimeError("%s: nothing seen of %r in %d s: %s" % (self.name, pattern, limit, self.text[-500:]))
            data = os.read(self.p.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError("%s: ended: %s" % (self.name, self.text[-500:]))
            self.log.write(data)
            self.log.flush()
            self.text += data.decode("utf-8", "replace")

    def say(self, text):
        self.p.stdin.write(text.encode())
        self.p.stdin.flush()

    def cpu(self):
        """Processor time of the monitor so far."""
        with open("/proc/%d/stat" % self.p.pid, encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, row, clock):
        start, before = time.time(), self.cpu()
        self.say(row + "\n")
        m = self.wait(r"prog %s (?:(\d+) (\d+) (\w+)|failed[^\n]*)\r?\n" % row)
        if not m.group(1):
            raise RuntimeError("%s: %s" % (self.name, m.group(0).strip()))
        took, wall = int(m.group(1)) * 1e-9, time.time() - start
        if clock == "cpu":
            mine = int(m.group(2)) * 1e-9 if self.native else self.cpu() - before
            return mine, m.group(3)
        if took > wall + 0.01 or took < 0.8 * wall - 0.5:
            print("%s: %s: the guest's clock says %.3f s, the host's %.3f s" % (self.name, row, took, wall))
        return took, m.group(3)

    def off(self):
        try:
            self.say("off\n")
            self.p.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            self.p.kill()
            self.p.wait()
        self.log.close()


def boot(monitor, clock):
    """Time from the start of the process to the small guest's init."""
    m = Machine(monitor, 1, SMALL, BOOT_CMDLINE)
    try:
        m.wait("init reached")
        return m.cpu() if clock == "cpu" else time.time() - m.start
    finally:
        m.p.kill()
        m.p.wait()
        m.log.close()


def start_all(monitors, cpus):
    table = {}
    for name in monitors:
        if cpus:
            table[name] = Machine(name, cpus)
    for m in table.values():
        m.wait("progs: ready")
    return table


def one(name, row, machines, results, clock):
    if row == "boot":
        if name != "native":
            results[row].setdefault(name, []).append(boot(name, clock))
        return
    took, output = machines[2 if row in TWO else 1][name].run(row, clock)
    results[row].setdefault(name, []).append(took)
    known = results.setdefault("hashes", {}).setdefault(row, (name, output))
    if known[1] != output:
        raise RuntimeError("%s: %s wrote something else than %s" % (row, name, known[0]))


def measure(opt):
    rows, monitors = opt.rows, opt.monitors
    machines = {1: start_all(monitors, 1) if set(rows) - {"boot", *TWO} else {},
                2: start_all(monitors, 2) if set(rows) & set(TWO) else {}}
    results = {r: {} for r in rows}
    try:
        for k in range(opt.rounds):
            for row in rows:
                for name in monitors:
                    one(name, row, machines, results, opt.clock)
                print("round %d: %-9s %s" % (k + 1, row, "  ".join(
                    "%s %.3f" % (n, results[row][n][-1]) for n in monitors if n in results[row])), flush=True)
    finally:
        for table in machines.values():
            for m in table.values():
                m.off()
    return results


def ratio(a, b):
    return "%.2f" % (a / b) if a and b else "-"


def geomean(values):
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def table_of(results, monitors):
    lines = ["%-10s" % "row" + "".join("%12s" % m for m in monitors) + "%14s%12s" % ("sosia/native", "tcg/sosia")]
    slower, faster = [], []
    for row, runs in results.items():
        if row == "hashes":
            continue
        med = {m: statistics.median(runs[m]) for m in monitors if m in runs}
        native, mine, tcg = (med.get(m) for m in ("native", "sosia", "tcg"))
        lines.append("%-10s" % row + "".join("%12s" % ("%.3f" % med[m] if m in med else "-") for m in monitors) +
                     "%14s%12s" % (ratio(mine, native), ratio(tcg, mine)))
        if row in TWELVE and mine:
            slower += [mine / native] if native else []
            faster += [tcg / mine] if tcg else []
    lines.append("geometric mean over %d of the twelve: %s times native, %s times faster than TCG" % (
        max(len(slower), len(faster)), ratio(geomean(slower), 1), ratio(geomean(faster), 1)))
    return lines


def memory_line():
    try:
        with open("build/bench/sosia-1.log", encoding="utf-8", errors="replace") as f:
            found = [line.strip() for line in f if "memory beside" in line]
    except OSError:
        found = []
    return found[-1:] if found else []


def main():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--rows", default=",".join(TWELVE + MORE),
                        help="default: all; 'twelve' for the twelve programs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--monitors", default="native,sosia,tcg", help="of native, sosia, interpreter, tcg")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall",
                        help="cpu: processor time of the monitor, for hosts that others use, too")
    parser.add_argument("--write", metavar="FILE", help="all times as JSON")
    opt = parser.parse_args()
    opt.rows = TWELVE if opt.rows == "twelve" else opt.rows.split(",")
    opt.monitors = opt.monitors.split(",")
    unknown = [r for r in opt.rows if r not in TWELVE + MORE]
    if unknown:
        parser.error("no such row: %s (there are %s)" % (unknown[0], ", ".join(TWELVE + MORE)))
    try:
        results = measure(opt)
    except RuntimeError as e:
        print("programs: %s" % e)
        return 1
    if opt.write:
        with open(opt.write, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)
    print()
    print("\n".join(table_of(results, opt.monitors) + memory_line()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
