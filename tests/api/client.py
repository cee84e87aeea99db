# SPDX-License-Identifier: Apache-2.0
"""A client of the API as Firecracker's documentation describes it: HTTP on a Unix socket, JSON."""
import json
import os
import signal
import socket
import subprocess
import time

LIMIT = 60


class Failure(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failure(what)


def read_reply(f):
    """One HTTP reply from a file: status, headers, body."""
    line = f.readline().decode()
    if not line:
        return None
    expect(line.startswith("HTTP/1.1 "), "not HTTP: %r" % line)
    headers = {}
    while True:
        head = f.readline().decode().strip()
        if not head:
            break
        key, value = head.split(":", 1)
        headers[key.lower()] = value.strip()
    body = f.read(int(headers.get("content-length", "0")))
    return int(line.split()[1]), headers, body


class Server:
    """A process that serves the API."""

    all = []

    def __init__(self, program, tmp, *args, name="fc", config=None, id=None, api=True, stdin=subprocess.DEVNULL):
        self.socket = os.path.join(tmp, name + ".sock")
        self.out = os.path.join(tmp, name + ".out")
        command = [*program]
        if api:
            command += ["--api-sock", self.socket]
        if config:
            command += ["--config-file", config]
        if id:
            command += ["--id", id]
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen([*command, *args], stdin=stdin, stdout=out, stderr=out)
        Server.all.append(self)
        if api:
            self.wait("the socket", lambda: self.process.poll() is not None or self.answers())

    def answers(self):
        try:
            self.connect().close()
            return True
        except OSError:
            return False

    def text(self):
        with open(self.out, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def wait(self, what, condition, limit=LIMIT):
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                raise Failure("not within %d s: %s\n%s" % (limit, what, self.text()[-1500:]))
            time.sleep(0.02)

    def wait_text(self, text, limit=LIMIT):
        self.wait(repr(text), lambda: text in self.text(), limit)

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(LIMIT)
        s.connect(self.socket)
        return s

    def call(self, method, path, body=None):
        """Status and the JSON of the answer (None: no body)."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n" % (method, path)
        if data:
            head += "Content-Type: application/json\r\nContent-Length: %d\r\n" % len(data)
        with self.connect() as s:
            s.sendall(head.encode() + b"\r\n" + data)
            with s.makefile("rb") as f:
                reply = read_reply(f)
        expect(reply is not None, "%s %s: no answer\n%s" % (method, path, self.text()[-1500:]))
        status, headers, text = reply
        self.headers = headers
        if headers.get("content-type", "").startswith("text/plain"):
            return status, text.decode()
        return status, json.loads(text) if text else None

    def good(self, method, path, body=None):
        status, reply = self.call(method, path, body)
        expect(status in (200, 204) and (status == 204) == (reply is None),
               "%s %s %r: %d %r" % (method, path, body, status, reply))
        return reply

    def bad(self, method, path, body, fault, wanted=400):
        status, reply = self.call(method, path, body)
        expect(status == wanted and fault in reply.get("fault_message", ""),
               "%s %s %r: %d %r, wanted %r" % (method, path, body, status, reply, fault))

    def end(self, wanted=0):
        try:
            status = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise Failure("the process does not end:\n%s" % self.text()[-1500:]) from None
        expect(status == wanted, "exit status %d, not %d:\n%s" % (status, wanted, self.text()[-1500:]))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.end()


def end_all():
    for s in Server.all:
        if s.process.poll() is None:
            s.process.kill()
            s.process.wait()
    Server.all = []
