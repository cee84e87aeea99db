#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/api/run.py [PATTERN...]

The API from outside: every operation of docs/openapi.yaml, right and wrong, its answers checked against that
file; HTTP as clients send it; and whole life cycles of a Linux guest. PATTERN selects tests by name. Prints a
line for each and, last, "api: N passed, N failed".
"""
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback

sys.path.insert(0, os.path.dirname(__file__))
import spec as openapi  # noqa: E402
from client import Failure, Server, end_all, expect, read_reply  # noqa: E402

SOSIA = os.path.abspath(os.environ.get("SOSIA", "build/sosia"))
KERNEL = os.path.abspath("build/guests/linux-cloud-amd64/vmlinuz")
VMLINUX = os.path.abspath("build/guests/linux-cloud-amd64/vmlinux")
INITRD = os.path.abspath("build/tests/api/initrd.img")
ROOTFS = os.path.abspath("build/tests/api/rootfs.ext4")
ARGS = "console=ttyS0 quiet reboot=k panic=1 mitigations=off"
API = [SOSIA, "api", "--quiet"]

BEFORE = "The requested operation is not supported before starting the microVM."
AFTER = "The requested operation is not supported after starting the microVM."
JSON_ERROR = "An error occurred when deserializing the json body of a request: "

SPEC = openapi.load("docs/openapi.yaml")


# --- every operation ------------------------------------------------------------------------------------


def checked(server, path, method, operation, body=None):
    """Calls it; the answer must be one that the file describes."""
    status, reply = server.call(method, path, body)
    responses = SPEC.follow(operation["responses"])
    described = {**responses, "400": {"$ref": "#/components/responses/Fault"}}
    expect(str(status) in described, "%s %s: %d is not described: %r" % (method, path, status, reply))
    response = SPEC.follow(described[str(status)])
    if "schema" in response:
        wrong = SPEC.errors(response["schema"], reply)
        expect(not wrong, "%s %s: %s in %r" % (method, path, wrong, reply))
    elif status == 204:
        expect(reply is None, "%s %s: a body with 204" % (method, path))
    return status, reply


def refused(server, method, path, operation, body, fault):
    status, reply = checked(server, path, method, operation, body)
    expect(status == 400 and fault in reply["fault_message"],
           "%s %s %r: %d %r, wanted %r" % (method, path, body, status, reply, fault))


def wrong_bodies(server, path, method, operation, schema, ids):
    """Bodies that the tables refuse, before anybody looks whether the time is right."""
    refused(server, method, path, operation, None, "Empty %s request." % method)
    refused(server, method, path, operation, b"{", JSON_ERROR)
    refused(server, method, path, operation, b"[]", JSON_ERROR + "invalid type: sequence, expected struct ")
    good = {**SPEC.sample(schema), **ids}
    refused(server, method, path, operation, {**good, "colour": 1}, JSON_ERROR + "unknown field `colour`")
    fault = server.call(method, path, {**good, "colour": 1})[1]["fault_message"]
    names = set(re.findall(r"`(\w+)`", fault)) - {"colour"}
    expect(names == set(schema["properties"]), "%s %s takes %s, the file says %s" %
           (method, path, sorted(names), sorted(schema["properties"])))
    for name in schema.get("required", []):
        less = {k: v for k, v in good.items() if k != name}
        refused(server, method, path, operation, less, JSON_ERROR + "missing field `%s`" % name)
    for name, property_ in schema.get("properties", {}).items():
        kind = SPEC.follow(property_)
        if not kind.get("type") or (kind["type"] == "object" and "properties" not in kind) or name == "vcpu_features":
            continue
        other = [1] if kind["type"] in ("string", "integer", "boolean", "object") else "x"
        refused(server, method, path, operation, {**good, name: other}, JSON_ERROR + "invalid type: ")
        if "enum" in kind:
            refused(server, method, path, operation, {**good, name: "Nothing"},
                    JSON_ERROR + "unknown variant `Nothing`, expected")
        if kind["type"] == "integer" and kind.get("minimum") is not None:
            refused(server, method, path, operation, {**good, name: -1},
                    JSON_ERROR + "invalid value: integer `-1`, expected u")


def concrete(path):
    ids = {name: "x1" for name in re.findall(r"{(\w+)}", path)}
    return re.sub(r"{\w+}", "x1", path), ids


def operations_before(tmp):
    """Before the start: tables, texts, and what is possible only later."""
    s = Server(API, tmp)
    for template, method, operation in SPEC.operations():
        path, ids = concrete(template)
        schema = SPEC.follow(operation.get("requestBody") or {})
        if schema.get("type") == "object" and "hinting" not in path:
            wrong_bodies(s, path, method, operation, schema, ids)
        body = {**SPEC.sample(schema), **ids} if schema.get("type") else None
        if path.startswith("/snapshot/load"):
            body["mem_file_path"] = "x"
        if path == "/mmds" and method != "GET":
            body = {}
        if operation.get("x-when") == "after":
            refused(s, method, path, operation, body, BEFORE)
        elif path not in ("/metrics", "/actions"):
            checked(s, path, method, operation, body) if path != "/snapshot/load" else None
        if method == "GET":
            refused(s, method, path, operation, {}, "GET request cannot have a body.")
        if ids:
            bare = template.split("{")[0]
            if method != "DELETE":
                refused(s, method, bare, operation, {"x": 1}, "The ID cannot be empty.")
                refused(s, method, bare + "a-b", operation, {"x": 1}, "API Resource IDs can only contain")
                other = {**body, list(ids)[0]: "other"}
                refused(s, method, path, operation, other, "The id from the path does not match the id from the body!")
    for method, path in (("GET", "foo"), ("PUT", "vm"), ("PATCH", "boot-source"), ("DELETE", "vsock")):
        s.bad(method, "/" + path, {} if method != "GET" else None,
              "Invalid request method and/or path: %s %s." % (method, path))
    s.stop()
    expect(not os.path.exists(s.socket), "the socket is still there")


def start_linux(s, *, vcpus=1, args=ARGS, kernel=KERNEL, disk=None, engine="soft", nets=()):
    s.good("PUT", "/machine-config", {"vcpu_count": vcpus, "mem_size_mib": 128})
    s.good("PUT", "/boot-source", {"kernel_image_path": kernel, "initrd_path": INITRD, "boot_args": args})
    s.good("PUT", "/drives/rootfs", {"drive_id": "rootfs", "path_on_host": disk or ROOTFS, "is_root_device": True,
                                     "is_read_only": not disk})
    for net in nets:
        s.good("PUT", "/network-interfaces/" + net["iface_id"], net)
    if engine:
        s.good("PUT", "/sosia", {"engine": engine})
    s.good("PUT", "/actions", {"action_type": "InstanceStart"})


def operations_after(tmp):
    """While it runs: what is not possible any more, and each answer in its form."""
    s = Server(API, tmp)
    vsock = os.path.join(tmp, "vsock")
    s.good("PUT", "/vsock", {"guest_cid": 3, "uds_path": vsock})
    start_linux(s, nets=[{"iface_id": "eth0", "sosia_network": "none"}])
    expect(os.path.exists(vsock), "no vsock socket")
    for template, method, operation in SPEC.operations():
        path, ids = concrete(template)
        schema = SPEC.follow(operation.get("requestBody") or {})
        body = {**SPEC.sample(schema), **ids} if schema.get("type") else None
        if path == "/snapshot/load":
            body["mem_file_path"] = "x"
        if path == "/mmds" and method != "GET":
            body = {}
        if operation.get("x-when") == "before":
            refused(s, method, path, operation, body, AFTER)
        elif path not in ("/actions", "/vm", "/snapshot/create"):
            checked(s, path, method, operation, body)
    s.bad("PUT", "/actions", {"action_type": "InstanceStart"}, AFTER)
    s.bad("PUT", "/snapshot/create", {"snapshot_path": "s", "mem_file_path": "m"}, "Operation not allowed")
    limit = {"ops": {"size": 10, "refill_time": 1000}}
    s.good("PATCH", "/network-interfaces/eth0", {"iface_id": "eth0", "rx_rate_limiter": limit})
    s.good("PATCH", "/drives/rootfs", {"drive_id": "rootfs", "rate_limiter": limit})
    config = s.good("GET", "/vm/config")
    expect(config["drives"][0]["rate_limiter"] == limit and
           config["network-interfaces"][0]["rx_rate_limiter"] == limit, config)
    s.good("PATCH", "/drives/rootfs", {"drive_id": "rootfs", "rate_limiter": {"ops": {"size": 0, "refill_time": 0}}})
    expect(s.good("GET", "/vm/config")["drives"][0]["rate_limiter"] == {}, "the limit is still there")
    s.bad("PATCH", "/drives/other", {"drive_id": "other"}, "not found")
    s.bad("PATCH", "/network-interfaces/other", {"iface_id": "other"}, "not found")
    s.stop()


# --- HTTP -----------------------------------------------------------------------------------------------


def keep_open(s, many):
    """Ten connections, each of which is served; False: the server still counts earlier ones."""
    while len(many) < 10:
        c = s.connect()
        many.append(c)
        try:
            c.sendall(b"GET / HTTP/1.1\r\n\r\n")
            served = read_reply(c.makefile("rb"))[0] == 200
        except OSError:
            served = False
        if not served:
            for c in many:
                c.close()
            many.clear()
            return False
    return True


def http(tmp):
    """Connections as clients use them."""
    s = Server(API, tmp, "--http-api-max-payload-size", "1000")
    with s.connect() as c, c.makefile("rb") as f:
        one = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
        put = b"PUT /machine-config HTTP/1.1\r\nContent-Length: 37\r\n\r\n" + b'{"vcpu_count": 2, "mem_size_mib": 64}'
        c.sendall(one + put + one + b"GET /machine-config HTTP/1.1\r\n\r\n")  # pipelined
        replies = [read_reply(f) for _ in range(4)]
        expect([r[0] for r in replies] == [200, 204, 200, 200], replies)
        expect(json.loads(replies[3][2])["vcpu_count"] == 2, replies[3])
        expect(replies[0][1]["server"] == "Firecracker API", replies[0])
        expect("content-length" not in replies[1][1], replies[1])
        for part in (one[:5], one[5:20], one[20:]):  # in pieces, on the same connection
            c.sendall(part)
        expect(read_reply(f)[0] == 200, "in pieces")
        c.sendall(b"PUT /mmds HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n6\r\n\": 12}\r\n0\r\n\r\n")
        expect(read_reply(f)[0] == 204, "chunked")
    expect(s.good("GET", "/mmds") == {"a": 12}, "chunked body")
    for text in (b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
                 b"PUT /mmds HTTP/1.1\r\nContent-Length: -4\r\n\r\n", b"POST /actions HTTP/1.1\r\n\r\n",
                 b"PUT /mmds HTTP/1.1\r\nContent-Length: 1001\r\n\r\n"):
        with s.connect() as c:
            c.sendall(text)
            c.shutdown(socket.SHUT_WR)
            reply = read_reply(c.makefile("rb"))
            expect(reply is None or reply[0] == 400, "%r: %r" % (text, reply))
    with s.connect() as c:
        c.sendall(b"PUT /mmds HTTP/1.1\r\nContent-Length: 1001\r\n\r\n")
        reply = read_reply(c.makefile("rb"))
        expect(b"Request payload with size 1001 is larger than the limit of 1000" in reply[2], reply)
    many = []
    s.wait("ten connections at once", lambda: keep_open(s, many))
    with s.connect() as c:
        reply = read_reply(c.makefile("rb"))
        expect(reply[0] == 503 and json.loads(reply[2]) == {"error": "Too many open connections"}, reply)
    for c in many:
        c.close()
    s.wait("room again", lambda: served(s))
    s.good("PUT", "/mmds", {"k": "x" * 600})
    s.bad("PATCH", "/mmds", {"l": "x" * 600}, "MMDS limit exceeded", wanted=413)
    s.stop()


def verbs(tmp):
    """Each path with each method that it has not got."""
    s = Server(API, tmp)
    have = {(concrete(path)[0], method) for path, method, _ in SPEC.operations()}
    for path in sorted({path for path, _ in have}):
        first = path.split("/")[1]
        word = "snapshot/" + path.split("/")[2] if first == "snapshot" else first
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            # what follows the part that decides is not looked at, as in Firecracker
            if (path, method) not in have and ("/" + first, method) not in have:
                s.bad(method, path, {} if method in ("PUT", "PATCH") else None,
                      "Invalid request method and/or path: %s %s." % (method, word))
    for method in ("POST", "HEAD", "OPTIONS", "TRACE", "CONNECT", "LINK"):
        with s.connect() as c:
            c.sendall(b"%s /actions HTTP/1.1\r\n\r\n" % method.encode())
            expect(c.makefile("rb").readline().startswith(b"HTTP/1.1 4"), method)
    with s.connect() as c:  # as a proxy's client writes it
        c.sendall(b"GET http://localhost/version HTTP/1.1\r\n\r\n")
        expect(b"firecracker_version" in read_reply(c.makefile("rb"))[2], "absolute form")
    s.stop()


def served(s):
    """False: the connection was one too many, and the server hung up."""
    try:
        return s.call("GET", "/")[0] == 200
    except (OSError, Failure):
        return False


def load(tmp):
    """Many requests, slow and deaf clients, bodies without end, FIFOs that nobody reads: the guest goes on."""
    fifos = [os.path.join(tmp, x) for x in ("log", "metrics")]
    for fifo in fifos:
        os.mkfifo(fifo)
    s = Server(API, tmp)
    s.good("PUT", "/logger", {"log_path": fifos[0], "level": "Debug"})
    s.good("PUT", "/metrics", {"metrics_path": fifos[1]})
    start_linux(s)
    for _ in range(1000):  # while it boots; each also is a line for the log
        s.good("GET", "/")
    with s.connect() as c, c.makefile("rb") as f:
        threading.Thread(target=c.sendall, args=(b"GET /vm/config HTTP/1.1\r\n\r\n" * 1000,), daemon=True).start()
        expect({read_reply(f)[0] for _ in range(1000)} == {200}, "pipelined")
    for _ in range(300):  # refused when the FIFO is full
        s.call("PUT", "/actions", {"action_type": "FlushMetrics"})
    s.wait("a tick", lambda: ticks(s))
    slow = []
    for n in range(8):  # begin and do not end
        slow.append(s.connect())
        slow[-1].sendall(b"PUT /mmds HTTP/1.1\r\nContent-Length: 40000\r\n\r\n{" if n % 2 else b"GET / HT")
    slow.append(s.connect())  # asks and asks, and reads nothing
    slow[-1].settimeout(0.5)
    try:
        slow[-1].sendall(b"GET /vm/config HTTP/1.1\r\n\r\n" * 20000)
    except OSError:
        pass
    s.wait("an answer beside them", lambda: served(s))
    for _ in range(100):  # more than there is room for: each gets an answer or is hung up on
        with s.connect() as c:
            try:
                c.sendall(b"GET / HTTP/1.1\r\n\r\n")
                read_reply(c.makefile("rb"))
            except OSError:
                pass
    for c in slow:
        c.close()
    s.wait("room again", lambda: served(s))

    def huge():  # 503 while the server has not noticed who left
        with s.connect() as c:
            try:
                c.sendall(b"PUT /mmds HTTP/1.1\r\nContent-Length: 10000000000\r\n\r\n" + b"x" * 1000000)
            except OSError:
                pass
            try:
                return c.recv(12) == b"HTTP/1.1 400"
            except OSError:
                return False
    s.wait("a huge body's refusal", huge)
    s.wait("room again", lambda: served(s))
    last = ticks(s)[-1]
    s.wait("the guest", lambda: ticks(s)[-1] > last + 2)
    s.stop()


# --- processes ------------------------------------------------------------------------------------------


def run_program(*command):
    p = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def command_line(tmp):
    """Through a link named firecracker."""
    link = os.path.join(tmp, "firecracker")
    os.symlink(SOSIA, link)
    status, out, _ = run_program(link, "--version")
    expect(status == 0 and re.match(r"Firecracker v\d+\.\d+\.\d+\n", out), out)
    expect(run_program(link, "--help")[0] == 0, "help")
    expect(run_program(link, "--snapshot-version")[1].startswith("v"), "snapshot version")
    expect(run_program(link, "--describe-snapshot", ROOTFS)[0] == 1, "not a snapshot")
    for wanted, args in ((153, ["--nonsense"]), (153, ["--no-api"]), (153, ["more"]), (1, ["--id", "a_b"]),
                         (1, ["--id", "a" * 65]), (152, ["--level", "Loud"]),
                         (152, ["--no-api", "--config-file", "/nowhere"])):
        status, out, err = run_program(link, *args)
        expect(status == wanted and err, "%s: %d %s" % (args, status, err))
    for wanted, args in (("requires a value", ["--level"]), ("provided more than once", ["--id", "a", "--id", "b"]),
                         ("cannot be used together", ["--no-seccomp", "--seccomp-filter", "f"]),
                         ("'config-file' required", ["--no-api"]), ("Found argument '--what'", ["--what"])):
        status, out, err = run_program(link, *args)
        expect(status == 153 and "Arguments parsing error: " in err and wanted in err, "%s: %d %s" % (args, status, err))
    s = Server([link], tmp, "--boot-timer", "--no-seccomp", "--start-time-us", "1", "--start-time-cpu-us", "2",
               "--parent-cpu-time-us", "3", name="flags")
    s.stop()
    s = Server([link], tmp, id="a-1")
    expect(s.good("GET", "/") == {"app_name": "Firecracker", "id": "a-1", "state": "Not started",
                                  "vmm_version": s.good("GET", "/version")["firecracker_version"]}, "GET /")
    status, _, err = run_program(link, "--api-sock", s.socket)
    expect(status == 1 and "Check that it is not already used" in err, err)
    s.stop()


def config_file(tmp):
    """--config-file: the machine starts at once; log, metrics and metadata from the command line."""
    config, log, metrics = (os.path.join(tmp, x) for x in ("vm.json", "log", "metrics"))
    metadata = os.path.join(tmp, "mmds.json")
    with open(config, "w", encoding="utf-8") as f:
        json.dump({"boot-source": {"kernel_image_path": KERNEL, "boot_args": ARGS + " pci=off", "initrd_path": INITRD},
                   "drives": [{"drive_id": "rootfs", "is_root_device": True, "is_read_only": True,
                               "cache_type": "Unsafe", "path_on_host": ROOTFS, "io_engine": "Sync",
                               "rate_limiter": None}],
                   "machine-config": {"vcpu_count": 2, "mem_size_mib": 128, "smt": False, "track_dirty_pages": False,
                                      "huge_pages": "None"},
                   "metrics": {"metrics_path": metrics}, "vsock": None, "sosia": {"engine": "soft"}}, f)
    with open(metadata, "w", encoding="utf-8") as f:
        f.write('{"latest": 1}')
    s = Server(API, tmp, "--log-path", log, "--level", "Debug", "--show-level", "--show-log-origin", "--metadata",
               metadata, config=config)
    expect(s.good("GET", "/")["state"] == "Running", "state")
    expect(s.good("GET", "/mmds") == {"latest": 1}, "metadata")
    wait_tick(s, 1)  # both processors run: their threads have taken their names
    threads = []
    for task in os.listdir("/proc/%d/task" % s.process.pid):
        with open("/proc/%d/task/%s/comm" % (s.process.pid, task), encoding="utf-8") as f:
            threads.append(f.read().strip())
    expect({"fc_vcpu 0", "fc_vcpu 1", "fc_api"} <= set(threads), threads)
    s.good("PUT", "/actions", {"action_type": "FlushMetrics"})
    s.good("PUT", "/actions", {"action_type": "FlushMetrics"})
    with open(metrics, encoding="utf-8") as f:
        lines = [json.loads(x) for x in f]
    expect(len(lines) == 2 and lines[0]["block_rootfs"]["read_count"] > 0, lines)
    expect(lines[0]["get_api_requests"]["instance_info_count"] == 1 and
           lines[1]["get_api_requests"]["instance_info_count"] == 0, "differences")
    text = s.good("GET", "/sosia/metrics")
    expect(re.search(r'(?m)^firecracker_block_device_read_count{device="rootfs"} [1-9]', text), text[:500])
    with open(log, encoding="utf-8") as f:
        text = f.read()
    expect(re.search(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[anonymous-instance:main:INFO:cmd/api\w*\.c:\d+\] ",
                     text), text)
    s.good("PUT", "/actions", {"action_type": "SendCtrlAltDel"})
    s.end()


def no_api(tmp):
    config = os.path.join(tmp, "vm.json")
    with open(config, "w", encoding="utf-8") as f:
        json.dump({"boot-source": {"kernel_image_path": KERNEL, "initrd_path": INITRD,
                                   "boot_args": ARGS + ' sosia.run="reboot -f"'},
                   "drives": [{"drive_id": "r", "is_root_device": True, "path_on_host": ROOTFS, "is_read_only": True}],
                   "sosia": {"engine": "soft"}}, f)
    s = Server(API, tmp, "--no-api", "--enable-pci", config=config, api=False)
    s.end()
    expect("rootfs: /dev/vda / ext4 ro" in s.text() or "rootfs: /dev/root / ext4" in s.text(), s.text())


# --- life cycles ----------------------------------------------------------------------------------------


def ticks(s):
    """Of whole lines. The log goes to standard output, too, where a line of it may come between the guest's bytes."""
    guest = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+ \[[^\n]*\n", "", s.text())
    return [int(x) for x in re.findall(r"tick (\d+)\r*\n", guest)]


def wait_tick(s, n):
    s.wait("tick %d" % n, lambda: max(ticks(s), default=-1) >= n)


def life(tmp):
    """Configure, start, pause, save, resume, go on; then the saved machine in a new process, and its end."""
    link = os.path.join(tmp, "firecracker")
    os.symlink(SOSIA, link)
    disk = os.path.join(tmp, "rootfs.ext4")
    shutil.copy(ROOTFS, disk)
    state, memory = os.path.join(tmp, "vm.snap"), os.path.join(tmp, "vm.mem")
    s = Server([link], tmp, id="life")
    start_linux(s, vcpus=2, kernel=VMLINUX, disk=disk)
    expect(s.good("GET", "/")["state"] == "Running", "running")
    wait_tick(s, 3)
    s.good("PATCH", "/vm", {"state": "Paused"})
    s.good("PATCH", "/vm", {"state": "Paused"})
    expect(s.good("GET", "/")["state"] == "Paused", "paused")
    s.good("PUT", "/snapshot/create", {"snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory})
    expect(os.path.getsize(memory) == 128 << 20, "memory file")
    s.good("PATCH", "/vm", {"state": "Resumed"})
    saved = ticks(s)[-1]
    wait_tick(s, saved + 3)
    s.stop()
    t = Server([link], tmp, name="second")
    t.bad("PUT", "/snapshot/load", {"snapshot_path": state}, "missing field: either `mem_backend`")
    t.good("PUT", "/snapshot/load", {"snapshot_path": state, "resume_vm": False,
                                     "mem_backend": {"backend_type": "File", "backend_path": memory}})
    expect(t.good("GET", "/")["state"] == "Paused", "loaded machines are paused")
    config = t.good("GET", "/vm/config")
    expect(config["drives"][0]["drive_id"] == "rootfs" and config["machine-config"]["vcpu_count"] == 2, config)
    t.good("PATCH", "/vm", {"state": "Resumed"})
    wait_tick(t, saved + 3)
    expect(saved <= ticks(t)[0] <= saved + 2, (saved, ticks(t)))
    t.good("PUT", "/actions", {"action_type": "SendCtrlAltDel"})
    t.end()
    t = Server([link], tmp, name="interpreted")  # the engine may be another one
    t.good("PUT", "/sosia", {"engine": "soft", "translator": False})
    t.good("PUT", "/snapshot/load", {"snapshot_path": state, "mem_file_path": memory, "resume_vm": True})
    expect(t.good("GET", "/sosia")["engine"] == "soft", "engine")
    wait_tick(t, saved + 2)
    t.stop()
    u = Server([link], tmp, name="third")  # damaged: refused, and the process ends
    with open(state, "r+b") as f:
        f.truncate(os.path.getsize(state) - 1)
    u.bad("PUT", "/snapshot/load", {"snapshot_path": state, "mem_file_path": memory}, "Load snapshot error")
    u.end(1)


def drive_change(tmp):
    """Another file for a drive of the running machine: the guest sees its size and contents."""
    a, b = os.path.join(tmp, "a"), os.path.join(tmp, "b")
    with open(a, "wb") as f:
        f.write(b"first\n" + bytes(4096 - 6))
    with open(b, "wb") as f:
        f.write(b"second\n" + bytes(16384 - 7))
    s = Server(API, tmp)
    s.good("PUT", "/drives/extra", {"drive_id": "extra", "path_on_host": a, "is_root_device": False})
    start_linux(s, args=ARGS + ' sosia.run="while :; do echo 3 >/proc/sys/vm/drop_caches; echo size '
                '$(cat /sys/block/vdb/size) $(head -1 /dev/vdb); sleep 0.2; done"')
    s.wait_text("size 8 first")
    s.good("PATCH", "/drives/extra", {"drive_id": "extra", "path_on_host": b})
    s.wait_text("size 32 second")
    s.bad("PATCH", "/drives/extra", {"drive_id": "extra", "path_on_host": "/nowhere"}, "Unable to patch")
    limit = {"bandwidth": {"size": 1000000, "refill_time": 1000}}
    s.good("PATCH", "/drives/extra", {"drive_id": "extra", "rate_limiter": limit})
    s.good("PATCH", "/vm", {"state": "Paused"})
    state, memory = os.path.join(tmp, "vm.snap"), os.path.join(tmp, "vm.mem")
    s.good("PUT", "/snapshot/create", {"snapshot_path": state, "mem_file_path": memory})
    s.stop()
    info = json.loads(run_program(SOSIA, "snapshot", "info", "--json", "--check", state)[1])
    disk = info["disks"][1]  # size and time of the new file, against which a restore compares
    expect(disk["path"] == os.path.realpath(b) and disk["size"] == 16384, disk)
    t = Server(API, tmp, name="restored")  # with the file that the drive had last
    t.good("PUT", "/snapshot/load", {"snapshot_path": state, "mem_file_path": memory, "resume_vm": True})
    expect(t.headers.get("deprecation") == "true", t.headers)
    t.wait_text("size 32 second")
    drive = t.good("GET", "/vm/config")["drives"][1]
    expect(drive["path_on_host"] == os.path.realpath(b) and drive["rate_limiter"] == limit, drive)
    t.good("PATCH", "/drives/extra", {"drive_id": "extra", "path_on_host": a})
    t.wait_text("size 8 first")
    run_program(SOSIA, "pause", str(t.process.pid))
    expect(t.good("GET", "/")["state"] == "Paused", "paused from outside")
    t.good("PATCH", "/vm", {"state": "Resumed"})
    t.stop()


def balloon(tmp):
    """A balloon that grows and tells how it stands."""
    s = Server(API, tmp)
    s.good("PUT", "/balloon", {"amount_mib": 8, "deflate_on_oom": True, "stats_polling_interval_s": 1,
                               "free_page_hinting": True})
    start_linux(s)
    expect(s.good("GET", "/balloon")["amount_mib"] == 8, "configuration")

    def checked_statistics():
        operation = SPEC.root["paths"]["/balloon/statistics"]["get"]
        return checked(s, "/balloon/statistics", "GET", operation)[1]
    s.wait("the balloon", lambda: checked_statistics()["actual_mib"] == 8)
    s.good("PATCH", "/balloon", {"amount_mib": 20})
    s.wait("a larger balloon", lambda: checked_statistics()["actual_pages"] == 20 << 8)
    s.wait("statistics", lambda: checked_statistics().get("total_memory", 0) > 50 << 20)
    s.good("PATCH", "/balloon/statistics", {"stats_polling_interval_s": 5})
    s.bad("PATCH", "/balloon/statistics", {"stats_polling_interval_s": 0}, "Cannot enable/disable the statistics")
    s.bad("PATCH", "/balloon", {"amount_mib": 4000}, "too large")
    s.good("PATCH", "/balloon/hinting/start")
    checked(s, "/balloon/hinting/status", "GET", SPEC.root["paths"]["/balloon/hinting/status"]["get"])
    s.good("PATCH", "/balloon/hinting/stop", {})
    s.stop()


MMDS_TEST = (
    "ip addr add 169.254.0.2/16 dev eth0; ip link set eth0 up; G=http://169.254.169.254; "
    "echo plain $(wget -q -O - $G/latest/) end; echo leaf $(wget -q -O - $G/latest/meta-data/name) end; "
    "echo json $(wget -q --header Accept:application/json -O - $G/latest/meta-data) end; "
    "echo big $(wget -q -O - $G/big | md5sum) end; "
    "for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -O - $G/latest/meta-data/name; done | md5sum; "
    "wget -O - $G/latest/none 2>&1 | grep -o 404; "
    "printf 'PUT /latest/api/token HTTP/1.0\\r\\nX-metadata-token-ttl-seconds: 60\\r\\n\\r\\n' | "
    "nc 169.254.169.254 80 | tail -1 >/dev/shm/t; "
    "echo token $(wget -q --header X-metadata-token:$(cat /dev/shm/t) -O - $G/latest/meta-data/name) end; "
    "wget -O - $G/latest/meta-data/name 2>&1 | grep -o 401; "
    "wget --header X-metadata-token:00$(cat /dev/shm/t) -O - $G/latest/ 2>&1 | grep -o 401; echo done;")


def metadata(tmp):
    """The metadata service from inside the guest, with both versions of it."""
    big = "0123456789abcdef" * 2500
    for version in ("V1", "V2"):
        s = Server(API, tmp, name=version)
        s.good("PUT", "/mmds", {"latest": {"meta-data": {"name": "sosia", "n": 3}, "user-data": "x"}, "big": big})
        s.good("PUT", "/network-interfaces/eth0", {"iface_id": "eth0", "sosia_network": "none"})
        s.good("PUT", "/mmds/config", {"network_interfaces": ["eth0"], "version": version})
        start_linux(s, args=ARGS + ' sosia.run="mount -t tmpfs shm /mnt; mount --bind /mnt /tmp; mkdir /dev/shm; ' +
                    MMDS_TEST + '"')
        s.wait_text("\ndone")
        text = s.text()
        if version == "V1":
            expect("plain meta-data/ user-data end" in text and "leaf sosia end" in text, text)
            expect('json {"name":"sosia","n":3} end' in text, text)
            expect("big %s - end" % hashlib.md5(big.encode()).hexdigest() in text, text)
            expect(hashlib.md5(b"sosia" * 10).hexdigest() in text and "404" in text, text)
            expect("\n401" not in text, text)
        else:
            expect("plain end" in text and text.count("\n401") == 2, text)
        expect("token sosia end" in text, text)
        lines = s.good("GET", "/sosia/metrics")
        expect(re.search(r"(?m)^firecracker_mmds_connections_created [1-9]", lines), "metrics")
        s.stop()


def cpu_config(tmp):
    """A processor without some features, and one that cannot be had."""
    def bit(leaf, register, number, value):
        return {"leaf": leaf, "subleaf": "0x0", "flags": 0,
                "modifiers": [{"register": register, "bitmap": "0b%d" % value + "x" * number}]}
    s = Server(API, tmp)
    s.good("PUT", "/cpu-config", {"cpuid_modifiers": [bit("0x1", "ecx", 5, 1)]})
    s.good("PUT", "/boot-source", {"kernel_image_path": KERNEL})
    s.bad("PUT", "/actions", {"action_type": "InstanceStart"}, "bit 5 cannot be 1 on this host and engine")
    s.good("PUT", "/cpu-config", {"cpuid_modifiers": [bit("0x7", "ebx", 5, 0), bit("0x1", "ecx", 23, 0)]})
    start_linux(s, args=ARGS + ' sosia.run="grep -m1 flags /proc/cpuinfo"')
    wait_tick(s, 0)
    flags = re.search(r"(?m)^flags.*$", s.text()).group(0).split()
    expect("sse2" in flags and "avx2" not in flags and "popcnt" not in flags, flags)
    s.stop()


def serial(tmp):
    """The serial port's output in a file, at a bounded rate."""
    out = os.path.join(tmp, "serial")
    s = Server(API, tmp)
    s.good("PUT", "/serial", {"serial_out_path": out, "rate_limiter": {"size": 300, "refill_time": 3600000}})
    start_linux(s, args=ARGS + ' sosia.run="echo 0123456789abcdef0123456789abcdef0123456789abcdef; dmesg"')

    def dropped():
        text = s.good("GET", "/sosia/metrics")
        return int(re.search(r"(?m)^firecracker_uart_rate_limiter_dropped_bytes (\d+)", text).group(1))
    s.wait("lost output", lambda: dropped() > 1000)
    s.stop()
    expect(0 < os.path.getsize(out) <= 301, os.path.getsize(out))


def failures(tmp):
    """Starts that fail leave the API as it was."""
    s = Server(API, tmp)
    s.bad("PUT", "/boot-source", {"kernel_image_path": "/nowhere"},
          "The kernel file cannot be opened: No such file or directory (os error 2)")
    s.bad("PUT", "/drives/d", {"drive_id": "d", "is_root_device": False, "path_on_host": "/nowhere"},
          "No such file or directory (os error 2) /nowhere")
    s.good("PUT", "/boot-source", {"kernel_image_path": ROOTFS})
    s.good("PUT", "/sosia", {"engine": "soft"})
    s.bad("PUT", "/actions", {"action_type": "InstanceStart"}, "Start microvm error: ")
    expect(s.good("GET", "/")["state"] == "Not started", "state")
    s.good("PUT", "/network-interfaces/t", {"iface_id": "t", "host_dev_name": "no-such-tap"})
    s.good("PUT", "/boot-source", {"kernel_image_path": KERNEL})
    s.bad("PUT", "/actions", {"action_type": "InstanceStart"}, "no-such-tap")
    s.good("PUT", "/network-interfaces/t", {"iface_id": "t", "sosia_network": "user"})
    s.good("PUT", "/actions", {"action_type": "InstanceStart"})
    s.stop()


def curl(s, method, path, body, status=204):
    """As Firecracker's guides call it."""
    code, out, err = run_program("curl", "-s", "-w", "\\n%{http_code}", "-X", method, "--unix-socket", s.socket,
                                 "http://localhost" + path, "-H", "Accept: application/json", "-H",
                                 "Content-Type: application/json", "-d", json.dumps(body))
    text, _, got = out.rpartition("\n")
    expect(code == 0 and int(got) == status, "curl %s %s: %s %s %s" % (method, path, code, out, err))
    return text


def guides(tmp):
    """The steps that Firecracker's guides print: getting started with a tap device, full and differential
    snapshots, a restore with another tap device."""
    if os.geteuid() or not os.path.exists("/dev/net/tun") or not shutil.which("ip"):
        print("SKIPPED api guides: needs root, /dev/net/tun and ip")
        return
    link, disk, log = (os.path.join(tmp, x) for x in ("firecracker", "rootfs.ext4", "firecracker.log"))
    state, memory, diff, changed = (os.path.join(tmp, x) for x in ("state", "memory", "state2", "memory2"))
    os.symlink(SOSIA, link)
    shutil.copy(ROOTFS, disk)
    open(log, "w", encoding="utf-8").close()

    def process(name, tap):  # in a network of its own
        net = ("ip tuntap add dev {0} mode tap && ip link set {0} address 02:00:00:00:00:01 && "
               "ip addr add 172.16.0.1/30 dev {0} && ip link set dev {0} up && exec \"$0\" \"$@\"").format(tap)
        return Server(["unshare", "-n", "sh", "-c", net, link], tmp, "--enable-pci", name=name, id=name)
    s = process("one", "tap0")
    curl(s, "PUT", "/logger", {"log_path": log, "level": "Debug", "show_level": True, "show_log_origin": True})
    curl(s, "PUT", "/boot-source", {
        "kernel_image_path": VMLINUX, "initrd_path": INITRD,
        "boot_args": ARGS + ' sosia.run="ip addr add 172.16.0.2/30 dev eth0; ip link set eth0 up; '
                            'while :; do ping -c 1 -W 1 172.16.0.1 | grep 64; sleep 0.2; done"'})
    curl(s, "PUT", "/drives/rootfs", {"drive_id": "rootfs", "path_on_host": disk, "is_root_device": True,
                                      "is_read_only": False})
    curl(s, "PUT", "/network-interfaces/net1", {"iface_id": "net1", "guest_mac": "06:00:AC:10:00:02",
                                                "host_dev_name": "tap0"})
    curl(s, "PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 128, "track_dirty_pages": True})
    curl(s, "PUT", "/sosia", {"engine": "soft"})
    curl(s, "PUT", "/actions", {"action_type": "InstanceStart"})
    s.wait_text("64 bytes from 172.16.0.1")
    curl(s, "PATCH", "/vm", {"state": "Paused"})
    curl(s, "PUT", "/snapshot/create", {"snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory})
    curl(s, "PATCH", "/vm", {"state": "Resumed"})
    s.stop()
    with open(log, encoding="utf-8") as f:
        expect("[one:" in f.read(), "log")
    t = process("two", "tap1")
    text = curl(t, "PUT", "/snapshot/load", {"snapshot_path": state, "mem_backend": {"backend_path": memory,
                                                                                     "backend_type": "File"}}, 400)
    expect("tap0" in text, text)  # which is not there
    t.end(1)
    t = process("three", "tap1")
    curl(t, "PUT", "/snapshot/load", {"snapshot_path": state, "mem_backend": {"backend_path": memory,
                                                                              "backend_type": "File"},
                                      "track_dirty_pages": True, "resume_vm": True,
                                      "network_overrides": [{"iface_id": "net1", "host_dev_name": "tap1"}]})
    t.wait_text("64 bytes from 172.16.0.1")
    curl(t, "PATCH", "/vm", {"state": "Paused"})
    curl(t, "PUT", "/snapshot/create", {"snapshot_type": "Diff", "snapshot_path": diff, "mem_file_path": changed})
    expect(os.stat(changed).st_blocks < os.stat(memory).st_blocks, "what changed is as much as all")
    curl(t, "PATCH", "/vm", {"state": "Resumed"})
    curl(t, "PUT", "/actions", {"action_type": "SendCtrlAltDel"})
    t.end()


TESTS = [operations_before, operations_after, verbs, http, load, command_line, config_file, no_api, life, guides, drive_change, balloon, metadata, cpu_config, serial, failures]


def main():
    passed = failed = 0
    for test in TESTS:
        if sys.argv[1:] and not any(p in test.__name__ for p in sys.argv[1:]):
            continue
        tmp = tempfile.mkdtemp(prefix="sosia-api.")
        os.environ["XDG_RUNTIME_DIR"] = tmp
        try:
            test(tmp)
            passed += 1
            print("ok      %s" % test.__name__, flush=True)
        except (Failure, OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as e:
            failed += 1
            print("FAILED  %s: %s" % (test.__name__, e), flush=True)
            if not isinstance(e, Failure):
                traceback.print_exc()
        finally:
            end_all()
            shutil.rmtree(tmp, ignore_errors=True)
    print("api: %d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
