#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/share/run.py [PATTERN...]

Shared folders with a Debian kernel as guest: trees compared both ways, POSIX, random operations against a model,
rename storms, a host process that swaps folders for links, readonly, a folder that vanishes, a snapshot with open
files. PATTERN selects tests by name. Prints a line for each and, last, "share: N passed, N failed, N skipped".
"""
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "net"))
from lib import Failure, Machine, Skip, KERNEL, SOSIA, end_all, expect, run, wait_for  # noqa: E402

INITRD = "build/tests/share/initrd.img"
SWAPPED = 7  # folders; the guest remembers for a second what each was
CANARY = "canary: must not be read or written\n"


def machine(shares, *more, cpus=1, prefix=(), name="share"):
    args = [x for s in shares for x in ("--share", s)]
    m = Machine(name=name, command=[
        *prefix, SOSIA, "run", "--engine", "soft", "--quiet", "--cpus", str(cpus), "--memory", "192M", "--kernel", KERNEL,
        "--initrd", INITRD, "--cmdline", "console=ttyS0 quiet mitigations=off", *more, *args])
    m.do("modprobe virtiofs; mkdir -p /a /b")
    return m


def folder(tmp, name="dir"):
    path = os.path.join(tmp, name)
    os.mkdir(path)
    return path


def put(path, data):
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def get(path):
    with open(path, "rb") as f:
        return f.read()


def make_tree(top, seed):
    rnd = random.Random(seed)
    folders = [top]
    for i in range(12):
        folders.append(os.path.join(rnd.choice(folders), "folder %d" % i))
        os.mkdir(folders[-1])
    for i in range(150):
        size = rnd.choice((0, 1, 100, 4095, 4096, 4097, 70000, 300000)) if i > 1 else 5000000
        put(os.path.join(rnd.choice(folders), "file-%d.%s" % (i, "x" * rnd.randrange(200))), rnd.randbytes(size))
    os.symlink("nowhere/at all", os.path.join(top, "dangling"))
    os.symlink("../../etc", os.path.join(top, "up"))


def sums(top):
    """What sha256sum of the guest prints, and what links are."""
    found = {}
    for where, _dirs, files in os.walk(top):
        for name in files:
            path = os.path.join(where, name)
            rel = "./" + os.path.relpath(path, top)
            found[rel] = "-> " + os.readlink(path) if os.path.islink(path) else hashlib.sha256(get(path)).hexdigest()
    return found


def guest_sums(m, where):
    text = m.do("(cd %s && find . -type f -print0 | xargs -0 -r sha256sum; "
                "find . -type l | while read -r l; do echo \"-> $(readlink \"$l\")  $l\"; done)" % where, 120)
    found = {}
    for line in text.splitlines():
        match = re.match(r"([0-9a-f]{64}|-> .*?)  (\./.*)$", line)
        if match:
            found[match.group(2)] = match.group(1)
    return found


def same(a, b, what):
    expect(a == b, "%s: %s" % (what, sorted(set(a.items()) ^ set(b.items()))[:4]))


def trees(tmp):
    d = folder(tmp)
    os.mkdir(d + "/host")
    make_tree(d + "/host", 1)
    m = machine([d + ",tag=T"], cpus=2, name="trees")
    m.do("mount -t virtiofs T /a")
    same(sums(d + "/host"), guest_sums(m, "/a/host"), "what the host made")
    m.do("cp -a /a/host /a/guest && sync", 120)
    same(sums(d + "/host"), sums(d + "/guest"), "what the guest made")
    expect(int(os.stat(d + "/guest").st_mtime) == int(os.stat(d + "/host").st_mtime), "times were not kept")
    m.do("rm -rf /a/host", 60)
    expect(not os.path.exists(d + "/host"), "rm")
    # what the one changes, the other sees
    put(d + "/note", "one")
    expect("one" in m.do("cat /a/note"), "a new file")
    put(d + "/note", "changed")
    expect("changed" in m.do("sleep 1.1; cat /a/note"), "a change by the host")
    m.do("umount /a; mount -t virtiofs T /a; ls /a; umount /a")
    expect("exists" not in m.do("mount -t virtiofs nosuchtag /a 2>&1", check=False), "a tag that is not there")
    m.leave()


def programs(tmp):
    d = folder(tmp)
    m = machine([d + ",tag=T"], cpus=2, name="programs")
    m.do("mount -t virtiofs T /a")
    expect("posix: ok" in m.do("fstest posix /a", 120), "posix")
    seed = random.randrange(1, 1 << 30)
    for s in (1, 2, seed):
        expect("model: ok" in m.do("fstest model /a %d 800" % s, 120), "model, seed %d" % s)
    expect("storm: ok" in m.do("fstest storm /a 4", 60), "storm")
    m.do("rm -rf /a/*; umount /a")
    expect(not os.listdir(d), "something is left: %s" % os.listdir(d))
    m.leave()


def many(tmp):
    """A directory with 100,000 entries, and fewer descriptors than files."""
    d = folder(tmp)
    for i in range(100000):
        os.mknod("%s/f%d" % (d, i), 0o600)
    m = machine([d + ",tag=T"], prefix=("prlimit", "--nofile=2000"), name="many")
    m.do("mount -t virtiofs T /a")
    expect("100000" in m.do("ls /a | wc -l", 120), "entries")
    expect("10000" in m.do("find /a -name 'f7????' -type f -size 0 | wc -l", 120), "files")
    m.do("for i in 1 500 99999 2 70001; do echo $i >/a/f$i && test $(cat /a/f$i) = $i || exit 1; done")
    expect(get(d + "/f99999") == b"99999\n", "contents")
    m.leave()


def mmio(tmp):
    d, e = folder(tmp), folder(tmp, "second, with comma")
    make_tree(d, 2)
    put(e + "/x", "second")
    m = machine([d + ",tag=first", e.replace(",", ",,") + ",tag=second,readonly"], "--transport", "mmio", name="mmio")
    m.do("mount -t virtiofs first /a; mount -t virtiofs second /b; cat /proc/mounts")
    same(sums(d), guest_sums(m, "/a"), "over MMIO")
    expect("second" in m.do("cat /b/x"), "second folder")
    expect("model: ok" in m.do("fstest model /a 9 200", 60), "model")
    m.leave()


def readonly(tmp):
    d = folder(tmp)
    put(d + "/x", "content")
    os.mkdir(d + "/sub")
    before = os.stat(d + "/x")
    m = machine([d + ",tag=T,readonly"], name="readonly")
    m.do("mount -t virtiofs T /a; cat /a/x | grep content")
    for what in ("echo y >/a/x", "echo y >>/a/x", "echo y >/a/new", "rm /a/x", "mkdir /a/d", "rmdir /a/sub", "mv /a/x /a/y",
                 "ln /a/x /a/y", "ln -s x /a/s", "chmod 777 /a/x", "chown 1 /a/x", "touch /a/x", "truncate -s 0 /a/x",
                 "mkfifo /a/f"):
        text = m.do("%s 2>&1" % what, check=False)
        expect("Read-only file system" in text, "%s: %s" % (what, text))
    after = os.stat(d + "/x")
    expect(get(d + "/x") == b"content" and (before.st_mtime, before.st_mode) == (after.st_mtime, after.st_mode) and
           sorted(os.listdir(d)) == ["sub", "x"], "something was changed")
    m.leave()


def swap(tmp):
    """The host swaps folders for links to places outside while the guest walks, writes and renames there."""
    d, outside = folder(tmp), folder(tmp, "outside")
    put(outside + "/secret", CANARY)
    os.mkdir(outside + "/in")
    put(outside + "/in/secret", CANARY)
    put(d + "/secret", "harmless")
    os.symlink("../outside", d + "/link")
    for i in range(SWAPPED):
        os.mkdir("%s/swap%d" % (d, i))
        os.mkdir("%s/swap%d/in" % (d, i))
        put("%s/swap%d/secret" % (d, i), "harmless")
        put("%s/swap%d/in/secret" % (d, i), "harmless")
        os.symlink(outside, "%s/evil%d" % (d, i))
    before = {f: (get(f), os.stat(f).st_mtime_ns) for f in (outside + "/secret", outside + "/in/secret")}
    stop = threading.Event()

    def swapper():
        n = 0
        while not stop.is_set():
            n += 1
            there, link = "%s/swap%d" % (d, n % SWAPPED), "%s/evil%d" % (d, n % SWAPPED)
            away = os.path.join(tmp, "moved") if n & 1 else d + "/real"  # outside, too
            os.rename(there, away)
            os.rename(link, there)
            time.sleep(0.0005)
            os.rename(there, link)
            os.rename(away, there)
            time.sleep(0.0005)

    m = machine([d + ",tag=T"], cpus=2, name="swap")
    m.do("mount -t virtiofs T /a")
    thread = threading.Thread(target=swapper, daemon=True)
    thread.start()
    try:
        text = m.do("fstest prowl /a 8", 90)
    finally:
        stop.set()
        thread.join(20)
    print("    " + " ".join(re.findall(r"\d+ tries, \d+ times .*", text)))
    for f, (data, changed) in before.items():
        expect(get(f) == data and os.stat(f).st_mtime_ns == changed, "%s was changed" % f)
    expect(sorted(os.listdir(outside)) == ["in", "secret"] and os.listdir(outside + "/in") == ["secret"],
           "something was made outside")
    m.leave()


def vanish(tmp):
    d = folder(tmp)
    os.mkdir(d + "/sub")
    put(d + "/sub/x", "content")
    m = machine([d + ",tag=T"], name="vanish")
    m.do("mount -t virtiofs T /a; cd /a/sub; exec 3<x; cat x")
    shutil.rmtree(d)
    m.do("! cat /a/sub/x; ! ls /a/sub/x; ! touch /a/new; ! mkdir /a/sub/y; true")
    expect("content" in m.do("cat <&3"), "an open file was lost")
    m.do("exec 3<&-; cd /; umount /a; uname")
    m.leave()


def nobody(tmp):
    """As a user without privileges, and files that this user may not touch."""
    if os.geteuid():
        raise Skip("is one anyway")
    d = folder(tmp)
    os.chmod(tmp, 0o755)
    os.chmod(d, 0o777)
    put(d + "/private", "of root")
    os.chmod(d + "/private", 0o600)
    home = folder(tmp, "home")
    os.chmod(home, 0o777)
    m = machine([d + ",tag=T"], name="nobody", prefix=(
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "XDG_RUNTIME_DIR=" + home, "HOME=" + home))
    m.do("mount -t virtiofs T /a; echo mine >/a/new; cat /a/new")
    expect(os.stat(d + "/new").st_uid == 65534, "owner")
    expect("Permission denied" in m.do("cat /a/private 2>&1", check=False), "a private file was read")
    expect("not permitted" in m.do("chown 7 /a/new 2>&1", check=False), "chown")
    m.leave()


def owners(tmp):
    """As root without the fence, what a user of the guest makes belongs to that user."""
    if os.geteuid():
        raise Skip("needs root")
    d = folder(tmp)
    os.chmod(tmp, 0o755)
    os.chmod(d, 0o777)
    m = machine([d + ",tag=T"], "--fence", "off", name="owners")
    m.do("mount -t virtiofs T /a")
    expect("own: ok" in m.do("fstest own /a 1234"), "own")
    m.do("chown 77:78 /a/owned; chmod 4755 /a/owned")
    st = os.stat(d + "/owned")
    expect((st.st_uid, st.st_gid, st.st_mode & 0o7777) == (77, 78, 0o755), "owner or mode: %s" % (st,))
    m.leave()


def snapshot(tmp):
    d = folder(tmp)
    put(d + "/log", "1\n")
    put(d + "/replaced", "old")
    m = machine([d + ",tag=T"], "--name", "sharesnap%d" % os.getpid(), name="snapshot")
    m.do("mount -t virtiofs T /a; exec 3>>/a/log 4</a/replaced; echo 2 >&3; ls -l /a")
    saved = os.path.join(tmp, "saved")
    run([SOSIA, "snapshot", "sharesnap%d" % os.getpid(), saved, "--stop"], 120)
    m.process.wait(60)
    put(d + "/other", "must not be read")
    os.rename(d + "/other", d + "/replaced")
    os.rename(d, d + " moved")
    d += " moved"
    n = Machine(name="restored", command=[SOSIA, "restore", saved, "--console", "stdio", "--quiet", "--share", d])
    n.up = True
    n.start("true")
    n.process.stdin.write(b"\n")
    n.process.stdin.flush()
    n.do("echo 3 >&3; sync")
    wait_for("the line", 20, lambda: get(d + "/log") == b"1\n2\n3\n")
    expect("must not" not in n.do("cat <&4", check=False), "a replaced file was read")
    expect("1" in n.do("cat /a/log; ls /a"), "the folder is there")
    n.do("exec 3>&- 4<&-; umount /a; mount -t virtiofs T /a; cat /a/replaced")
    n.leave()


def refused(pattern, status, *args):
    p = subprocess.run([SOSIA, "run", "--quiet", "--engine", "soft", "--console", "none", "--kernel", KERNEL, *args],
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    text = p.stderr.decode()
    expect(p.returncode == status, "%s: status %d, not %d: %s" % (args, p.returncode, status, text))
    expect(text.count("\n") == 1 and re.search(pattern, text), "%s: %s" % (args, text))


def errors(tmp):
    d = folder(tmp)
    put(tmp + "/file", "")
    refused("no folder named", 2, "--share", ",tag=x")
    refused("add ,tag=NAME", 2, "--share", d)
    refused("tag=: not a name", 2, "--share", d + ",tag=")
    refused("tag=x{37}: not a name", 2, "--share", d + ",tag=" + "x" * 37)
    refused("unknown option 'writable'", 2, "--share", d + ",tag=x,writable")
    refused("tag=x is there twice", 2, "--share", d + ",tag=x", "--share", tmp + ",tag=x")
    refused("none: No such file or directory", 2, "--share", tmp + "/none,tag=x")
    refused("file: Not a directory", 2, "--share", tmp + "/file,tag=x")
    refused("/proc: the kernel's own files", 2, "--share", "/proc,tag=x")
    refused("at most 8", 2, *[x for i in range(9) for x in ("--share", "%s,tag=t%d" % (d, i))])


TESTS = [errors, trees, programs, many, mmio, readonly, swap, vanish, nobody, owners, snapshot]


def one(test):
    tmp = tempfile.mkdtemp(prefix="sosia-share-")
    start = time.time()
    try:
        test(tmp)
        result = "ok"
    except Skip as e:
        result = "SKIPPED"
        print("SKIPPED: share %s: %s" % (test.__name__, e))
    except (Failure, subprocess.TimeoutExpired, OSError) as e:
        result = "FAILED"
        print("FAILED: %s: %s" % (test.__name__, e))
    finally:
        end_all()
        shutil.rmtree(tmp, ignore_errors=True)
    print("%-10s %s (%.1f s)" % (test.__name__, result, time.time() - start), flush=True)
    return result


def main():
    wanted = sys.argv[1:]
    results = [one(t) for t in TESTS if not wanted or any(w in t.__name__ for w in wanted)]
    print("share: %d passed, %d failed, %d skipped" % (
        results.count("ok"), results.count("FAILED"), results.count("SKIPPED")))
    return 1 if "FAILED" in results else 0


if __name__ == "__main__":
    sys.exit(main())
