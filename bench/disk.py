#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: bench/disk.py [--rounds N] [--seconds S] [--kvm]

The rows of bench/disk.c on the host's own file system, and in the same guest under Sosia and QEMU, raw and
qcow2, with io_uring and with threads, in turns; medians and ratios. Throughput and IOPS: more is better;
fsync: less is. Rows named cpu: processor time of the monitor (natively: of the program) for each read,
write or MiB, for hosts that others use, too. Ratios are Sosia to QEMU, above 1 where Sosia is ahead.
"""
import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading

KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"
INITRD = "build/tests/storage/initrd.img"
NATIVE = "build/tests/storage/disk"
SIZE = 256
ROW = re.compile(r"^row (\S+) ([\d.]+) (\S+) (\d+)")


def disk(tmp, fmt):
    path = os.path.join(tmp, "disk." + fmt)
    if os.path.exists(path):
        os.unlink(path)
    command = ["build/sosia", "image", "create", "--format", fmt, path, "%dM" % SIZE]
    subprocess.run(command, check=True)
    return path


def sosia(opt, fmt, aio, path):
    engine = ["--engine", "kvm"] if opt.kvm else ["--engine", "soft", "--translator", "on"]
    return ["build/sosia", "run", "--quiet", *engine, "--memory", "512M", "--kernel", KERNEL, "--initrd", INITRD,
            "--cmdline", cmdline(opt), "--disk", "%s,format=%s,aio=%s" % (path, fmt, aio)]


def qemu(opt, fmt, aio, path):
    engine = ["-accel", "kvm", "-cpu", "host"] if opt.kvm else ["-accel", "tcg", "-cpu", "max"]
    return ["qemu-system-x86_64", *engine, "-m", "512", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
            "-kernel", KERNEL, "-initrd", INITRD, "-append", cmdline(opt), "-drive",
            "file=%s,format=%s,if=virtio,aio=%s,discard=unmap" % (path, fmt, aio)]


def cmdline(opt):
    return 'console=ttyS0 quiet mitigations=off sosia.run="disk /dev/vda %d %g"' % (SIZE, opt.seconds)


def processor_us(pid):
    """Processor time of the process so far, its io_uring workers included."""
    with open("/proc/%d/stat" % pid, encoding="utf-8") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def measure(command):
    """{row: (value, unit)} and, named "row, cpu", processor time for each read, write or MiB."""
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    killer = threading.Timer(300, p.kill)
    killer.start()
    rows, text, before = {}, "", None
    try:
        for line in p.stdout:
            text = (text + line.decode(errors="replace"))[-500:]
            found = ROW.search(line.decode(errors="replace"))
            if not found and b"disk ready" not in line:
                continue
            now = processor_us(p.pid)
            if found:
                name, value, unit, done = found.groups()
                rows[name] = (float(value), unit)
                rows[name + ", cpu"] = ((now - before) / int(done), "us")
            before = now
    finally:
        killer.cancel()
        p.kill()  # also when we are ended
        p.wait()
    if not rows:
        print("no rows: %s\n%s" % (" ".join(command), text))
    return rows


def native(opt, tmp):
    return measure([NATIVE, disk(tmp, "raw"), str(SIZE), "%g" % opt.seconds])


def print_table(opt, results):
    names = list(dict.fromkeys(name for runs in results.values() for r in runs for name in r))
    units = {name: r[name][1] for runs in results.values() for r in runs for name in r}
    median = {k: {n: statistics.median([r[n][0] for r in runs if n in r]) for n in names if any(n in r for r in runs)}
              for k, runs in results.items()}
    for fmt in opt.formats:
        for aio in opt.aio:
            print("\n%s, aio=%s" % (fmt, aio))
            print("%-19s%6s%12s%12s%12s%12s" % ("row", "", "host", "Sosia", "QEMU", "Sosia/QEMU"))
            for n in names:
                host, s, q = (median.get(k, {}).get(n) for k in ("native", "sosia-%s-%s" % (fmt, aio),
                                                                 "qemu-%s-%s" % (fmt, aio)))
                if not s or not q:
                    continue
                ratio = q / s if units[n] == "us" else s / q
                print("%-19s%6s%12s%12.1f%12.1f%12.2f" % (n, units[n], "%.1f" % host if host else "-", s, q, ratio))


def one_round(opt, tmp, number, results):
    results.setdefault("native", []).append(native(opt, tmp))
    for fmt in opt.formats:
        for aio in opt.aio:
            for name, command in (("sosia", sosia), ("qemu", qemu)):
                print("round %d: %s %s %s" % (number, name, fmt, aio), flush=True)
                rows = measure(command(opt, fmt, aio, disk(tmp, fmt)))
                results.setdefault("%s-%s-%s" % (name, fmt, aio), []).append(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--kvm", action="store_true")
    parser.add_argument("--dir", default="build", help="where the disks are")
    parser.add_argument("--formats", nargs="*", default=["raw", "qcow2"])
    parser.add_argument("--aio", nargs="*", default=["io_uring", "threads"])
    opt = parser.parse_args()
    results = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=opt.dir) as tmp:
        try:
            for i in range(opt.rounds):
                one_round(opt, tmp, i + 1, results)
        except (KeyboardInterrupt, SystemExit):
            print("interrupted: what there is so far")
    print_table(opt, results)


if __name__ == "__main__":
    main()
