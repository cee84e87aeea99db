#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/fence/jail.py

sosia jail: a machine of the API in a chroot, as another user, in its own namespaces, control group
and limits; wrong options are refused before anything is made. Needs root (skipped without)."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOSIA = os.environ.get("SOSIA", os.path.join(ROOT, "build/sosia"))
GUEST = os.path.join(ROOT, "build/guests/linux-cloud-amd64")
UID = GID = 64123
passed = failed = 0


def check(good, what):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("FAILED:", what, flush=True)


def wait_for(what, condition, limit=60):
    end = time.time() + limit
    while not condition():
        if time.time() > end:
            raise SystemExit("jail: not within %d s: %s" % (limit, what))
        time.sleep(0.05)


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        # a socket's name is short, a jail's folder may not be
        fd = os.open(os.path.dirname(self.path), os.O_PATH)
        self.sock.connect("/proc/self/fd/%d/%s" % (fd, os.path.basename(self.path)))
        os.close(fd)


def api(path, method, url, body=None):
    c = Connection(path)
    c.request(method, url, None if body is None else json.dumps(body))
    r = c.getresponse()
    return r.status, r.read().decode()


def field(pid, name):
    with open("/proc/%d/status" % pid) as f:
        return re.search(r"^%s:\s*(.*)$" % name, f.read(), re.M).group(1)


def refused(base, text, *options):
    p = subprocess.run([SOSIA, "jail", "--chroot-base-dir", base, *options], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, universal_newlines=True, timeout=30)
    check(p.returncode == 2 and text in p.stdout, "%s: %s %r" % (options, p.returncode, p.stdout))


def bad_input(base):
    user = ["--uid", "1", "--gid", "1"]
    refused(base, "--id", *user)
    refused(base, "--id", "--id", "a/../b", *user)
    refused(base, "--id", "--id", "x" * 65, *user)
    refused(base, "--uid and --gid", "--id", "a")
    refused(base, "not a number", "--id", "a", "--uid", "-1", "--gid", "1")
    refused(base, "fsize=BYTES", "--id", "a", *user, "--resource-limit", "cpu=1")
    refused(base, "1 or 2", "--id", "a", *user, "--cgroup-version", "3")
    refused(base, "No such file", "--id", "a", *user, "--exec-file", "/nowhere/vmm")
    refused(base, "not a relative path", "--id", "a", *user, "--parent-cgroup", "../up")
    refused(base, "unknown option", "--id", "a", *user, "--frobnicate")
    check(not os.path.exists(base) or not os.listdir(base), "something was made: %s" % base)


def cgroup_options():
    """A limit that this host's control groups can express."""
    with open("/proc/self/mounts") as f:
        mounts = f.read()
    if re.search(r" cgroup2 ", mounts):
        m = re.search(r"^\S+ (\S+) cgroup2 rw", mounts, re.M)
        with open(m.group(1) + "/cgroup.controllers") as f:
            if m and "pids" in f.read():
                return ["--cgroup-version", "2", "--cgroup", "pids.max=64"]
    if re.search(r" cgroup rw\S*\bpids\b", mounts):
        return ["--cgroup", "pids.max=64"]
    return []


def start(base, log, link):
    limits = cgroup_options()
    command = [link, "--id", "m1", "--uid", str(UID), "--gid", str(GID), "--chroot-base-dir", base,
               "--exec-file", SOSIA, "--new-pid-ns", "--resource-limit", "no-file=512", *limits,
               "--", "--api-sock", "/run/api.sock"]
    with open(log, "wb") as f:
        p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=f, stderr=f, timeout=60)
    with open(log) as f:
        check(p.returncode == 0, "%s: %s %s" % (command, p.returncode, f.read()))
    return limits


def inside(pid, root, limits):
    """What the jailed process can see and be."""
    check(os.readlink("/proc/%d/root" % pid) in (root, "/"), "its / is not the jail")
    check(not os.path.exists("/proc/%d/root/usr" % pid), "the host's files are in the jail")
    check(field(pid, "Uid").split() == [str(UID)] * 4, "user: " + field(pid, "Uid"))
    check(field(pid, "Gid").split() == [str(GID)] * 4, "group: " + field(pid, "Gid"))
    check(field(pid, "NSpid").split()[-1] == "1", "process namespace: " + field(pid, "NSpid"))
    for ns in "mnt", "pid":
        check(os.readlink("/proc/%d/ns/%s" % (pid, ns)) != os.readlink("/proc/self/ns/" + ns), ns)
    with open("/proc/%d/limits" % pid) as f:
        check(re.search(r"Max open files\s+512\s+512", f.read()), "descriptors are not limited")
    with open("/proc/%d/cgroup" % pid) as f:
        check(not limits or "/sosia/m1" in f.read(), "not in its control group")


def life(base, tmp):
    link = os.path.join(tmp, "jailer")
    os.symlink(SOSIA, link)
    log = os.path.join(tmp, "log")
    limits = start(base, log, link)
    root = os.path.join(base, os.path.basename(SOSIA), "m1", "root")
    with open(os.path.join(root, os.path.basename(SOSIA) + ".pid")) as f:
        pid = int(f.read())
    sock = os.path.join(root, "run/api.sock")
    try:
        wait_for("the API socket", lambda: os.path.exists(sock))
        inside(pid, root, limits)
        for name in "vmlinuz", "initrd.img":
            shutil.copy(os.path.join(GUEST, name), root)
        kernel = {"kernel_image_path": "/vmlinuz", "initrd_path": "/initrd.img",
                  "boot_args": "console=ttyS0 quiet"}
        check(api(sock, "PUT", "/boot-source", kernel)[0] == 204, "boot source")
        check(api(sock, "PUT", "/boot-source", dict(kernel, kernel_image_path=GUEST + "/vmlinuz"))[0] == 400,
              "a path outside the jail was taken")
        check(api(sock, "PUT", "/boot-source", kernel)[0] == 204, "boot source again")
        status = api(sock, "PUT", "/actions", {"action_type": "InstanceStart"})
        check(status[0] == 204, "start: %s" % (status,))

        def text():
            with open(log, "rb") as f:
                return f.read()
        wait_for("the guest", lambda: b"init reached" in text() or not os.path.exists("/proc/%d" % pid))
        check(b"init reached" in text(), "no guest: %r" % text()[-800:])
        for tid in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/status" % (pid, tid)) as f:
                t = f.read()
            check(re.search(r"CapEff:\s*0{16}", t) and re.search(r"Seccomp:\s*2", t), "a thread is outside: " + t)
    finally:
        os.kill(pid, signal.SIGKILL)
        wait_for("its end", lambda: not os.path.exists("/proc/%d" % pid))


def main():
    if os.geteuid():
        print("SKIPPED jail: needs root")
        print("jail: 0 passed, 0 failed, 1 skipped")
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        base = os.path.join(tmp, "jails")
        bad_input(base)
        life(base, tmp)
    print("jail: %d passed, %d failed" % (passed, failed))
    return failed != 0


sys.exit(main())
