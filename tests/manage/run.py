#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machines as their owner manages them: detached, listed, attached to, paused, stopped, killed.

usage: tests/manage/run.py [CASE...]
Real machines on the software engine, in a runtime directory of their own. Every wait is for a
condition, with a generous limit.
"""
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.chdir(ROOT)
SOSIA = os.environ.get("SOSIA", "build/sosia")
KERNEL = "build/guests/linux-cloud-amd64/vmlinuz"
INITRD = "build/guests/linux-cloud-amd64/initrd.img"
LIMIT = 90  # seconds for anything that a busy host may delay
NOBODY = 65534


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failure(what)


def sosia(*args, limit=LIMIT, status=0, **more):
    """Output of a command; its status must be the one given (None: any)."""
    p = subprocess.run([SOSIA, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=limit, check=False, **more)
    if status is not None and p.returncode != status:
        raise Failure("sosia %s: status %d: %s" % (" ".join(args), p.returncode,
                                                   p.stderr.decode("utf-8", "replace")[-500:]))
    return p.stdout.decode("utf-8", "replace")


def complaint(*args, status):
    p = subprocess.run([SOSIA, *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, timeout=LIMIT, check=False)
    expect(p.returncode == status, "sosia %s: status %d" % (" ".join(args), p.returncode))
    return p.stderr.decode("utf-8", "replace")


def wait_for(what, condition, limit=LIMIT):
    end = time.time() + limit
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise Failure("not within %d s: %s" % (limit, what))


def start(*args, cmdline=""):
    """A machine in the background; its name."""
    command = ["run", "--detach", "--quiet", "--engine", "soft", "--memory", "128M", "--kernel", KERNEL,
               "--initrd", INITRD, "--cmdline", "console=ttyS0 quiet " + cmdline, *args]
    return sosia(*command).strip()


def machines():
    return {m["name"]: m for m in json.loads(sosia("ls", "--json"))}


def console(name, *args):
    return sosia("logs", *args, name)


def booted(name):
    wait_for("a shell in %s" % name, lambda: "leave." in console(name) and "# " in console(name))


class Attached:
    """`sosia console`, or the command given, on a pseudo-terminal."""

    def __init__(self, name, *args, command=None):
        self.text = b""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execv(SOSIA, command or ["sosia", "console", *args, name])

    def read(self, what):
        """Until what has come; the text so far is forgotten then."""
        end = time.time() + LIMIT
        while what not in self.text:
            expect(time.time() < end, "console: no %r in %r" % (what, self.text[-300:]))
            if select.select([self.fd], [], [], 0.5)[0]:
                try:
                    data = os.read(self.fd, 4096)
                except OSError:
                    data = b""
                expect(data, "console: ended before %r: %r" % (what, self.text[-300:]))
                self.text += data
        self.text = self.text.split(what, 1)[1]

    def write(self, data):
        os.write(self.fd, data)

    def left(self):
        end = time.time() + LIMIT
        while time.time() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    os.read(self.fd, 4096)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        raise Failure("sosia console did not leave")


# --- cases --------------------------------------------------------------------------------------------


def case_life(tmp):
    """From --detach to the power button; what is known of it on the way."""
    log = os.path.join(tmp, "log.json")
    name = start("--name", "life", "--log", log + ",format=json,level=info")
    expect(name == "life", "prints its name: %r" % name)
    m = machines()["life"]
    expect(m["state"] == "running" and m["engine"] == "soft" and m["vcpus"] == 1 and
           m["memory"] == 128 << 20 and "--name life" in m["command"], "ls --json: %s" % m)
    expect(re.search(r"^life +%d +running +soft " % m["pid"], sosia("ls"), re.M), "ls")
    expect("runs already" in complaint("run", "--name", "life", "--kernel", KERNEL, status=2), "one name twice")
    expect("vCPU 0" in sosia("stats", "life") and "vCPU 0" in sosia("stats", str(m["pid"])), "stats")
    booted("life")
    waiter = subprocess.Popen([SOSIA, "wait", "life"])
    began = time.time()
    complaints = complaint("stop", "--timeout", str(LIMIT), "life", status=0)
    expect("killed" not in complaints, "the guest did not take its power button (%d s)" % (time.time() - began))
    expect(waiter.wait(LIMIT) == 0, "wait gives the machine's exit status")
    expect("life" not in machines(), "it is gone")
    with open(log, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    expect(all(line["machine"] == "life" for line in lines), "log: the machine's name")
    expect(lines[0]["text"].startswith("started: engine soft") and
           "powered off" in lines[-1]["text"], "log: %s" % lines)


def case_console(_tmp):
    """Attach, type, leave, come back; two at once."""
    name = start("--name", "console")
    booted(name)
    a = Attached(name)
    a.read(b"# ")
    a.write(b"echo $((41+1))-first\n")
    a.read(b"42-first")
    a.write(b"\x1d")
    expect(a.left() == 0, "^] leaves")
    expect(name in machines(), "and the machine stays")
    b, c = Attached(name), Attached(name, "--no-replay", "--escape", "^A")
    b.read(b"42-first")  # what was said before
    b.write(b"echo $((1000+1))-second\n")
    b.read(b"1001-second")
    c.read(b"1001-second")
    expect(b"42-first" not in c.text, "--no-replay")
    b.write(b"exit\n")  # powers off: both are told
    expect(b.left() == 0 and c.left() == 0, "the machine's end ends them")
    wait_for("its end", lambda: name not in machines())


def case_pause(_tmp):
    """A guest that counts stands still while it is paused."""
    name = start("--name", "pause", cmdline='sosia.run="while :; do i=$((i+1)); echo n$i; usleep 20000; done"')
    wait_for("counting", lambda: "\nn5\r" in console(name))
    sosia("pause", name)
    expect(machines()[name]["state"] == "paused", "ls says paused")
    sosia("pause", name)  # once more: nothing to do
    before = console(name)
    time.sleep(1)
    expect(console(name) == before, "a paused guest goes on")
    follow = subprocess.Popen([SOSIA, "logs", "-f", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    sosia("resume", name)
    wait_for("counting on", lambda: len(console(name)) > len(before))
    got = b""
    while b"n10000" not in got and len(got) < len(before) + 100:
        data = os.read(follow.stdout.fileno(), 4096)
        expect(data, "logs -f ended early")
        got += data
    top = json.loads(sosia("top", "--once", "--json", "--interval", "1"))
    mine = [m for m in top if m["name"] == name][0]
    expect(mine["state"] == "running" and mine["cpu_percent"] > 0 and mine["memory_resident"] > 1 << 20,
           "top: %s" % mine)
    expect(name in sosia("top", "--once", "--interval", "0.1"), "top --once")
    sosia("kill", name)
    expect(name not in machines(), "killed")
    follow.stdout.read()
    expect(follow.wait(LIMIT) == 0, "logs -f ends with the machine")


def case_ended(_tmp):
    """The exit status of a machine that has ended is told for a while, and the record of it goes."""
    name = start("--name", "late", cmdline='reboot=t sosia.run="reboot -f"')
    wait_for("its end", lambda: name not in machines())
    for _ in range(2):
        complaint("wait", name, status=3)  # a triple fault
    record = os.path.join(os.environ["XDG_RUNTIME_DIR"], "sosia", "late.end")
    start("--name", "late")
    expect(os.path.getsize(record) == 0, "the name is another machine's now")
    sosia("kill", "late")
    sosia("wait", "late", status=0)
    os.utime(record, (1, 1))
    expect(machines() == {} and not os.path.exists(record), "an old record is removed")
    expect("no machine" in complaint("wait", "late", status=2), "and nothing is known any more")


def case_stale(_tmp):
    """A machine that dies without a word leaves nothing behind; default names are unique."""
    a, b = start("--console", "none"), start()
    expect((a, b) == ("vmlinuz", "vmlinuz-2"), "names: %s %s" % (a, b))
    pid = machines()[a]["pid"]
    sosia("pause", str(pid))
    expect(machines()[a]["state"] == "paused" and machines()[b]["state"] == "running", "by process number")
    waiter = subprocess.Popen([SOSIA, "wait", a], stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    expect(waiter.wait(LIMIT) == 1, "who waits for it is told")
    wait_for("one machine", lambda: list(machines()) == [b])
    rundir = os.path.join(os.environ["XDG_RUNTIME_DIR"], "sosia")
    files = sorted(f for f in os.listdir(rundir) if f.startswith((a + ".", b + ".")))
    expect(files == [b + ".ctl", b + ".end", b + ".lock"], "files: %s" % files)
    expect("no machine" in complaint("pause", a, status=2), "pause of a dead machine")
    c = start()
    expect(c == "vmlinuz", "its name is free: %s" % c)
    for name in (b, c):
        sosia("kill", name)
    # a socket that nobody listens at, and things that are no sockets
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.join(rundir, "old.ctl"))
    os.symlink("/etc/passwd", os.path.join(rundir, "evil.ctl"))
    os.symlink("/etc/passwd", os.path.join(rundir, "evil.lock"))
    expect(machines() == {}, "strange files are no machines")
    expect("no machine" in complaint("kill", "evil", status=2), "a link is not followed")
    d = start("--name", "old")
    sosia("kill", d)
    os.unlink(os.path.join(rundir, "evil.ctl"))
    os.unlink(os.path.join(rundir, "evil.lock"))


def copy_socket(path, out):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    while True:
        data = s.recv(65536)
        if not data:
            return
        out.append(data)


def case_serial(tmp):
    """Four ports: terminal of the ring, file, socket, pseudo-terminal; COM1 and COM3 share a line."""
    com2, com3, com4 = (os.path.join(tmp, n) for n in ("com2", "com3.sock", "com4"))
    work = ("seq 1 3000 >/dev/ttyS1 & seq 1 3000 >/dev/ttyS2 & seq 1 3000 >/dev/ttyS3 & seq 1 3000; wait; "
            "while [ x$line != xkeys4 ]; do read line; done </dev/ttyS3; echo got-$line; "
            "while [ x$line != xkeys3 ]; do read line; done </dev/ttyS2; echo got-$line; echo all-done; sleep 3600")
    name = start("--name", "serial", "--serial", "2=file:" + com2, "--serial", "3=socket:" + com3,
                 "--serial", "4=pty:" + com4, cmdline='sosia.run="%s"' % work)
    third = []
    threading.Thread(target=copy_socket, args=(com3, third), daemon=True).start()
    fourth = b""
    fd = os.open(com4, os.O_RDWR | os.O_NOCTTY)
    end = time.time() + LIMIT
    while b"3000" not in fourth and time.time() < end:
        if select.select([fd], [], [], 1)[0]:
            fourth += os.read(fd, 4096)
    lines = [b"%d" % i for i in range(1, 3001)]
    expect(fourth.split() == lines, "COM4: %d lines" % len(fourth.split()))
    # keys that come before the guest has opened the port are lost, as on a real one
    wait_for("input from the pseudo-terminal", lambda: os.write(fd, b"keys4\n") and "got-keys4" in console(name))
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(com3)
        wait_for("input from the socket", lambda: s.send(b"keys3\n") and "all-done" in console(name))
    expect("got-keys3" in console(name), "COM3: input")
    wait_for("COM2", lambda: open(com2, "rb").read().split() == lines)
    wait_for("COM3", lambda: b"".join(third).split()[:3000] == lines)
    text = console(name)
    expect("\n3000\r" in text and "\n2999\r" in text, "COM1: %r" % text[-300:])
    expect(console(name, "--port", "serial1").split()[-1] == "3000", "logs --port")
    expect("no console" in complaint("logs", "--port", "virtio", name, status=2), "a console that is not there")
    sosia("kill", name)
    os.close(fd)
    left = [p for p in (com3, com4) if os.path.lexists(p)]
    expect(not left, "not removed: %s" % left)


def case_metrics(_tmp):
    """Counters for programs."""
    name = start("--name", "metrics", "--balloon", "on")
    stats = json.loads(sosia("stats", "--json", name))
    expect(stats["name"] == name and len(stats["vcpus"]) == 1 and stats["memory"]["guest"] == 128 << 20,
           "stats --json: %s" % stats)
    text = sosia("stats", "--prometheus", name)
    line = re.compile(r'^(# (HELP|TYPE) sosia_[a-z_]+ .+|sosia_[a-z_]+\{machine="metrics"(,[a-z]+="[^"]*")*\} -?[0-9.]+)$')
    bad = [s for s in text.splitlines() if not line.match(s)]
    expect(not bad and 'sosia_state{machine="metrics",state="running"} 1' in text, "prometheus: %s" % bad)
    typed = re.findall(r"^# TYPE (\S+)", text, re.M)
    expect(len(typed) == len(set(typed)), "each family once")
    expect(sosia("balloon", name, "32") == "target 32 MiB, balloon 0 MiB\n", "balloon")
    expect(sosia("balloon", name).startswith("target 32 MiB"), "balloon: look")
    expect("has 128 MiB" in complaint("balloon", name, "1G", status=1), "balloon: too much")
    expect("whole MiB" in complaint("balloon", name, "12Q", status=2), "balloon: no size")
    sosia("kill", name)


def case_refused(tmp):
    """What cannot be: each is one line that says why, and no machine."""
    expect("cannot be stdio" in complaint("run", "-d", "--kernel", KERNEL, "--console", "stdio", status=2), "stdio")
    expect("No such file" in complaint("run", "-d", "--kernel", tmp + "/nothing", status=2), "kernel")
    expect("not 1 to" in complaint("run", "--name", "a/b", "--kernel", KERNEL, status=2), "name")
    expect("--serial" in complaint("run", "--serial", "5=ring", "--kernel", KERNEL, status=2), "port 5")
    expect("--serial" in complaint("run", "--serial", "2=printer", "--kernel", KERNEL, status=2), "printer")
    expect("--log" in complaint("run", "--log", "x,format=xml", "--kernel", KERNEL, status=2), "log format")
    expect("log /nowhere" in complaint("run", "--log", "/nowhere/x", "--kernel", KERNEL, status=2), "log file")
    open(tmp + "/plain", "w").close()
    expect("in use" in complaint("run", "--console", "socket=" + tmp + "/plain", "--kernel", KERNEL, status=2),
           "a file in the place of a socket")
    expect(machines() == {}, "nothing is left")


def case_others(_tmp):
    """Another user sees nothing of it, and has a place of its own."""
    if os.geteuid():
        raise Skip("needs root to become another user")
    name = start("--name", "mine")
    own = "/tmp/sosia-%d" % NOBODY

    def nobody():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    expect(shutil.rmtree(own, ignore_errors=True) is None, "")
    env = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
    binary = os.path.realpath(SOSIA)
    visible = subprocess.run([binary, "version"], preexec_fn=nobody, check=False, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    copy = None
    if visible.returncode:  # this tree is not open to everybody
        copy = tempfile.mkdtemp(prefix="sosia-manage.")
        os.chmod(copy, 0o755)
        binary = shutil.copy(binary, copy)
    try:
        for args, text in ((["ls", "--json"], "[]"), (["pause", name], "no machine")):
            p = subprocess.run([binary, *args], env=env, preexec_fn=nobody, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, timeout=LIMIT, check=False, cwd="/")
            expect(text in p.stdout.decode(), "%s: %s" % (args, p.stdout))
        path = os.path.join(os.environ["XDG_RUNTIME_DIR"], "sosia", name + ".ctl")
        p = subprocess.run([binary, "pause", path], preexec_fn=nobody, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=LIMIT, check=False, cwd="/")
        expect(p.returncode == 2, "another user's socket: %s" % p.stdout)
        expect(machines()[name]["state"] == "running", "it runs on")
    finally:
        shutil.rmtree(own, ignore_errors=True)
        if copy:
            shutil.rmtree(copy)
    sosia("kill", name)


def case_unit(tmp):
    """The systemd unit template is one."""
    if not shutil.which("systemd-analyze"):
        raise Skip("no systemd-analyze here")
    unit = os.path.join(tmp, "sosia@test.service")
    with open("contrib/sosia@.service", encoding="utf-8") as f:
        text = f.read().replace("/usr/local/bin/sosia", os.path.realpath(SOSIA))
    with open(unit, "w", encoding="utf-8") as f:
        f.write(text)
    p = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=LIMIT, check=False)
    mine = [s for s in p.stdout.decode().splitlines() if "sosia" in s]
    expect(not mine, "systemd-analyze: %s" % mine)


def in_guest(name, *args, status=0, data=b"", err=None):
    """Standard output of `sosia exec`."""
    p = subprocess.run([SOSIA, "exec", name, *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=LIMIT, check=False)
    expect(p.returncode == status, "exec %s: status %d, not %d: %r" % (args, p.returncode, status, p.stderr[-300:]))
    expect(err is None or err in p.stderr, "exec %s: %r" % (args, p.stderr[-300:]))
    return p.stdout


def case_exec(tmp):
    """Commands in the guest: status, streams, users, signals, times, 10 MB each way, files."""
    name = start("--name", "exec", "--agent")
    expect(in_guest(name, "--wait", str(LIMIT), "--", "echo", "a  b") == b"a  b\n", "echo")
    out = in_guest(name, "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7, err=b"err")
    expect(out == b"out\n", "streams: %r" % out)
    in_guest(name, "sh", "-c", "kill -9 $$", status=137)
    in_guest(name, "no-such-program", status=127, err=b"No such file")
    in_guest(name, "/etc", status=126, err=b"denied")
    in_guest(name, "--cwd", "/nowhere", "true", status=127, err=b"/nowhere")
    in_guest(name, "--user", "nobody-here", "true", status=126, err=b"no such user")
    in_guest(name, "--timeout", "0.2", "sleep", "1000", status=124, err=b"too long")
    out = in_guest(name, "--user", "1000", "--cwd", "/tmp", "--env", "A=b c", "sh", "-c", "id -u; pwd; echo $A; cat",
                   data=b"input")
    expect(out == b"1000\n/tmp\nb c\ninput", "user, folder, environment, input: %r" % out)
    data = os.urandom(1000) * 10000
    expect(in_guest(name, "cat", data=data) == data, "10 MB there and back")
    in_guest(name, "true", data=data)  # who does not read what comes
    expect(in_guest(name, "sh", "-c", "sleep 1000 & echo on") == b"on\n", "a process left behind does not hold it up")
    p = subprocess.Popen([SOSIA, "exec", name, "sh", "-c", "trap 'echo got; exit 9' TERM; echo set; while :; do sleep 0.1; done"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    expect(p.stdout.readline() == b"set\n", "trap")
    p.send_signal(signal.SIGTERM)
    expect(p.communicate(timeout=LIMIT)[0] == b"got\n" and p.returncode == 9, "a signal is passed: %d" % p.returncode)
    p = subprocess.Popen([SOSIA, "exec", name, "sleep", "4321"], stdin=subprocess.DEVNULL)
    sleeps = lambda: b"sleep 4321" in in_guest(name, "ps")  # noqa: E731
    wait_for("the command", sleeps)
    p.kill()
    p.wait(LIMIT)
    wait_for("the end of a command whose client is gone", lambda: not sleeps())
    path = os.path.join(tmp, "file")
    with open(path, "wb") as f:
        f.write(data[:300000])
    os.chmod(path, 0o750)
    sosia("cp", path, name + ":/tmp")
    expect(in_guest(name, "stat", "-c", "%a %s", "/tmp/file") == b"750 300000\n", "cp: mode and size")
    sosia("cp", name + ":/tmp/file", path + "2")
    with open(path + "2", "rb") as f:
        expect(f.read() == data[:300000], "cp: there and back")
    expect("No such file" in complaint("cp", name + ":/nothing", path + "3", status=1), "cp: nothing to copy")
    expect(sorted(os.listdir(tmp))[:2] == ["file", "file2"], "cp leaves nothing: %s" % os.listdir(tmp))
    in_guest(name, "date", "-s", "2001-01-01")
    in_guest(name, "--set-time")
    right = lambda: abs(int(in_guest(name, "--wait", "9", "date", "+%s")) - time.time()) < LIMIT  # noqa: E731
    expect(right(), "--set-time")
    in_guest(name, "date", "-s", "2001-01-01")
    snap = os.path.join(tmp, "snap")
    sosia("snapshot", name, snap, "--no-sync", "--stop")
    wait_for("its end", lambda: name not in machines())
    sosia("restore", snap, "-d", "--quiet")
    wait_for("the clock after a restore", right)
    sosia("kill", name)


def case_exec_terminal(_tmp):
    """A terminal of its own: its size, keys, the key that leaves; the guest's end in the middle; no agent."""
    name = start("--name", "term", "--agent")
    in_guest(name, "--wait", str(LIMIT), "true")
    t = Attached(name, command=["sosia", "exec", name, "-t", "--env", "PS1=$ ", "sh"])
    t.read(b"$ \x1b[6n")  # where is the cursor?
    fcntl.ioctl(t.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    # alone: keys must be taken after it, though the guest has nothing to say to it
    wait_for("the new size", lambda: in_guest(name, "sh", "-c", "stty size </dev/pts/0") == b"33 77\n")
    t.write(b"tty; stty size; stty size | tr 37 48; echo $((40+2))-end\n")
    t.read(b"/dev/pts/")
    t.read(b"33 77")
    t.read(b"42-end")
    t.write(b"sleep 1000\n")
    t.read(b"sleep 1000")
    wait_for("the command", lambda: b"sleep 1000" in in_guest(name, "ps"))
    t.write(b"\x03")  # to the command, not to sosia
    t.read(b"$ ")
    t.write(b"exit 5\n")
    expect(t.left() == 5, "status")
    t = Attached(name, command=["sosia", "exec", name, "-t", "cat"])
    wait_for("the command", lambda: b" cat" in in_guest(name, "ps"))
    t.write(b"\x1d")
    expect(t.left() == 129, "^] leaves")
    p = subprocess.Popen([SOSIA, "exec", name, "sleep", "1000"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for("the command", lambda: b"sleep 1000" in in_guest(name, "ps"))
    sosia("kill", name)
    expect(b"has ended" in p.communicate(timeout=LIMIT)[1] and p.returncode == 125, "killed in the middle")
    name = start("--name", "still", "--agent")
    sosia("pause", name)
    in_guest(name, "true", status=125, err=b"paused")
    sosia("kill", name)
    in_guest("none-of-this-name", "true", status=125, err=b"no machine")
    name = start("--name", "deaf", cmdline="sosia.nomodules")
    in_guest(name, "true", status=125, err=b"--agent")
    sosia("kill", name)
    name = start("--name", "deaf", "--agent", cmdline="sosia.nomodules")
    in_guest(name, "true", status=125, err=b"no agent answers")
    sosia("kill", name)


CASES = [case_life, case_console, case_pause, case_ended, case_stale, case_serial, case_metrics, case_refused, case_others,
         case_exec, case_exec_terminal, case_unit]


def main():
    passed = failed = skipped = 0
    wanted = sys.argv[1:]
    for case in CASES:
        name = case.__name__[5:]
        if wanted and name not in wanted:
            continue
        tmp = tempfile.mkdtemp(prefix="sosia-manage.")
        os.environ["XDG_RUNTIME_DIR"] = tmp
        began = time.time()
        try:
            case(tmp)
            passed += 1
            print("ok %s (%.1f s)" % (name, time.time() - began), flush=True)
        except Skip as e:
            skipped += 1
            print("SKIPPED manage %s: %s" % (name, e), flush=True)
        except Exception as e:  # pylint: disable=broad-except
            failed += 1
            print("FAILED: %s: %s" % (name, e), flush=True)
            if not isinstance(e, Failure):
                traceback.print_exc()
        for left in json.loads(sosia("ls", "--json", status=None) or "[]"):
            sosia("kill", left["name"], status=None)
        shutil.rmtree(tmp, ignore_errors=True)
    print("manage: %d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 1 if failed else 0


sys.exit(main())
