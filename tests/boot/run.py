#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/boot/run.py [--engine soft|kvm] [--sosia FILE] [--log DIR] [PATTERN...]

Boots the guests of cases.py at a pseudo-terminal and checks what they say. PATTERN selects cases by
name. Prints a line for each and, last, "boot: N passed, N failed, N skipped".
"""
import argparse
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(__file__))
from cases import CASES  # noqa: E402


class Machine:
    """A running sosia with its terminal."""

    def __init__(self, command):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)
        self.deadline = 0

    def read(self, wait):
        """Reads what there is, at most `wait` seconds. False when the process closed its terminal."""
        if not select.select([self.fd], [], [], wait)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def type(self, text):
        os.write(self.fd, text.encode())

    def status(self, timeout):
        end = time.time() + timeout
        while time.time() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return None

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def in_order(patterns, text):
    """The first pattern that does not follow its predecessors in text, or None."""
    at = 0
    for p in patterns:
        m = re.compile(p).search(text, at)
        if not m:
            return p
        at = m.end()
    return None


def drive(m, case):
    """Runs the dialogue. Returns an error text or None."""
    send = list(case.get("send", []))
    seen = case.get("seen")
    mark = 0
    end = time.time() + case["timeout"]
    while time.time() < end:
        if not m.read(0.2):
            return None
        while send and re.search(send[0][0], m.text[mark:]):
            mark = len(m.text)
            m.type(send.pop(0)[1])
        if seen and re.search(seen, m.text):
            m.type("\x01x")
            seen = None
    return "no end after %d s" % case["timeout"]


def check(case, m, names):
    error = drive(m, case)
    if error:
        m.kill()
        return error
    status = m.status(10)
    if status is None:
        m.kill()
        return "terminal closed, but the process did not end"
    missing = in_order(case["expect"], m.text)
    if missing:
        return "not seen: %s" % missing
    if status != case["status"]:
        return "exit status %s, not %s" % (status, case["status"])
    if "unchanged" in case:
        with open(case["unchanged"].format(**names), "rb") as f:
            if f.read().strip(b"\0"):
                return "%s was written" % case["unchanged"].format(**names)
    for path, content in case.get("files", {}).items():
        with open(path.format(**names), encoding="utf-8", errors="replace") as f:
            if content not in f.read():
                return "%s does not contain %r" % (path, content)
    return None


def substitute(args, names):
    """Replaces {name} by its value; other braces stay."""
    return [re.sub(r"\{(\w+)\}", lambda m: names.get(m.group(1), m.group(0)), a) for a in args]


def missing_guest(command):
    for option, value in zip(command, command[1:]):
        if option in ("--kernel", "--initrd") and not os.path.exists(value):
            return value
    return None


def run_case(case, opt, tmp):
    disk = os.path.join(tmp, "disk.img")
    with open(disk, "wb") as f:
        f.truncate(8 << 20)
    qcow2 = os.path.join(tmp, "disk.qcow2")
    if any("{qcow2}" in a for a in case["args"]):
        subprocess.run([opt.sosia, "image", "create", qcow2, "8M"], check=True)
    names = dict(qcow2=qcow2, cloud="build/guests/linux-cloud-amd64", stock="build/guests/linux-amd64",
                 rt="build/guests/linux-rt-amd64", pae="build/guests/linux-686-pae",
                 others="build/guests/others", memtest="build/guests/memtest/memtest.bin", disk=disk, tmp=tmp)
    command = [opt.sosia, "run", "--engine", opt.engine, *substitute(case["args"], names)]
    if missing_guest(command):
        return "skip", "%s is not there" % missing_guest(command)
    m = Machine(command)
    error = check(case, m, names)
    if opt.log:
        os.makedirs(opt.log, exist_ok=True)
        name = re.sub(r"\W+", "-", "%s-%s" % (opt.engine, case["name"]))
        with open(os.path.join(opt.log, name + ".log"), "w", encoding="utf-8") as f:
            f.write(" ".join(command) + "\n" + m.text)
    if error:
        tail = "\n".join(m.text.splitlines()[-25:])
        return "fail", "%s\n--- last lines\n%s\n---" % (error, tail)
    return "pass", ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--sosia", default="build/sosia")
    parser.add_argument("--log")
    parser.add_argument("pattern", nargs="*")
    opt = parser.parse_args()
    count = dict(passed=0, failed=0, skipped=0)
    for case in CASES:
        if case.get("engine", opt.engine) != opt.engine:
            continue
        if opt.pattern and not any(p in case["name"] for p in opt.pattern):
            continue
        with tempfile.TemporaryDirectory() as tmp:
            start = time.time()
            result, why = run_case(case, opt, tmp)
        count[{"pass": "passed", "fail": "failed", "skip": "skipped"}[result]] += 1
        print("%-7s %s: %s (%.1f s)%s" % (
            {"pass": "ok", "fail": "FAILED", "skip": "SKIPPED"}[result], opt.engine, case["name"],
            time.time() - start, ": " + why if why else ""), flush=True)
    print("boot: %(passed)d passed, %(failed)d failed, %(skipped)d skipped" % count)
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
