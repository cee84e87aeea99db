#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks who includes what: the layer rules of docs/architecture.md.

Prints one line per violation and exits 1 when there is one.
"""
import pathlib
import re
import sys

# Lower layers first; an include upwards inside core is an error. Equal numbers may not see each other
# unless they are the same folder.
CORE_ORDER = {
    "base": 0, "if": 1, "cpu": 2, "mem": 3, "irq": 4, "time": 4, "dev": 5, "virtio": 6,
    "boot": 7, "vm": 8, "board": 9,
}
# irq and time are one level, but the interrupt controllers need timers and the timers need lines.
SAME_LEVEL_OK = {("irq", "time"), ("time", "irq")}
FREESTANDING = {"stdarg.h", "stdbool.h", "stddef.h", "stdint.h", "stdalign.h", "limits.h"}
SOFT_INTRINSICS = {"cpuid.h"}
ENGINE_MAY = ("core/base/", "core/if/", "core/cpu/", "core/mem/")
HOST_MAY = ("core/base/", "core/if/", "core/cpu/", "core/mem/ram.h", "image/")
IMAGE_MAY = ("core/base/", "core/if/", "image/")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def check_core(path, kind, name):
    if kind == "<":
        return None if name in FREESTANDING else "core includes <%s>" % name
    if not name.startswith("core/"):
        return "core includes %s" % name
    mine, theirs = path.parts[1], name.split("/")[1]
    if theirs not in CORE_ORDER:
        return "unknown layer %s" % theirs
    if CORE_ORDER[theirs] > CORE_ORDER[mine]:
        return "%s includes upwards: %s" % (mine, name)
    if CORE_ORDER[theirs] == CORE_ORDER[mine] and theirs != mine and (mine, theirs) not in SAME_LEVEL_OK:
        return "%s includes its sibling %s" % (mine, name)
    return None


def check_engine(path, kind, name):
    engine = path.parts[1]
    if kind == "<":
        if engine == "kvm" or name in FREESTANDING:
            return None
        return "engines/%s includes <%s>" % (engine, name)
    if name.startswith(ENGINE_MAY) or name.startswith("engines/%s/" % engine):
        return None
    return "engines/%s includes %s" % (engine, name)


def check_image(_path, kind, name):
    if kind == "<":
        return None if name in FREESTANDING else "image includes <%s>" % name
    return None if name.startswith(IMAGE_MAY) else "image includes %s" % name


def check_host(path, kind, name):
    host = path.parts[1]
    if kind == "<":
        return None
    if name.startswith(HOST_MAY) or name.startswith("hosts/%s/" % host):
        return None
    if host == "fake" and name.startswith("hosts/linux/"):
        return None  # the unit tests' host runs on Linux and borrows its memory, threads and signals
    return "hosts/%s includes %s" % (host, name)


def check_cmd(path, kind, name):
    if kind == '"' and (name.startswith("tests/") or name.startswith("bench/")):
        return "cmd includes %s" % name
    return None


CHECKS = {"core": check_core, "engines": check_engine, "image": check_image, "hosts": check_host, "cmd": check_cmd}


def main():
    bad = 0
    for top, check in CHECKS.items():
        for path in sorted(pathlib.Path(top).rglob("*.[chS]")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                message = match and check(path, match.group(1), match.group(2))
                if message:
                    print("%s:%d: %s" % (path, number, message))
                    bad += 1
    print("layer check: %d violations" % bad)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
