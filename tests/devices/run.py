#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/devices/run.py [NAME...]

Sockets to the host, the memory balloon and the disk for cloud-init, with a Linux guest
(guests/devices). The names of the tests are those of the functions test_NAME below; about a minute.

Prints, last, "devices: N passed, N failed".
"""
import hashlib
import os
import re
import socket
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "net"))
import lib  # noqa: E402
from lib import expect  # noqa: E402

INITRD = "build/guests/devices/initrd.img"
MASK = (1 << 64) - 1
SMALL = 8 << 20
TMP = None  # a folder, whose name is short enough for sockets


# Programs in the background are started as "(PROGRAM &)": the shell leaves when a child of its own ends
# while it waits at its prompt.


def machine(*options, memory="256M", cpus=1):
    m = lib.Machine(command=[
        lib.SOSIA, "run", "--engine", "soft", "--quiet", "--cpus", str(cpus), "--memory", memory, "--kernel",
        lib.KERNEL, "--initrd", INITRD, "--cmdline", lib.CMDLINE, *options])
    return m.booted()


def generate(seed, size):
    """What devtest generates from this seed."""
    s, out = seed, bytearray()
    for _ in range(size // 8):
        s ^= s << 13 & MASK
        s ^= s >> 7
        s ^= s << 17 & MASK
        out += s.to_bytes(8, "little")
    return bytes(out)


# --- sockets -----------------------------------------------------------------------------------------


def receive_all(s):
    data = bytearray()
    while True:
        piece = s.recv(1 << 16)
        if not piece:
            return bytes(data)
        data += piece


class Listener:
    """What a program of the guest reaches as a port of the host: fn(socket) in a thread each."""

    def __init__(self, path, port, fn):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind("%s_%d" % (path, port))
        self.socket.listen(128)
        self.fn = fn
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                s, _ = self.socket.accept()
            except OSError:
                return
            s.settimeout(120)
            threading.Thread(target=self.fn, args=(s,), daemon=True).start()


def echo(s):
    while True:
        piece = s.recv(1 << 16)
        if not piece:
            break
        s.sendall(piece)
    s.close()


def dial(path, port):
    """The socket and the answer's line; an empty line when the connection was refused."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    s.sendall(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        try:
            piece = s.recv(1)
        except ConnectionResetError:
            piece = b""
        if not piece:
            return s, b""
        line += piece
    return s, line


def dial_until(path, port):
    """The guest's program may not listen yet."""
    end = time.time() + 60
    while time.time() < end:
        s, line = dial(path, port)
        if line:
            return s, line
        time.sleep(0.1)
    raise lib.Failure("nobody listens at port %d" % port)


def vsock_machine(name, *options, **more):
    path = os.path.join(TMP, name)
    m = machine("--vsock", "5,path=" + path, *options, **more)
    m.do("modprobe vmw_vsock_virtio_transport")
    return m, path


def test_vsock_guest():
    """The guest connects: both directions, half-closed, a hundred at a time, nobody there."""
    data = generate(7, SMALL)

    def sink(s):
        s.sendall(b"ok" if receive_all(s) == data else b"no")
        s.close()

    def source(s):
        s.sendall(data)
        s.close()

    m, path = vsock_machine("guest.sock", cpus=2)
    Listener(path, 52, sink)
    Listener(path, 53, source)
    Listener(path, 54, echo)
    expect("sent and right" in m.do("devtest send 2 52 %d 7" % SMALL, 120), "send")
    expect("received and right" in m.do("devtest receive 2 53 %d 7" % SMALL, 120), "receive")
    expect("100 open, 0 wrong" in m.do("devtest many 2 54 100", 120), "many")
    expect("reset" in m.do("devtest connect 2 99", check=False), "a port without a listener")
    expect("reset" in m.do("devtest connect 9 52", check=False), "another machine's address")
    m.kill(15)
    expect(not os.path.exists(path), "the socket is left over")


