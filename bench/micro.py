#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: bench/micro.py [--rounds N]

Runs the same program natively and in guests (same kernel, same initramfs) under each monitor, one
after the other, N times round, and prints the median of each row with ratios. Times are never
asserted: they belong to the machine they were measured on.
"""
import argparse
import os
import re
import resource
import statistics
import subprocess
import time

KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"
INITRD = "build/bench/initrd.img"
CMDLINE = 'console=ttyS0 quiet mitigations=off sosia.nomodules sosia.run="rows 0.2"'
ROW = re.compile(r"^row (\S+) ([\d.]+)", re.M)
READY = re.compile(r"init reached, uptime ([\d.]+)")
LIMIT = 900


def kvm_works():
    out = subprocess.run(["build/sosia", "run", "--engine", "auto", "--test-devices", "--memory", "64M",
                          "--kernel", "build/guest-tests/first.elf"],
                         stdin=subprocess.DEVNULL, capture_output=True, check=False).stderr.decode()
    return "engine kvm" in out


def monitors():
    sosia = ["build/sosia", "run", "--memory", "512M", "--kernel", KERNEL, "--initrd", INITRD, "--cmdline", CMDLINE]
    qemu = ["qemu-system-x86_64", "-m", "512", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
            "-kernel", KERNEL, "-initrd", INITRD, "-append", CMDLINE]
    table = {"native": ["build/bench/rows", "0.2"], "sosia-soft": [*sosia, "--engine", "soft", "--translator", "off"],
             "sosia-tr": [*sosia, "--engine", "soft", "--translator", "on"],
             "qemu-tcg": [*qemu, "-accel", "tcg", "-cpu", "max"]}
    if kvm_works():
        table["sosia-kvm"] = [*sosia, "--engine", "kvm"]
        table["qemu-kvm"] = [*qemu, "-accel", "kvm", "-cpu", "host"]
    return table


def run(command):
    """Rows of one run, and the wall time from start to the guest's init."""
    start = time.time()
    ready = None
    text = ""
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while True:
        data = os.read(p.stdout.fileno(), 65536)
        if not data or time.time() - start > LIMIT:
            break
        text += data.decode("utf-8", "replace")
        if ready is None and READY.search(text):
            ready = time.time() - start
    p.kill()
    p.wait()
    rows = {name: float(ns) for name, ns in ROW.findall(text)}
    if ready is not None:
        rows["boot-to-init"] = ready * 1e9
    return rows


def unit(ns):
    for limit, name, div in ((1e3, "ns", 1), (1e6, "us", 1e3), (1e9, "ms", 1e6)):
        if ns < limit:
            return "%.3g %s" % (ns / div, name)
    return "%.3g s" % (ns / 1e9)


def start_cost(engine):
    """Wall time of a whole process whose guest leaves with its first instructions, and its peak memory."""
    command = ["build/sosia", "run", "--quiet", "--engine", engine, "--memory", "64M", "--test-devices",
               "--console", "none", "--kernel", "build/guest-tests/first.elf"]
    times = []
    for _ in range(20):
        start = time.time()
        p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)
        if p.returncode != 65:
            return None
        times.append(time.time() - start)
    return statistics.median(times) * 1e9


def stats(engine):
    """Figures that the monitor itself reports for a boot: instructions a second, memory beside RAM."""
    command = ["build/sosia", "run", "--quiet", "--stats", "--engine", engine, "--memory", "256M", "--kernel",
               KERNEL, "--initrd", INITRD, "--cmdline", 'console=ttyS0 quiet sosia.nomodules sosia.run=true']
    p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                       check=False)
    return [line[len("sosia: "):] for line in p.stderr.decode().splitlines() if "stats" in line]


def ratio(a, b):
    return "%.2f" % (a / b) if a and b else "-"


def print_table(results):
    names = list(results)
    rows = []
    for runs in results.values():
        for r in runs:
            rows += [n for n in r if n not in rows]
    median = {m: {r: statistics.median([x[r] for x in runs if r in x]) for r in rows
                  if any(r in x for x in runs)} for m, runs in results.items()}
    print("%-15s" % "row" + "".join("%14s" % n for n in names) + "   soft/native  tr/native  tcg/soft   tcg/tr")
    for r in rows:
        cells = "".join("%14s" % (unit(median[m][r]) if r in median[m] else "-") for m in names)
        native, soft, tr, tcg = (median.get(m, {}).get(r) for m in ("native", "sosia-soft", "sosia-tr", "qemu-tcg"))
        print("%-15s%s  %12s %10s %9s %8s" % (r, cells, ratio(soft, native), ratio(tr, native), ratio(tcg, soft),
                                              ratio(tcg, tr)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    table = monitors()
    results = {name: [] for name in table}
    for i in range(rounds):
        for name, command in table.items():
            print("round %d: %s" % (i + 1, name), flush=True)
            results[name].append(run(command))
    print()
    print_table(results)
    print()
    for engine in ("soft", "kvm"):
        cost = start_cost(engine) if engine == "soft" or os.path.exists("/dev/kvm") else None
        print("%s: process start to the guest's exit at its first instructions: %s" % (
            engine, unit(cost) if cost else "not available here"))
    for line in stats("soft"):
        print("soft boot: " + line)
    print("peak memory of any child: %d MiB" % (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024))


if __name__ == "__main__":
    main()
