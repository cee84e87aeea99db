#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/fence/intruder.py

Plays an intruder: starts machines, stops them in gdb and makes system calls from inside the monitor,
on its event thread and on a vCPU's, as code would that a guest got in. What the fence refuses fails
with EPERM or EACCES; what only an intruder does ends the process with SIGSYS.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOSIA = os.environ.get("SOSIA", os.path.join(ROOT, "build/sosia"))
GUEST = os.path.join(ROOT, "build/guests/linux-cloud-amd64")
EPERM, EACCES = 1, 13
passed = failed = 0

# numbers of arch/x86/entry/syscalls/syscall_64.tbl
NR = dict(open=2, mmap=9, mprotect=10, socket=41, clone=56, kill=62, ptrace=101, execve=59, openat=257,
          ioctl=16, process_vm_readv=310, io_uring_setup=425, perf_event_open=298, bpf=321, unlink=87,
          mount=165, setuid=105, userfaultfd=323, unshare=272, getppid=110, pidfd_open=434, connect=42)


def check(good, what):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("FAILED:", what, flush=True)


def heap_end(pid):
    with open("/proc/%d/maps" % pid) as f:
        for line in f:
            if "[heap]" in line:
                return int(line.split()[0].split("-")[1], 16)
    raise SystemExit("no heap")


class Machine:
    """A Linux guest that idles at its shell."""

    def __init__(self, *options, fence="on"):
        self.log = tempfile.TemporaryFile()
        self.p = subprocess.Popen(
            [SOSIA, "run", "--engine", "soft", "--quiet", "--memory", "128M", "--fence", fence,
             "--kernel", GUEST + "/vmlinuz", "--initrd", GUEST + "/initrd.img",
             "--cmdline", "console=ttyS0 quiet", *options],
            stdin=subprocess.PIPE, stdout=self.log, stderr=self.log)
        self.wait_for(b"init reached")

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def wait_for(self, text):
        end = time.time() + 60
        while text not in self.output():
            if time.time() > end or self.p.poll() is not None:
                raise SystemExit("the guest did not come up: %r" % self.output()[-2000:])
            time.sleep(0.05)

    def thread(self, name):
        for tid in os.listdir("/proc/%d/task" % self.p.pid):
            with open("/proc/%d/task/%s/comm" % (self.p.pid, tid)) as f:
                if f.read().strip().startswith(name):
                    return int(tid)
        raise SystemExit("no thread " + name)

    def intrude(self, thread, calls, deadly=False):
        """Makes the calls [(name, args...)] on the thread: their results (-errno). deadly: none is
        expected, and gdb has much to say about a process that it loses."""
        tid = self.thread(thread)
        script = ["set pagination off", "set confirm off", "set scheduler-locking on",
                  "python\nfor t in gdb.selected_inferior().threads():\n"
                  "    if t.ptid[1] == %d: t.switch()\nend" % tid]
        # translated code keeps the guest's stack pointer in RSP: a stack of the intruder's own
        script += ["set $saved = $rsp", "set $rsp = %d" % (heap_end(self.p.pid) - 512)]
        for name, *args in calls:
            text = ", ".join(map(str, [NR[name]] + args + [0] * (6 - len(args))))
            script.append("print ((long(*)(long,...))syscall)(%s)" % text)
            script.append("print *((int*(*)(void))__errno_location)()")
        script.append("set $rsp = $saved")
        with tempfile.NamedTemporaryFile("w", suffix=".gdb") as f:
            f.write("\n".join(script) + "\n")
            f.flush()
            out = subprocess.run(["gdb", "-nx", "-q", "-batch", "-p", str(self.p.pid), "-x", f.name],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
                                 universal_newlines=True).stdout
        values = [int(v) for v in re.findall(r"^\$\d+ = (-?\d+)", out, re.M)]
        results = [-values[i + 1] if values[i] == -1 else values[i] for i in range(0, len(values) - 1, 2)]
        if len(results) < len(calls) and not deadly:
            print(out[-3000:])
        return results

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        try:
            return self.p.wait(20)
        except subprocess.TimeoutExpired:
            self.p.kill()
            return self.p.wait()


def text_at(machine, path):
    """An address in the monitor where path now stands: the top of the heap, nothing is there yet."""
    at = heap_end(machine.p.pid) - 256
    with open("/proc/%d/mem" % machine.p.pid, "r+b", buffering=0) as f:
        f.seek(at)
        f.write(path.encode() + b"\0")
    return at