def test_vsock_host():
    """The host connects: echoes with checksums, several at once, one that does not read, refusals."""
    m, path = vsock_machine("host.sock", cpus=2)
    s, line = dial(path, 1000)
    expect(line == b"", "an answer from nobody: %r" % line)
    token = m.start("devtest echo 1000 5")
    sizes = [SMALL, 1 << 20, 0, 12345 * 8]
    idle, line = dial_until(path, 1000)
    expect(re.fullmatch(rb"OK \d+\n", line), "answer %r" % line)
    idle.settimeout(2)
    stuck = 0
    try:  # as much as goes: it does not read what comes back
        while stuck < 64 << 20:
            stuck += idle.send(bytes(1 << 16))
    except socket.timeout:
        pass
    expect(0 < stuck < 64 << 20, "somebody keeps what nobody reads: %d" % stuck)
    wrong = []

    def talk(size):
        data = generate(size + 1, size)
        peer, _ = dial(path, 1000)
        got = []
        reader = threading.Thread(target=lambda: got.append(hashlib.sha256(receive_all(peer)).digest()))
        reader.start()
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        reader.join(120)
        if got != [hashlib.sha256(data).digest()]:
            wrong.append(size)
        peer.close()

    threads = [threading.Thread(target=talk, args=(n,)) for n in sizes]
    for t in threads:
        t.start()
    for t in threads:
        t.join(180)
    expect(not wrong, "echoes of %s bytes were wrong" % wrong)
    idle.close()  # its echo ends with an error
    m.finish(token, 60, check=False)
    bad = socket.socket(socket.AF_UNIX)
    bad.settimeout(60)
    bad.connect(path)
    bad.sendall(b"HELLO\n")
    try:
        expect(bad.recv(10) == b"", "an answer to nonsense")
    except ConnectionResetError:
        pass
    m.kill(15)


# --- balloon -----------------------------------------------------------------------------------------


def guest_ram_mib(m):
    """Of the host's memory, what the machine's RAM takes now."""
    with open("/proc/%d/status" % m.process.pid, encoding="utf-8") as f:
        return int(re.search(r"RssShmem:\s+(\d+)", f.read()).group(1)) // 1024


def wait_ram(m, what, condition):
    try:
        lib.wait_for(what, 60, lambda: condition(guest_ram_mib(m)))
    except lib.Failure as e:
        raise lib.Failure("%s: %d MiB" % (e, guest_ram_mib(m)))


def test_balloon_reporting():
    """200 MiB taken and freed by a program go back to the host; another program's data stay."""
    m = machine("--balloon", "reporting,stats=1", memory="512M", cpus=2)
    m.do("modprobe virtio_balloon")
    m.do("mkfifo /tmp/f; (devtest fill 40 5 </tmp/f >/tmp/keep 2>&1 &); exec 5>/tmp/f")
    m.do("while ! grep -q filled /tmp/keep; do sleep 0.1; done", 60)
    m.do("mkfifo /tmp/g; (devtest fill 200 7 </tmp/g >/tmp/much 2>&1 &); exec 6>/tmp/g")
    m.do("while ! grep -q filled /tmp/much; do sleep 0.1; done", 90)
    most = guest_ram_mib(m)
    expect(most > 240, "240 MiB are filled, and the machine has %d MiB" % most)
    m.do("echo >&6; while ! grep -q 'memory is right' /tmp/much; do sleep 0.1; done", 60)
    wait_ram(m, "memory that was freed goes back", lambda mib: mib < most - 130)
    m.do("devtest fill 100 9 </dev/null >/dev/null; true", 60)  # and is taken anew
    m.do("echo >&5; while ! grep -q 'memory is right' /tmp/keep; do sleep 0.1; done", 60)
    m.kill(15)


def test_balloon_target():
    """A balloon of 200 MiB of 512; with deflate-on-oom a program still gets 400 MiB."""
    m = machine("--balloon", "target=200,deflate-on-oom", memory="512M")
    total = int(m.do("sed -n 's/MemFree: *\\([0-9]*\\).*/\\1/p' /proc/meminfo").split()[-1])
    m.do("modprobe virtio_balloon")
    m.do("for i in $(seq 600); do [ $(sed -n 's/MemFree: *\\([0-9]*\\).*/\\1/p' /proc/meminfo) -lt %d ] && break; "
         "sleep 0.1; done; [ $i -lt 600 ]" % (total - 190 * 1024), 90)
    m.do("mkfifo /tmp/g; (devtest fill 380 3 </tmp/g >/tmp/much 2>&1 &); exec 6>/tmp/g")
    m.do("while ! grep -q filled /tmp/much; do sleep 0.1; done", 120)
    m.do("echo >&6; while ! grep -q 'memory is right' /tmp/much; do sleep 0.1; done", 60)
    m.kill(15)


