#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/storage/full.py

A host disk that fills up under a running guest: a small memory file system, a qcow2 image on it and a guest
that writes more than fits. on-full=error: the guest gets I/O errors and the machine goes on; on-full=pause:
the machine stands still until the file system is made larger, and every byte arrives. Both ways the image is
clean afterwards. Needs root, to mount. Prints, last, "full: N passed, N failed, N skipped".
"""
import os
import subprocess
import sys
import tempfile
import time

SOSIA = os.environ.get("SOSIA", "build/sosia")
KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"
INITRD = "build/tests/storage/initrd.img"
SCRIPT = "yes sosia | head -c 12m > /tmp/a; dd if=/tmp/a of=/dev/vda bs=64k conv=fsync; echo dd $?; echo alive"


def start(path, mode):
    return subprocess.Popen(
        [SOSIA, "run", "--quiet", "--engine", "soft", "--memory", "256M", "--kernel", KERNEL, "--initrd", INITRD,
         "--cmdline", 'console=ttyS0 quiet sosia.run="%s"' % SCRIPT, "--disk", "%s,on-full=%s" % (path, mode)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def clean(path):
    p = subprocess.run(["qemu-img", "check", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return None if p.returncode in (0, 3) else p.stdout.decode()


def errors(path):
    p = start(path, "error")
    text = p.communicate(timeout=180)[0].decode(errors="replace")
    if "dd 1" not in text or "alive" not in text or p.returncode:
        return "the guest saw no error, or did not go on: %d\n%s" % (p.returncode, text[-1500:])
    return clean(path)


def pauses(path):
    mount = os.path.dirname(path)
    p = start(path, "pause")
    text = b""
    end = time.time() + 120
    while b"machine is paused" not in text and time.time() < end:
        piece = os.read(p.stdout.fileno(), 65536)
        if not piece:
            break
        text += piece
    time.sleep(1)
    subprocess.run(["mount", "-o", "remount,size=40m", mount], check=True)
    text = (text + p.communicate(timeout=180)[0]).decode(errors="replace")
    if "machine goes on" not in text or "dd 0" not in text or p.returncode:
        return "no pause, or no end of it: %d\n%s" % (p.returncode, text[-1500:])
    raw = path + ".raw"
    subprocess.run([SOSIA, "image", "convert", "--to", "raw", path, raw], check=True)
    with open(raw, "rb") as f:
        if f.read(12 << 20) != (b"sosia\n" * (2 << 20 | 1))[:12 << 20]:
            return "not what the guest wrote"
    return clean(path)


def main():
    count = dict(passed=0, failed=0)
    for test in (errors, pauses):
        with tempfile.TemporaryDirectory(dir="build") as tmp:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", tmp], stderr=subprocess.DEVNULL,
                                  check=False)
            if done.returncode:
                print("SKIPPED: cannot mount a file system\nfull: 0 passed, 0 failed, 1 skipped")
                return 0
            try:
                path = os.path.join(tmp, "disk")
                subprocess.run([SOSIA, "image", "create", path, "32M"], check=True)
                wrong = test(path)
            except subprocess.TimeoutExpired:
                wrong = "no end"
            finally:
                subprocess.run(["umount", "-l", tmp], check=True)
        count["failed" if wrong else "passed"] += 1
        if wrong:
            print("FAILED %s: %s" % (test.__name__, wrong))
    print("full: %(passed)d passed, %(failed)d failed" % count)
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
