# SPDX-License-Identifier: Apache-2.0
"""Runs inside gdb against a Debian kernel (no symbols) that has booted and idles at its shell."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gdb  # noqa: E402
from lib import check, connect, continue_interrupted, guarded, run, value  # noqa: E402

KERNEL = 0xFFFF800000000000


def stopped():
    pcs = []
    for thread in gdb.selected_inferior().threads():
        thread.switch()
        pcs.append(value("$pc"))
    check("two vCPUs as threads", len(pcs) == 2, run("info threads"))
    check("idle in the kernel", all(pc >= KERNEL for pc in pcs), [hex(pc) for pc in pcs])
    gdb.selected_inferior().threads()[0].switch()


def memory():
    text = run("x/4i $pc")
    check("code at the program counter", text.count("\n") == 4 and "annot" not in text, text)
    text = run("x/8gx $rsp")
    check("the stack", "annot" not in text, text)
    text = run("info registers xmm0 rip cr3 cs")
    check("registers", "rip" in text and "xmm0" in text, text)


def idle_breakpoint(command, name):
    pc = value("$pc")  # behind HLT: every wake comes by here
    run("%s *%d" % (command, pc))
    text = continue_interrupted(20)
    check(name + " in the idle loop", value("$pc") == pc and "SIGINT" not in text, text)
    text = continue_interrupted(20)
    check(name + " again", value("$pc") == pc and "SIGINT" not in text, text)
    run("delete")


def steps():
    before = value("$pc")
    run("stepi")
    check("single step", value("$pc") != before and value("$pc") >= KERNEL, hex(value("$pc")))
    run("stepi 20")
    check("20 steps", value("$pc") >= KERNEL, hex(value("$pc")))


def watch():
    run("watch *(long *)($rsp - 8)")  # the next call or push on this stack
    text = continue_interrupted(20)
    check("watchpoint on the stack", "breakpoint" in text, text)
    run("delete")


def interrupt():
    text = continue_interrupted(1)
    check("Ctrl-C in Linux", "SIGINT" in text, text)


connect()
for part in (stopped, memory, lambda: idle_breakpoint("hbreak", "hardware breakpoint"),
             lambda: idle_breakpoint("break", "software breakpoint"), steps, watch, interrupt):
    guarded(getattr(part, "__name__", "part"), part)
run("detach")
