#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/net/run.py [PATTERN...]

Networks as people use them: guests behind NAT, on tap devices, on a switch, behind passt, tried with curl,
ssh, iperf3, ping; hostile and dying neighbours; and what is said about networks that cannot be had. PATTERN
selects tests by name. Prints a line for each and, last, "net: N passed, N failed, N skipped".
"""
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(__file__))
from lib import (Failure, Machine, Server, Skip, INITRD, KERNEL, SOSIA, end_all, expect, free_port,  # noqa: E402
                 run, say_hello, wait_for)

SSH = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
       "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]


def refused(pattern, status, *args):
    """The machine does not start: one line that says why."""
    p = subprocess.run([SOSIA, "run", "--quiet", "--engine", "soft", "--console", "none", "--kernel", KERNEL, *args],
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    text = p.stderr.decode()
    expect(p.returncode == status, "%s: status %d, not %d: %s" % (args, p.returncode, status, text))
    expect(text.count("\n") == 1 and re.search(pattern, text), "%s: %s" % (args, text))


# --- user -----------------------------------------------------------------------------------------------


def user(_tmp):
    web, ssh, perf, udp = free_port(), free_port(), free_port(), free_port(socket.SOCK_DGRAM)
    host = Server(say_hello)
    host6 = Server(say_hello, "::1")
    m = Machine("user,queues=2,hostfwd=tcp:127.0.0.1:%d-:80,hostfwd=tcp:127.0.0.1:%d-:22,"
                "hostfwd=tcp:127.0.0.1:%d-:5201,hostfwd=udp:127.0.0.1:%d-:7" % (web, ssh, perf, udp),
                cpus=2, name="user")
    expect("10.0.2.15/24" in m.do("netup"), "no lease")
    m.do("grep -q 10.0.2.3 /etc/resolv.conf")
    m.do("ping -c 2 -w 20 10.0.2.2")
    m.do("test $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l) = 2")
    expect("hello from the host" in m.do("wget -q -O - http://10.0.2.2:%d/" % host.port), "wget")
    m.do("for i in $(seq 100); do ip -6 addr show eth0 | grep -q 'fec0.*global\\|fec0.*site' && "
         "! ip -6 addr show eth0 | grep -q tentative && break; sleep 0.2; done")
    expect("hello from the host" in m.do("wget -q -O - http://[fec0::2]:%d/" % host6.port), "wget over IPv6")
    m.do("httpd -h /www; dropbear -R -B; " + IPERF)
    expect(run(["curl", "-s", "-m", "20", "http://127.0.0.1:%d/" % web]) == "hello from the guest\n", "curl")
    uname = run([*SSH, "-p", str(ssh), "root@127.0.0.1", "uname -n; cat /proc/sys/kernel/ostype"])
    expect("Linux" in uname, "ssh: " + uname)
    big = run([*SSH, "-p", str(ssh), "root@127.0.0.1", "head -c 3000000 /dev/zero | md5sum"])
    expect(re.match(r"[0-9a-f]{32}", big), big)
    for direction in ([], ["-R"], ["-P", "4"]):
        iperf(on_host, "-c", "127.0.0.1", "-p", str(perf), "-t", "1", *direction)
    # what goes through is what comes out, both ways
    m.do("head -c 4000000 /dev/urandom > /www/blob")
    expect_blob(m, subprocess.run(["curl", "-s", "-m", "60", "http://127.0.0.1:%d/blob" % web], capture_output=True,
                                  check=False).stdout)
    udp_echo(m, udp)
    text = m.leave()
    expect(re.search(r"net0 received \d+ frames", text), "no counters")
    host.close()
    host6.close()


def expect_blob(m, got):
    there = re.search(r"[0-9a-f]{32}", m.do("md5sum < /www/blob")).group()
    here = hashlib.md5(got).hexdigest()
    expect(here == there, "%d bytes with sum %s, sent with %s" % (len(got), here, there))


def udp_echo(m, port):
    m.do("(netprobe udp 7 &)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        for _ in range(15):
            s.sendto(b"datagram", ("127.0.0.1", port))
            try:
                expect(s.recv(100) == b"datagram", "a datagram was changed")
                return
            except socket.timeout:
                pass
    raise Failure("no answer to a datagram")


def restrict(_tmp):
    web = free_port()
    host = Server(say_hello)
    m = Machine("user,restrict,hostfwd=tcp:127.0.0.1:%d-:80" % web, name="restricted")
    expect("10.0.2.15/24" in m.do("netup"), "no lease")
    m.do("httpd -h /www")
    expect(run(["curl", "-s", "-m", "20", "http://127.0.0.1:%d/" % web]) == "hello from the guest\n", "curl")
    for what in ("wget -q -T 3 -O - http://10.0.2.2:%d/" % host.port,
                 "wget -q -T 3 -O - http://[fec0::2]:%d/" % host.port,
                 "timeout 3 nslookup localhost 10.0.2.3", "timeout 3 nc 127.0.0.2 %d </dev/null" % host.port,
                 "timeout 3 nc 192.0.2.1 80 </dev/null"):
        expect("hello" not in m.do("! " + what, check=True), what + " got through")
    expect(host.accepted == 0, "the guest reached the host")
    m.leave()
    n = Machine("user,host-loopback=off", name="no loopback")
    n.do("netup")
    n.do("! wget -q -T 3 -O - http://10.0.2.2:%d/" % host.port)
    expect(host.accepted == 0, "the guest reached the host's loopback address")
    n.leave()
    host.close()


def rates(_tmp):
    """Only upper bounds: how fast a guest is depends on the host."""
    got = [0]

    def count(s):
        while True:
            data = s.recv(1 << 16)
            if not data:
                break
            got[0] += len(data)
        s.close()
    sink = Server(count)
    m = Machine("user,tx-bps=500K", name="limited")
    m.do("netup")
    start = time.time()
    m.do("netprobe send 10.0.2.2 %d 4" % sink.port, 60)
    spent = time.time() - start
    expect(got[0] > 100000, "hardly anything came")
    expect(got[0] < (spent + 1.5) * 512000, "%d bytes in %.1f s" % (got[0], spent))
    text = m.leave()
    expect(int(re.search(r"waits, (\d+) limited\s*$", text, re.M).group(1)) > 0, "never limited")
    sink.close()


def errors(tmp):
    taken = Server(say_hello)
    refused("hostfwd=tcp:127.0.0.1:%d-:22: Address already in use" % taken.port, 1,
            "--net", "user,hostfwd=tcp:127.0.0.1:%d-:22" % taken.port)
    taken.close()
    refused("not as in tcp:127.0.0.1:2222-:22", 2, "--net", "user,hostfwd=tcp:here")
    refused("tap=sosianone0: there is no such interface", 2, "--net", "tap=sosianone0")
    refused("passt=.*/none: No such file", 1, "--net", "passt=%s/none" % tmp)
    refused("a name is 1 to 32", 2, "--net", "switch=a/b")
    refused("not one of user, tap=", 2, "--net", "pigeon")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:  # a socket of something else
        s.bind(tmp + "/deaf")
        refused("passt=.*: Connection refused", 1, "--net", "passt=%s/deaf" % tmp)


# --- switch ---------------------------------------------------------------------------------------------

NAME = "nettest%d" % os.getpid()


def switch_ports():
    text = run([SOSIA, "switch", NAME], check=False)  # a new switch may not listen yet
    return [dict(re.findall(r"(\w+) ([0-9a-f:]+)", line)) for line in text.splitlines()]


def switch_pid():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                if f.read().split(b"\0")[1:4] == [b"switch", b"--serve", NAME.encode()]:
                    return int(pid)
        except OSError:
            pass
    return None


def rss_kib(pid):
    with open("/proc/%d/status" % pid, encoding="ascii") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


IPERF = "iperf3 -s -D; until netstat -ltn | grep -q :5201; do sleep 0.1; done"


def iperf(runner, *args):
    """The server takes a moment between two clients."""
    for last in (False, False, False, True):
        try:
            return runner("iperf3", *args)
        except Failure:
            if last:
                raise
            time.sleep(1)


def on_host(*command):
    return run(list(command))


def pings(a, address, count=2):
    a.do("ping -c %d -W 5 -w 30 %s | grep -q ' %d packets received'" % (count, address, count), 60)


def hears(listener, seconds, act):
    """What `listener` hears while act() happens: {source: frames}."""
    token = listener.start("netprobe hear eth0 %d" % seconds)
    act()
    text = listener.finish(token, seconds + 30)
    expect("sources" in text, "hear: " + text)
    return {mac: int(n) for mac, n in re.findall(r"heard (\S+:\S+) (\d+)", text)}


def switch(_tmp):
    ten = [Machine("switch=%s" % NAME, name="m%d" % i, memory="96M") for i in range(10)]
    far = [Machine("switch=%s,vlan=8" % NAME, name="vlan8-%d" % i, memory="96M") for i in range(2)]
    tokens = [(m, m.start("netup 10.1.0.%d/24" % (i + 1))) for i, m in enumerate(ten)]
    tokens += [(m, m.start("netup 10.1.0.%d/24" % (i + 1))) for i, m in enumerate(far)]
    for m, t in tokens:
        m.finish(t, 60)
    ports = switch_ports()
    expect(len(ports) == 12, "ports: %s" % ports)
    expect(len({(p["vlan"], p["mac"]) for p in ports}) == 12, "addresses: %s" % ports)
    for i, m in enumerate(ten):
        pings(m, "10.1.0.%d" % ((i + 1) % 10 + 1))
    pings(far[0], "10.1.0.2")
    vlan_isolation(ten, far)
    spoofing(ten, far)
    flooding(ten, far)
    ten[0].do(IPERF)
    for direction in ([], ["-R"]):
        iperf(lambda *c: ten[1].do(" ".join(c), 60), "-c", "10.1.0.1", "-t", "1", *direction)
    dying(ten)


def vlan_isolation(ten, far):
    heard = hears(far[1], 4, lambda: [m.do("netprobe shout eth0 1 %d" % i) for i, m in enumerate(ten[:3])])
    expect(not heard, "VLAN 8 hears %s" % heard)
    heard = hears(ten[5], 4, lambda: far[0].do("netprobe shout eth0 1 77"))
    expect(not heard, "8 is heard outside: %s" % heard)
    heard = hears(ten[5], 4, lambda: ten[4].do("netprobe shout eth0 1 5"))
    expect("02:00:00:00:00:05" in heard, "its own network it does not hear: %s" % heard)


def spoofing(ten, far):
    """ten[9] sends as ten[0]: nobody gets it, and what is for ten[0] still reaches it."""
    mac = ten[0].do("cat /sys/class/net/eth0/address").strip().splitlines()[-1]
    before = sum(int(p["spoofed"]) for p in switch_ports())
    token = ten[9].start("netprobe flood eth0 3 %s" % mac)
    heard = hears(ten[2], 2, lambda: pings(ten[1], "10.1.0.1"))
    expect(mac not in heard, "spoofed frames arrive: %s" % heard)
    ten[9].finish(token, 60)
    expect(sum(int(p["spoofed"]) for p in switch_ports()) > before, "no spoofed frame was counted")
    expect(not hears(far[0], 1, lambda: None), "noise in VLAN 8")


def flooding(ten, far):
    """ten[9] floods from random addresses: the others still work, the switch does not grow."""
    pid = switch_pid()
    token = ten[9].start("netprobe flood eth0 6")
    heard = hears(far[1], 3, lambda: pings(ten[3], "10.1.0.5"))
    expect(not heard, "VLAN 8 hears the flood: %s" % list(heard)[:3])
    pings(far[0], "10.1.0.2")
    ten[9].finish(token, 60)
    expect(rss_kib(pid) < 32 * 1024, "the switch takes %d KiB" % rss_kib(pid))
    worst = max(int(p["macs"]) for p in switch_ports())
    expect(worst <= 64, "a port holds %d addresses" % worst)
    pings(ten[0], "10.1.0.2")


def dying(ten):
    ten[2].kill()
    wait_for("the dead machine's port is free", 10, lambda: len(switch_ports()) == 11)
    pings(ten[0], "10.1.0.2")
    os.kill(switch_pid(), signal.SIGKILL)  # a new one takes over
    wait_for("the ports are back", 30, lambda: switch_pid() and len(switch_ports()) == 11)
    ten[0].do("for i in $(seq 50); do test $(cat /sys/class/net/eth0/carrier) = 1 && break; sleep 0.2; done")
    pings(ten[0], "10.1.0.2")
    end_all()
    wait_for("the switch ends after the last machine", 15, lambda: not switch_pid())


# --- tap and passt, in a network namespace of their own -------------------------------------------------


class Namespace:
    """A network namespace; `run` runs a command of the host in it."""

    def __init__(self):
        self.name = "sosia-net-%d" % os.getpid()
        if os.geteuid() or not shutil.which("ip"):
            raise Skip("needs root and iproute2")
        p = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, check=False)
        if p.returncode:
            raise Skip("no network namespaces here: " + p.stderr.decode().strip())
        self.prefix = ["ip", "netns", "exec", self.name]
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *command, **more):
        return run([*self.prefix, *command], **more)

    def close(self):
        run(["ip", "netns", "del", self.name], check=False)


def tap(_tmp):
    ns = Namespace()
    try:
        p = subprocess.run([*ns.prefix, "ip", "tuntap", "add", "dev", "tap0", "mode", "tap"], capture_output=True,
                           check=False)
        if p.returncode:
            raise Skip("no tap devices here: " + p.stderr.decode().strip())
        tap_inside(ns)
    finally:
        end_all()
        ns.close()


def tap_inside(ns):
    ns.run("ip", "link", "set", "tap0", "mtu", "9000", "up")
    ns.run("ip", "addr", "add", "10.9.0.1/24", "dev", "tap0")
    m = Machine("tap=tap0,mtu=9000,mac=52:54:00:00:00:09", prefix=ns.prefix, name="tap")
    m.do("netup 10.9.0.2/24")
    m.do("test $(cat /sys/class/net/eth0/mtu) = 9000 && test $(cat /sys/class/net/eth0/address) = 52:54:00:00:00:09")
    pings(m, "10.9.0.1")
    m.do("ping -c 2 -w 20 -s 8900 10.9.0.1")
    m.do(IPERF)
    for direction in ([], ["-R"], ["-u", "-b", "5M"]):
        iperf(ns.run, "-c", "10.9.0.2", "-t", "1", *direction)
    p = subprocess.run([*ns.prefix, SOSIA, "run", "--engine", "soft", "--quiet", "--kernel", KERNEL, "--net", "tap=tap0"],
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    expect(p.returncode == 1 and b"another process uses it" in p.stderr, "a tap used twice: %s" % p.stderr)
    ns.run("ip", "link", "set", "tap0", "down")
    m.do("ping -c 1 -W 1 10.9.0.1", check=False)
    ns.run("ip", "link", "set", "tap0", "up")
    pings(m, "10.9.0.1")
    ns.run("ip", "link", "del", "tap0")
    m.do("for i in $(seq 50); do test $(cat /sys/class/net/eth0/carrier) = 0 && break; sleep 0.2; done; "
         "test $(cat /sys/class/net/eth0/carrier) = 0")
    expect("the tap device is gone" in m.leave(), "nobody said that the tap is gone")


def passt(tmp):
    if not shutil.which("passt"):
        raise Skip("passt is not installed")
    ns = Namespace()
    child = None
    try:
        for step in (["tuntap", "add", "dev", "out0", "mode", "tap"], ["addr", "add", "10.8.0.5/24", "dev", "out0"],
                     ["link", "set", "out0", "up"], ["route", "add", "default", "via", "10.8.0.1"]):
            p = subprocess.run([*ns.prefix, "ip", *step], capture_output=True, check=False)
            if p.returncode:
                raise Skip("no tap devices here: " + p.stderr.decode().strip())
        os.chmod(tmp, 0o777)
        child = subprocess.Popen([*ns.prefix, "passt", "--foreground", "--socket", tmp + "/s", "-t", "8022:80"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        end = time.time() + 10
        while not os.path.exists(tmp + "/s"):
            if child.poll() is not None or time.time() > end:
                child.kill()
                raise Skip("passt does not start here: " + child.stdout.read().decode()[-200:])
            time.sleep(0.1)
        passt_inside(ns, child, tmp)
    finally:
        end_all()
        if child and child.poll() is None:
            child.kill()
        ns.close()


def passt_inside(ns, child, tmp):
    m = Machine("passt=%s/s" % tmp, name="passt")
    expect("10.8.0.5" in m.do("netup"), "no lease from passt")
    m.do("httpd -h /www; head -c 2000000 /dev/urandom > /www/blob")
    ns.run("curl", "-s", "-m", "30", "-o", tmp + "/blob", "http://127.0.0.1:8022/blob")
    with open(tmp + "/blob", "rb") as f:
        expect_blob(m, f.read())
    server = subprocess.Popen([*ns.prefix, "iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        for direction in ([], ["-R"]):
            iperf(lambda *c: m.do(" ".join(c), 60), "-c", "10.8.0.1", "-t", "1", *direction)
    finally:
        server.kill()
        server.wait()
    child.kill()
    m.do("for i in $(seq 50); do test $(cat /sys/class/net/eth0/carrier) = 0 && break; sleep 0.2; done; "
         "test $(cat /sys/class/net/eth0/carrier) = 0")
    expect("passt ended" in m.leave(), "nobody said that passt is gone")


TESTS = [errors, user, restrict, rates, switch, tap, passt]


def main():
    count = dict(passed=0, failed=0, skipped=0)
    for path in (KERNEL, INITRD):
        if not os.path.exists(path):
            print("SKIPPED all: %s is not there; guests/net/build.sh makes it" % path)
            print("net: 0 passed, 0 failed, %d skipped" % len(TESTS))
            return 0
    for test in TESTS:
        if sys.argv[1:] and not any(p in test.__name__ for p in sys.argv[1:]):
            continue
        start = time.time()
        with tempfile.TemporaryDirectory() as tmp:
            try:
                test(tmp)
                result, why = "ok", ""
                count["passed"] += 1
            except Skip as e:
                result, why = "SKIPPED", ": %s" % e
                count["skipped"] += 1
            except (Failure, OSError, subprocess.SubprocessError) as e:
                result, why = "FAILED", ": %s" % e
                count["failed"] += 1
            finally:
                end_all()
        print("%s %s (%.1f s)%s" % (result, test.__name__, time.time() - start, why), flush=True)
    print("net: %(passed)d passed, %(failed)d failed, %(skipped)d skipped" % count)
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