def refused(machine, thread, extra_allowed=()):
    path = text_at(machine, "/etc/passwd")
    calls = [("open", path), ("openat", -100, path, 0), ("socket", 2, 1, 0), ("socket", 1, 1, 0),
             ("mmap", 0, 4096, 7, 0x22, -1, 0), ("mprotect", path & ~4095, 4096, 5),
             ("clone", 17), ("kill", 1, 0), ("ioctl", 0, 0x5412, path), ("getppid",)]
    results = machine.intrude(thread, calls)
    check(len(results) == len(calls), "%s: %s" % (thread, results))
    for call, result in zip(calls, results):
        if call in extra_allowed:
            continue
        check(result in (-EPERM, -EACCES), "%s: %s gave %s" % (thread, call, result))


def deadly(name, *args):
    m = Machine()
    m.intrude("vcpu" if name in ("execve", "ptrace") else "sosia", [(name, *args)], deadly=True)
    try:
        result = m.p.wait(10)
    except subprocess.TimeoutExpired:
        m.p.kill()
        result = m.p.wait()
    check(result == -signal.SIGSYS, "%s: exit status %s, not SIGSYS" % (name, result))


def status(pid):
    out = []
    for tid in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/status" % (pid, tid)) as f:
            out.append(dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line))
    return out


def bounds():
    inherited = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    m = Machine.__new__(Machine)
    popen = subprocess.Popen
    subprocess.Popen = lambda *a, **k: popen(*a, pass_fds=[inherited], **k)
    m.__init__("--net", "user")
    subprocess.Popen = popen
    for s in status(m.p.pid):
        check(s["Seccomp"] == "2" and s["NoNewPrivs"] == "1", "no filter: %s" % s["Name"])
        check(int(s["CapEff"], 16) == 0 and int(s["CapPrm"], 16) == 0 and int(s["CapBnd"], 16) == 0,
              "capabilities: %s %s" % (s["Name"], s["CapEff"]))
    fds = "/proc/%d/fd" % m.p.pid
    names = [os.readlink(os.path.join(fds, f)) for f in os.listdir(fds)]
    check(os.path.realpath("/etc/hostname") not in names, "an inherited descriptor is open: %s" % names)
    with open("/proc/%d/limits" % m.p.pid) as f:
        check(re.search(r"Max core file size\s+0\s+0", f.read()), "core files are allowed")
    check(m.stop() == 0, "a fenced machine did not end well")
    os.close(inherited)


def landlock():
    """A user network may open its resolver's file, by Landlock no other."""
    m = Machine("--net", "user")
    with open("/sys/kernel/security/lsm") if os.path.exists("/sys/kernel/security/lsm") else open(
            os.devnull) as f:
        lsm = f.read()
    path = text_at(m, "/etc/passwd")
    result = m.intrude("sosia", [("open", path)])
    if "landlock" in lsm:
        check(result == [-EACCES], "open of /etc/passwd with a user network: %s" % result)
    path = text_at(m, "/etc/resolv.conf")
    result = m.intrude("sosia", [("open", path)])
    check(result and result[0] >= 0, "open of /etc/resolv.conf: %s" % result)
    m.stop()


def works_after():
    """The machine still runs after an intruder's refused calls, and without a fence they work."""
    m = Machine()
    refused(m, "vcpu")
    refused(m, "sosia", [("kill", 1, 0)])
    m.p.stdin.write(b"echo st''ill\n")
    m.p.stdin.flush()
    m.wait_for(b"still")
    other = Machine(fence="off")
    path = text_at(other, "/proc/%d/mem" % m.p.pid)
    check(other.intrude("sosia", [("open", path)])[0] >= 0, "the test itself cannot open anything")
    other.stop()
    path = text_at(m, "/proc/%d/mem" % os.getpid())
    result = m.intrude("vcpu", [("open", path, 2)])
    check(result and result[0] in (-EPERM, -EACCES), "another process's memory: %s" % result)
    check(m.stop() == 0, "the machine did not end well")


def main():
    if not shutil.which("gdb"):
        raise SystemExit("fence: gdb is missing (scripts/setup.sh test)")
    works_after()
    bounds()
    landlock()
    for name, *args in (("execve", 0), ("ptrace", 16, 1), ("process_vm_readv", 1), ("io_uring_setup", 1),
                        ("perf_event_open", 0), ("pidfd_open", 1), ("unshare", 0x10000000)):
        deadly(name, *args)
    print("fence: %d passed, %d failed" % (passed, failed))
    return failed != 0


sys.exit(main())
