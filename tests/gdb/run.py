#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/gdb/run.py [--engine soft|kvm] [--sosia FILE] [--linux DIR] [--no-linux] [--verbose]

The real gdb against `sosia run --gdb unix:...`: a test guest with symbols, and a booted Debian kernel
(build/guests/linux-cloud-amd64). Prints a line per check and, last, "gdb: N passed, N failed".
"""
import argparse
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = "build/guest-tests/gdb_target.elf"


class Machine:
    """sosia at a pseudo-terminal."""

    def __init__(self, command):
        self.text = b""
        self.status = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)

    def read(self, wait):
        if self.fd is not None and select.select([self.fd], [], [], wait)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if data:
                self.text += data
                return
            os.close(self.fd)
            self.fd = None
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)

    def expect(self, text, timeout):
        end = time.time() + timeout
        while text not in self.text and self.status is None and time.time() < end:
            self.read(0.1)
        return text in self.text

    def type(self, text):
        self.text = b""
        os.write(self.fd, text)

    def end(self, timeout):
        """The exit status; None when it had to be killed."""
        end = time.time() + timeout
        while self.status is None and time.time() < end:
            self.read(0.05)
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return None
        return self.status


class Tests:
    def __init__(self, args):
        self.args = args
        self.passed = self.failed = 0
        self.dir = tempfile.mkdtemp(prefix="sosia-gdb")
        self.socket = os.path.join(self.dir, "gdb")

    def check(self, name, ok, detail=""):
        self.passed += ok
        self.failed += not ok
        print("%s %s: %s%s" % ("ok     " if ok else "FAILED ", self.args.engine, name,
                               "" if ok or detail == "" else ": %s" % (detail,)), flush=True)

    def sosia(self, *options):
        return Machine([self.args.sosia, "run", "--quiet", "--engine", self.args.engine, *options])

    def wait_socket(self):
        end = time.time() + 20
        while not os.path.exists(self.socket) and time.time() < end:
            time.sleep(0.02)

    def gdb(self, script, symbols, timeout, machine, **env):
        """Runs gdb, counts the PASS and FAIL lines of its script; drains the machine meanwhile."""
        self.wait_socket()
        command = ["gdb", "-nx", "-batch"] + ([symbols] if symbols else [])
        command += ["-x", os.path.join(HERE, script)]
        with open(os.path.join(self.dir, "out"), "w+b") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT, start_new_session=True,
                                       env=dict(os.environ, GDB_SOCKET=self.socket, **env))
            end = time.time() + timeout
            while process.poll() is None and time.time() < end:
                machine.read(0.1)
            late = process.poll() is None
            if late:
                process.kill()
                process.wait()
            out.seek(0)
            text = out.read().decode("utf-8", "replace")
        results = [line for line in text.splitlines() if line[:5] in ("PASS ", "FAIL ")]
        for line in results:
            self.check("%s: %s" % (script[:-3], line[5:]), line.startswith("PASS"))
        if late or not results or self.args.verbose:
            print(text)
        self.check(script[:-3] + ": gdb ends by itself", not late and bool(results))

    def guest(self, end):
        options = ["--cpus", "4", "--memory", "64M", "--test-devices", "--kernel", TARGET]
        machine = self.sosia(*options, "--gdb", "unix:%s,wait" % self.socket)
        self.gdb("guest.py", TARGET + ".64", 120, machine, GDB_END=end)
        status = machine.end(20)
        if end == "detach":
            self.check("guest: goes on after detach and passes", status == 65,
                       (status, machine.text[-300:]))
        else:
            self.check("guest: kill ends the machine", status is not None, "still running")

    def linux(self):
        kernel = os.path.join(self.args.linux, "vmlinuz")
        if not os.path.exists(kernel):
            print("SKIPPED linux: no %s (guests/linux/build.sh makes it)" % kernel)
            return
        machine = self.sosia("--cpus", "2", "--memory", "256M", "--kernel", kernel, "--initrd",
                             os.path.join(self.args.linux, "initrd.img"), "--cmdline",
                             "console=ttyS0 quiet", "--gdb", "unix:" + self.socket)
        booted = machine.expect(b"# ", 120)
        self.check("linux: boots with a gdb socket open", booted, machine.text[-300:])
        if booted:
            time.sleep(1)
            self.gdb("linux.py", None, 180, machine)
            machine.type(b"echo an$((40 + 2))swer\n")
            self.check("linux: the shell answers after detach", machine.expect(b"an42swer", 20),
                       machine.text[-300:])
            machine.type(b"poweroff -f\n")
        self.check("linux: powers off", machine.end(30) == 0, machine.text[-300:])

    def run(self):
        for end in ("detach", "kill"):
            self.guest(end)
        if not self.args.no_linux:
            self.linux()
        shutil.rmtree(self.dir)
        print("gdb: %d passed, %d failed" % (self.passed, self.failed))
        return 1 if self.failed else 0


def main():
    parser = argparse.ArgumentParser(add_help=True)
    parser.add_argument("--engine", default="soft")
    parser.add_argument("--sosia", default="build/sosia")
    parser.add_argument("--linux", default="build/guests/linux-cloud-amd64")
    parser.add_argument("--no-linux", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    os.chdir(os.path.join(HERE, "../.."))
    sys.exit(Tests(parser.parse_args()).run())


main()
