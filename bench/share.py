#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: bench/share.py [--rounds N] [--mib N] [--files N] [--kvm]

The rows of bench/share.c in a shared folder: on the host itself, and in the same guest under Sosia and under QEMU with
Debian's virtiofsd, in turns; medians and ratios (above 1 where Sosia is ahead). More is better in all rows.
"""
import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time

KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"
INITRD = "build/tests/share/initrd.img"
NATIVE = "build/tests/share/share"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
ROW = re.compile(r"^row (\S+) ([\d.]+) (\S+)", re.M)


def cmdline(opt):
    run = "modprobe virtiofs; mkdir -p /a; mount -t virtiofs T /a && DROP=1 share /a %d %d" % (opt.mib, opt.files)
    return 'console=ttyS0 quiet mitigations=off sosia.run="%s"' % run


def rows_of(command):
    p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=900,
                       check=False)
    rows = {name: (float(value), unit) for name, value, unit in ROW.findall(p.stdout.decode(errors="replace"))}
    if not rows:
        print("no rows: %s\n%s" % (" ".join(command), (p.stdout + p.stderr).decode(errors="replace")[-800:]))
    return rows


def native(opt, folder, _tmp):
    return rows_of([NATIVE, folder, str(opt.mib), str(opt.files)])


def sosia(opt, folder, _tmp):
    return rows_of(["build/sosia", "run", "--quiet", "--engine", "kvm" if opt.kvm else "soft", "--memory", "512M",
                    "--kernel", KERNEL, "--initrd", INITRD, "--cmdline", cmdline(opt), "--share", folder + ",tag=T"])


def qemu(opt, folder, tmp):
    socket = os.path.join(tmp, "socket")
    server = subprocess.Popen([VIRTIOFSD, "--socket-path=" + socket, "-o", "source=" + folder, "-o", "cache=auto"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        if os.path.exists(socket):
            break
        time.sleep(0.1)
    engine = ["-accel", "kvm", "-cpu", "host"] if opt.kvm else ["-accel", "tcg", "-cpu", "max"]
    try:
        return rows_of(["qemu-system-x86_64", *engine, "-m", "512", "-nographic", "-no-reboot", "-nodefaults", "-serial",
                        "stdio", "-kernel", KERNEL, "-initrd", INITRD, "-append", cmdline(opt), "-object",
                        "memory-backend-memfd,id=m,size=512M,share=on", "-numa", "node,memdev=m", "-chardev",
                        "socket,id=c,path=" + socket, "-device", "vhost-user-fs-pci,chardev=c,tag=T,queue-size=1024"])
    finally:
        server.terminate()
        server.wait(20)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--mib", type=int, default=256)
    p.add_argument("--files", type=int, default=10000)
    p.add_argument("--kvm", action="store_true")
    opt = p.parse_args()
    subprocess.run(["tests/share/guest.sh"], check=True, stdout=subprocess.DEVNULL)
    kinds = {"host": native, "Sosia": sosia}
    if os.path.exists(VIRTIOFSD) and shutil.which("qemu-system-x86_64"):
        kinds["QEMU"] = qemu
    else:
        print("SKIPPED: QEMU or its virtiofsd is not installed (qemu-system-common)")
    results = {k: [] for k in kinds}
    for _ in range(opt.rounds):
        for kind, fn in kinds.items():
            tmp = tempfile.mkdtemp(prefix="sosia-share-")
            folder = os.path.join(tmp, "dir")
            os.mkdir(folder)
            results[kind].append(fn(opt, folder, tmp))
            shutil.rmtree(tmp, ignore_errors=True)
    print("%-16s%8s%12s%12s%12s%12s" % ("row", "", "host", "Sosia", "QEMU", "Sosia/QEMU"))
    for name in results["host"][0]:
        m = {k: statistics.median([r[name][0] for r in runs if name in r] or [0]) for k, runs in results.items()}
        q = m.get("QEMU", 0)
        print("%-16s%8s%12.0f%12.0f%12.0f%12s" % (name, results["host"][0][name][1], m["host"], m["Sosia"], q,
                                                  "%.2f" % (m["Sosia"] / q) if q else "-"))


if __name__ == "__main__":
    main()
