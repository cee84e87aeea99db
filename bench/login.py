#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: bench/login.py [--rounds N] [--second] [--boot-disk]

A Debian system (make debian-image) to its login prompt: Sosia's software engine and QEMU's TCG with the
same kernel, initial RAM disk, image and virtio devices, one after the other, N times round; --second: an image that
was started before, so without the making of ssh's keys, which takes a time that varies by seconds; --boot-disk: Sosia
with the kernel out of the image, too. Prints medians of wall time and of processor time, and the ratios; nothing is
asserted. One second of each is a sleep of agetty in front of its prompt.
"""
import argparse
import os
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import time

SOSIA = os.environ.get("SOSIA", "build/sosia")
DEBIAN = "build/guests/debian"
CMDLINE = "root=/dev/vda rw console=ttyS0 quiet"
PROMPT = b"sosia login:"
LIMIT = 600


def sosia(disk):
    return [SOSIA, "run", "--engine", "soft", "--quiet", "--cpus", "1", "--memory", "512M", "--kernel",
            DEBIAN + "/vmlinuz", "--initrd", DEBIAN + "/initrd.img", "--cmdline", CMDLINE, "--disk", disk,
            "--net", "user"]


def sosia_boot_disk(disk):
    return [SOSIA, "run", "--engine", "soft", "--quiet", "--cpus", "1", "--memory", "512M", "--boot", "disk", "--disk",
            disk, "--cmdline", CMDLINE, "--net", "user"]


def qemu(disk):
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512", "-nographic",
            "-nodefaults", "-no-reboot", "-serial", "stdio", "-kernel", DEBIAN + "/vmlinuz", "-initrd",
            DEBIAN + "/initrd.img", "-append", CMDLINE, "-drive", "file=%s,if=none,id=d,format=qcow2" % disk,
            "-device", "virtio-blk-pci,drive=d", "-netdev", "user,id=n", "-device",
            "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-rng-pci"]


def copy(image, disk):
    """Written out before the clock runs, or the guest's first flush of its disk would wait for all of it."""
    subprocess.run([SOSIA, "image", "convert", "--to", "qcow2", image, disk], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    fd = os.open(disk, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def wait_prompt(p):
    """Does it come? And the end of what was said."""
    text, end = b"", time.time() + LIMIT
    while PROMPT not in text and time.time() < end:
        if not select.select([p.stdout], [], [], 1)[0]:
            continue
        piece = os.read(p.stdout.fileno(), 65536)
        if not piece:
            break
        text = (text + piece)[-10000:]
    return PROMPT in text, text


def start_once(image):
    """Starts the system on that image and presses the power button; says whether it ended by itself."""
    name = "login-%d" % os.getpid()
    p = subprocess.Popen(sosia(image) + ["--name", name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    there, text = wait_prompt(p)
    if there:
        subprocess.run([SOSIA, "stop", "--timeout", "100", name], check=False)
    else:
        print("no login prompt; the last of it: %s" % text[-500:].decode(errors="replace"))
        p.kill()
    p.communicate()
    return there and p.returncode == 0


def login(make, image, directory):
    """(wall seconds, processor seconds) to the prompt, from a fresh copy of the image; or None."""
    disk = os.path.join(directory, "disk.qcow2")
    copy(image, disk)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.time()
    p = subprocess.Popen(make(disk), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    there, text = wait_prompt(p)
    wall = time.time() - begin
    p.kill()
    p.wait()
    p.stdout.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.unlink(disk)
    if not there:
        print("no login prompt; the last of it: %s" % text[-500:].decode(errors="replace"))
        return None
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--second", action="store_true")
    parser.add_argument("--boot-disk", action="store_true")
    opt = parser.parse_args()
    if not os.path.exists(DEBIAN + "/debian.qcow2"):
        print("SKIPPED: %s/debian.qcow2 is not there: make debian-image" % DEBIAN)
        return 0
    monitors = {"Sosia, soft": sosia, "QEMU, TCG": qemu}
    if opt.boot_disk:
        monitors["--boot disk"] = sosia_boot_disk
    seen = {name: [] for name in monitors}
    with tempfile.TemporaryDirectory(dir="build") as directory:
        image = DEBIAN + "/debian.qcow2"
        if opt.second:
            image = os.path.join(directory, "started.qcow2")
            copy(DEBIAN + "/debian.qcow2", image)
            if not start_once(image):
                print("the machine that was to be started once did not shut down")
                return 1
        for _ in range(opt.rounds):
            for name, make in monitors.items():
                result = login(make, image, directory)
                if result:
                    seen[name].append(result)
                    print("%s: %.1f s, %.1f s of processor time" % (name, *result), flush=True)
    if not all(seen.values()):
        return 1
    middle = {n: [statistics.median(x) for x in zip(*r)] for n, r in seen.items()}
    print("Debian to its login prompt, %s start, median of %d" % ("second" if opt.second else "first", opt.rounds))
    for name, (wall, cpu) in middle.items():
        print("  %-12s %6.1f s   processor %6.1f s" % (name, wall, cpu))
    s, q, *_ = middle.values()
    print("  QEMU / Sosia %6.2f     processor %6.2f" % (q[0] / s[0], q[1] / s[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