# --- cloud-init --------------------------------------------------------------------------------------


def test_cloud_init():
    """A guest mounts the disk by its label's type and finds the same bytes."""
    files = {}
    for name, size in (("user-data", 300000), ("network-config", 700)):
        files[name] = os.path.join(TMP, name)
        with open(files[name], "wb") as f:
            f.write(b"#cloud-config\n" + generate(size, size))
    options = ",".join("%s=%s" % f for f in files.items())
    m = machine("--cloud-init", options)
    m.do("modprobe isofs; mount -t iso9660 /dev/vda /mnt && ls /mnt")
    for name, path in files.items():
        with open(path, "rb") as f:
            want = hashlib.sha256(f.read()).hexdigest()
        expect(want in m.do("sha256sum /mnt/" + name), name)
    meta = m.do("cat /mnt/meta-data")
    expect(re.search(r"^instance-id: sosia-[0-9a-f]{16}$", meta, re.M), "meta-data: %s" % meta)
    expect("CIDATA" in m.do("dd if=/dev/vda bs=1 skip=32808 count=6 2>/dev/null"), "label")
    m.do("umount /mnt; mount -t iso9660 -o nojoliet /dev/vda /mnt; cmp /mnt/meta-data /mnt/meta-data")
    m.do("! echo x 2>/dev/null >/dev/vda; true")
    m.kill(15)


# --- saved and restored ------------------------------------------------------------------------------


def test_restore():
    """A snapshot ends connections in the guest, not new ones; the balloon and its statistics go on."""
    name, file = "devices-%d" % os.getpid(), os.path.join(TMP, "saved")
    m, path = vsock_machine("s.sock", "--balloon", "target=64,stats=1", "--name", name)
    Listener(path, 60, lambda s: time.sleep(300))
    m.do("modprobe virtio_balloon; (devtest hold 2 60 >/tmp/hold 2>&1 &); while ! grep -q holding /tmp/hold; do "
         "sleep 0.1; done", 60)
    lib.run([lib.SOSIA, "snapshot", name, file, "--stop"], 60)
    m.process.wait(60)
    m = lib.Machine(command=[lib.SOSIA, "restore", file, "--quiet", "--console", "stdio"])
    m.up = True  # it has its prompt
    m.do("while ! grep -q ended /tmp/hold; do sleep 0.1; done; cat /tmp/hold", 60)
    expect("ended with Connection reset by peer" in m.text, "how the connection ended: %s" % m.text[-300:])
    token = m.start("devtest echo 1000 1")
    s, line = dial_until(path, 1000)
    expect(line.startswith(b"OK "), "answer %r" % line)
    s.sendall(b"hello")
    s.shutdown(socket.SHUT_WR)
    expect(receive_all(s) == b"hello", "echo")
    m.finish(token, 60)
    total = int(m.do("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo").split()[-1])
    expect(total < 200 << 10, "the balloon is empty: %d KiB" % total)
    m.kill(15)


def main():
    global TMP
    tests = {k[5:]: v for k, v in globals().items() if k.startswith("test_")}
    unknown = [n for n in sys.argv[1:] if n not in tests]
    if unknown:
        print("unknown test %s; there are %s" % (unknown[0], " ".join(tests)))
        return 2
    passed = failed = 0
    for name in sys.argv[1:] or tests:
        begin = time.time()
        with tempfile.TemporaryDirectory(prefix="sosia-dev.") as TMP:
            try:
                tests[name]()
                passed += 1
                print("passed %s (%.1f s)" % (name, time.time() - begin), flush=True)
            except (lib.Failure, OSError) as e:
                failed += 1
                print("FAILED %s: %s" % (name, e), flush=True)
            finally:
                lib.end_all()
    print("devices: %d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
