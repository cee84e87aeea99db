#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/stress/run.py [--long] [--engine soft] [--translator on|off] [--log DIR] [PATTERN...]

Boots Debian's kernel with the programs of tests/stress and looks at what they find out about themselves
(docs/testing.md). Without --long: a bounded part for CI. PATTERN selects machines or items by name ("1 processor", jit).
Prints a line for each item and, last, "stress: N passed, N failed, N skipped".
"""
import argparse
import os
import re
import subprocess
import sys
import time

ROOT = "build/guests/debian-stress"
KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"

PROGRAMS = ["jit", "crossmod", "maprace", "signals", "forks", "crosspage", "fpstate", "seg32", "seg64",
            "stepping", "order", "kernelpoke"]
CLASSES = ["ng:" + c for c in ("cpu", "vm", "memory", "futex", "switch", "fork", "mmap")]
MORE_CLASSES = ["ng:" + c for c in ("bsearch", "qsort", "context", "sigfpe", "sigsegv", "sigq", "timer", "pipe",
                                    "poll", "sem", "mutex", "mremap", "madvise", "mprotect", "vfork", "clone",
                                    "tsc", "clock", "icache", "stack", "bigheap", "atomic", "lockbus", "vecmath",
                                    "vecwide", "fp", "crypt", "getrandom", "rseq", "membarrier",
                                    "sigabrt", "sigsuspend", "x86syscall", "vdso", "shm", "userfaultfd", "tlb-shootdown")]

# A code cache so small that it is emptied all the time
SMALL_CACHE = ["--code-cache", "1"]
# Every 20th entry into translated code is repeated by the interpreter and compared
LOCK_STEP = ["--verify=20"]

# name, processors, MiB, seconds for each program, items, options
SHORT = [
    ("1 processor", 1, 512, 1, PROGRAMS + ["debug"], []),
    ("2 processors", 2, 768, 1, PROGRAMS + CLASSES + ["userland"], []),
    ("4 processors", 4, 512, 1, ["crossmod", "maprace", "order", "kernelpoke", "forks"], []),
    ("2 processors, small cache", 2, 512, 1, ["crossmod", "jit", "signals", "kernelpoke"], SMALL_CACHE),
    ("1 processor, lock-step", 1, 512, 1, ["jit", "signals", "crosspage", "seg64"], LOCK_STEP),
]
LONG = [("%d processor%s" % (n, "s"[n == 1:]), n, 1536, 15, PROGRAMS + CLASSES + MORE_CLASSES + ["userland", "debug"], [])
        for n in (1, 2, 4)]
LONG += [("2 processors, small cache", 2, 1024, 15, PROGRAMS, SMALL_CACHE),
         ("1 processor, lock-step", 1, 1024, 15, PROGRAMS, LOCK_STEP)]

# What the kernel says when it was hurt
HURT = re.compile(r"(?m)^.*(BUG:|Oops|general protection|Kernel panic|soft lockup|hard LOCKUP|blocked for more than|"
                  r"WARNING:|rcu: INFO|invalid opcode:|double fault|Marking clocksource|bad pagetable).*$")


def native(item):
    """What the item prints natively, in the same root."""
    command = ["/bin/sh", "-c", ". guests/lib.sh; in_root %s/root /extra/%s.sh" % (ROOT, item)]
    extra = os.path.join(ROOT, "root/extra")
    subprocess.run(["cp", "-r", "build/stress/root/extra/.", extra], check=True)
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300).stdout
    finally:
        subprocess.run("rm -rf %s/*" % extra, shell=True, check=False)


def lines(text):
    return [line.rstrip() for line in text.replace("\r", "").splitlines() if line.strip()]


def difference(want, got):
    for n, (a, b) in enumerate(zip(want, got)):
        if a != b:
            return "line %d: %r natively, %r in the guest" % (n + 1, a, b)
    if len(want) != len(got):
        return "%d lines natively, %d in the guest" % (len(want), len(got))
    return None


def boot(opt, machine, seconds, limit, log):
    """Returns what the guest said, and whether it came to its end."""
    _, cpus, memory, _, items, options = machine
    run = "/extra/guest.sh %s %s" % (seconds, " ".join(items))
    command = [opt.sosia, "run", "--engine", opt.engine, *(["--translator", opt.translator] if opt.translator else []),
               *options, "--cpus", str(cpus), "--memory", "%dM" % memory, "--kernel", KERNEL,
               "--initrd", "build/stress/initrd.img", "--disk", ROOT + "/root.img,readonly",
               "--cmdline", 'console=ttyS0 loglevel=4 sosia.run="%s"' % run]
    with open(log, "wb") as f:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT)
        try:
            ended = process.wait(timeout=limit) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = False
    with open(log, encoding="utf-8", errors="replace") as f:
        return f.read(), ended


def judge(item, text, natives):
    """None, or what is wrong with the item."""
    m = re.search(r"(?s)stress: begin %s\r?\n(.*?)stress: end %s (\d+)" % (re.escape(item), re.escape(item)), text)
    if not m:
        return "did not end" if "stress: begin " + item in text else "was not begun"
    said = m.group(1)
    if m.group(2) not in ("0", "4") or (m.group(2) == "4" and not item.startswith("ng:")):
        return "status %s\n%s" % (m.group(2), said[-3000:])
    if item.startswith("ng:") and re.search(r"(?m)fail: ", said):
        return said[-3000:]
    if item in ("userland", "debug"):
        if item not in natives:
            natives[item] = lines(native(item))
        return difference(natives[item], lines(said))
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--translator")
    parser.add_argument("--sosia", default="build/sosia")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--log", default="build/test-logs/stress")
    parser.add_argument("pattern", nargs="*")
    opt = parser.parse_args()
    count = dict(passed=0, failed=0, skipped=0)
    natives = {}
    os.makedirs(opt.log, exist_ok=True)
    for name, cpus, memory, seconds, items, options in LONG if opt.long else SHORT:
        if opt.pattern and name not in opt.pattern:
            items = [i for i in items if i in opt.pattern]
        if not items:
            continue
        seconds = opt.seconds or seconds
        start = time.time()
        log = os.path.join(opt.log, re.sub(r"\W+", "-", name) + ".log")
        machine = (name, cpus, memory, seconds, items, options if opt.translator == "on" else [])
        text, ended = boot(opt, machine, seconds, 300 + len(items) * (seconds * 4 + 20), log)
        results = [(item, judge(item, text, natives)) for item in items]
        hurt = HURT.search(text)
        results.append(("kernel", hurt.group(0) if hurt else None if ended else "the machine did not power off"))
        for item, wrong in results:
            count["failed" if wrong else "passed"] += 1
            print("%-6s %s: %s%s" % ("FAILED" if wrong else "ok", name, item, ": " + wrong if wrong else ""), flush=True)
        print("       %s: %.0f s" % (name, time.time() - start), flush=True)
    print("stress: %(passed)d passed, %(failed)d failed, %(skipped)d skipped" % count)
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
