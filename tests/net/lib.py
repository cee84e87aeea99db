# SPDX-License-Identifier: Apache-2.0
"""Machines with a shell on their console, and what the tests of networks share."""
import os
import re
import signal
import socket
import subprocess
import threading
import time

SOSIA = os.environ.get("SOSIA", "build/sosia")
KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"
INITRD = "build/guests/net/initrd.img"
CMDLINE = "console=ttyS0 quiet mitigations=off"
BOOT_LIMIT = 120


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failure(what)


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(command, limit=60, check=True):
    """Output of a command of the host."""
    p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       timeout=limit, check=False)
    text = p.stdout.decode("utf-8", "replace")
    if check and p.returncode:
        raise Failure("%s: status %d: %s" % (" ".join(command), p.returncode, text[-500:]))
    return text


def wait_for(what, limit, condition):
    end = time.time() + limit
    while time.time() < end:
        if condition():
            return
        time.sleep(0.1)
    raise Failure("not within %d s: %s" % (limit, what))


class Machine:
    """A sosia whose guest has a shell on the serial console."""

    all = []

    def __init__(self, *nets, cpus=1, memory="128M", prefix=(), name="machine", command=None, translator="on"):
        self.text = ""
        self.name = name
        self.count = 0
        args = [x for n in nets for x in ("--net", n)]
        command = command or [
            *prefix, SOSIA, "run", "--engine", "soft", "--translator", translator, "--quiet", "--cpus", str(cpus),
            "--memory", memory, "--kernel", KERNEL, "--initrd", INITRD, "--stats", "--cmdline", CMDLINE, *args]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.up = False
        Machine.all.append(self)

    def read(self):
        while True:
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return
            self.text += data.decode("utf-8", "replace")

    def wait_text(self, pattern, limit, start=0):
        end = time.time() + limit
        while time.time() < end:
            m = re.compile(pattern).search(self.text, start)
            if m:
                return m
            if self.process.poll() is not None and not self.reader.is_alive():
                break
            time.sleep(0.02)
        raise Failure("%s: no %r; last: %s" % (self.name, pattern, self.text[-800:]))

    def booted(self):
        if not self.up:
            self.wait_text(r"/root #", BOOT_LIMIT)
            self.up = True
            self.do("stty -echo")
        return self

    def start(self, command):
        """Types a command; finish(token) waits for it."""
        self.booted()
        self.count += 1
        at = len(self.text)
        self.process.stdin.write(('%s; echo "@$?"@%d\n' % (command, self.count)).encode())
        self.process.stdin.flush()
        return at, self.count, command

    def finish(self, token, limit=30, check=True):
        at, number, command = token
        m = self.wait_text(r"@(\d+)@%d\r?\n" % number, limit, at)
        text = self.text[at:m.start()].replace("\r", "")
        if check and m.group(1) != "0":
            raise Failure("%s: %s: status %s: %s" % (self.name, command, m.group(1), text[-600:]))
        return text

    def do(self, command, limit=30, check=True):
        return self.finish(self.start(command), limit, check)

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        self.process.wait(20)

    def leave(self):
        """Ends with a signal and returns what the monitor said at the end."""
        if self.process.poll() is None:
            self.kill(signal.SIGTERM)
        self.reader.join(5)
        return self.text


def end_all():
    for m in Machine.all:
        if m.process.poll() is None:
            m.process.kill()
            m.process.wait()
    Machine.all.clear()


class Server:
    """Accepts connections on the host's loopback address and hands each to fn(socket) in a thread."""

    def __init__(self, fn, address="127.0.0.1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.bind((address, 0))
        self.socket.listen(8)
        self.port = self.socket.getsockname()[1]
        self.fn = fn
        self.accepted = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                s, _ = self.socket.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self.fn, args=(s,), daemon=True).start()

    def close(self):
        self.socket.close()


def say_hello(s):
    s.recv(4096)
    s.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 20\r\n\r\nhello from the host\n")
    s.close()
