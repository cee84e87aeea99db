#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: bench/net.py [--rounds N] [--seconds S]

Networks: TCP throughput and requests of one byte through the user network (NAT, libslirp in both monitors)
and from guest to guest (Sosia's switch; QEMU's socket back end, which joins two machines directly), in Sosia
and in QEMU with the same kernel, initramfs and measuring program (guests/net/netprobe.c), one after the
other, N times round; and on the host's own loopback. Prints medians and ratios (above 1: Sosia is ahead); nothing is asserted.
Rows named cpu: processor time of the monitors for each MB or request, for hosts that others use, too.
"""
import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests", "net"))
from lib import CMDLINE, INITRD, KERNEL, Machine, end_all, free_port, run  # noqa: E402

PROBE = "build/bench/netprobe"
ROWS = [r + c for r in ("user in", "user out", "user rr", "guest to guest", "guest rr") for c in ("", ", cpu")]
WARM = 0.5  # seconds
SWITCH = "bench%d" % os.getpid()


def qemu(netdev, mac, name):
    return Machine(name=name, command=[
        "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "128", "-nographic", "-nodefaults", "-no-reboot",
        "-serial", "stdio", "-kernel", KERNEL, "-initrd", INITRD, "-append", CMDLINE, "-netdev", netdev + ",id=n",
        "-device", "virtio-net-pci,netdev=n,romfile=,mac=" + mac])


def measure(text):
    m = re.search(r"(?:rr|send) ([\d.]+)", text)
    return float(m.group(1)) if m else None


def connect(port):
    """A forward accepts before the guest listens: wait until something comes back."""
    for _ in range(50):
        if measure(run([PROBE, "rr", "127.0.0.1", str(port), "0.1"], check=False)):
            return
        time.sleep(0.2)


def processor_us(pids):
    total = 0
    for pid in pids:
        with open("/proc/%d/stat" % pid, encoding="utf-8") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total * 1e6 / os.sysconf("SC_CLK_TCK")


def timed(rows, name, pids, seconds, act):
    """Adds the row, and the monitors' processor time for each MB or request; both know the work already."""
    act(WARM)
    before = processor_us(pids)
    value = measure(act(seconds))
    if value:
        rows[name] = value
        rows[name + ", cpu"] = (processor_us(pids) - before) / (value * seconds * (1 if name.endswith("rr") else 1e-6))


def switch_pids(name):
    """The process of Sosia's switch works for the guests, too."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                if f.read().split(b"\0")[1:4] == [b"switch", b"--serve", name.encode()]:
                    found.append(int(pid))
        except OSError:
            pass
    return found


def user_rows(make, seconds):
    sink, echo = free_port(), free_port()
    host = free_port()
    server = subprocess.Popen([PROBE, "sink", str(host)])
    m = make("user,hostfwd=tcp:127.0.0.1:%d-:9001,hostfwd=tcp:127.0.0.1:%d-:9002" % (sink, echo))
    try:
        m.do("netup", 60)
        m.do("(netprobe sink 9001 &); (netprobe serve 9002 &)")
        connect(echo)
        rows, pids = {}, [m.process.pid]
        timed(rows, "user in", pids, seconds,
              lambda t: run([PROBE, "send", "127.0.0.1", str(sink), str(t)], 120))
        timed(rows, "user out", pids, seconds, lambda t: m.do("netprobe send 10.0.2.2 %d %s" % (host, t), 120))
        timed(rows, "user rr", pids, seconds,
              lambda t: run([PROBE, "rr", "127.0.0.1", str(echo), str(t)], 120))
        return rows
    finally:
        server.kill()
        server.wait()
        end_all()


def pair_rows(pair, seconds):
    a, b = pair()
    try:
        for m, address in ((a, "10.1.0.1/24"), (b, "10.1.0.2/24")):
            m.do("netup " + address, 60)
        a.do("(netprobe sink 9001 &); (netprobe serve 9002 &)")
        b.do("ping -c 1 -w 30 10.1.0.1", 60)
        rows, pids = {}, [a.process.pid, b.process.pid, *switch_pids(SWITCH)]
        timed(rows, "guest to guest", pids, seconds,
              lambda t: b.do("netprobe send 10.1.0.1 9001 %s" % t, 120))
        timed(rows, "guest rr", pids, seconds, lambda t: b.do("netprobe rr 10.1.0.1 9002 %s" % t, 120))
        return rows
    finally:
        end_all()


def sosia(translator):
    def pair():
        return [Machine("switch=" + SWITCH, translator=translator, name=n) for n in ("a", "b")]

    return {"user": lambda net: Machine(net, translator=translator, name="user"), "pair": pair}


def qemu_tcg():
    def pair():
        port = free_port()
        first = qemu("socket,listen=127.0.0.1:%d" % port, "52:54:00:00:00:01", "a")
        time.sleep(1)
        return first, qemu("socket,connect=127.0.0.1:%d" % port, "52:54:00:00:00:02", "b")

    return {"user": lambda net: qemu(net, "52:54:00:00:00:03", "user"), "pair": pair}


def native(seconds):
    sink, echo = free_port(), free_port()
    servers = [subprocess.Popen([PROBE, "sink", str(sink)]), subprocess.Popen([PROBE, "serve", str(echo)])]
    try:
        connect(echo)
        send = measure(run([PROBE, "send", "127.0.0.1", str(sink), str(seconds)], 60))
        rr = measure(run([PROBE, "rr", "127.0.0.1", str(echo), str(seconds)], 60))
    finally:
        for s in servers:
            s.kill()
            s.wait()
    return {"user in": send, "user out": send, "user rr": rr, "guest to guest": send, "guest rr": rr}


def cell(row, value):
    if not value:
        return "-"
    if row.endswith("cpu"):
        return "%.0f us" % value
    if row.endswith("rr"):
        return "%.0f /s" % value
    return "%.0f MB/s" % (value / 1e6)


def print_table(results):
    names = list(results)
    median = {n: {r: statistics.median([x[r] for x in runs if x.get(r)] or [0]) for r in ROWS}
              for n, runs in results.items()}
    print("%-20s" % "row" + "".join("%14s" % n for n in names) + "   soft/qemu     tr/qemu")
    for row in ROWS:
        q = median.get("qemu-tcg", {}).get(row)
        both = [median.get(n, {}).get(row) for n in ("sosia-soft", "sosia-tr")]
        ratios = ["%.2f" % (q / v if row.endswith("cpu") else v / q) if q and v else "-" for v in both]
        print("%-20s" % row + "".join("%14s" % cell(row, median[n][row]) for n in names) + "%12s%12s" % tuple(ratios))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--monitors", default="sosia-soft,sosia-tr,qemu-tcg")
    opt = parser.parse_args()
    os.makedirs("build/bench", exist_ok=True)
    run(["gcc", "-O2", "-o", PROBE, "guests/net/netprobe.c"])
    run(["guests/net/build.sh"], 600)
    monitors = {"sosia-soft": sosia("off"), "sosia-tr": sosia("on"), "qemu-tcg": qemu_tcg()}
    monitors = {n: monitors[n] for n in opt.monitors.split(",")}
    results = {"host": [], **{n: [] for n in monitors}}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for i in range(opt.rounds):
            results["host"].append(native(opt.seconds))
            for name, m in monitors.items():
                print("round %d: %s" % (i + 1, name), flush=True)
                results[name].append({**user_rows(m["user"], opt.seconds), **pair_rows(m["pair"], opt.seconds)})
    except (KeyboardInterrupt, SystemExit):
        print("interrupted: what there is so far")
    print()
    print_table(results)


if __name__ == "__main__":
    main()
