# SPDX-License-Identifier: Apache-2.0
"""Runs inside gdb against tests/guest/gdb_target.c with four processors, held at its first instruction."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gdb  # noqa: E402
from lib import check, connect, continue_interrupted, guarded, resume, run, value  # noqa: E402


def start():
    check("the machine waits at its entry", value("$pc") == value("(long)&_start"), hex(value("$pc")))
    check("registers at entry", value("$eax") == 0x2BADB002, hex(value("$eax")))
    run("hbreak gdb_ready")
    text = resume()
    check("hardware breakpoint", "breakpoint" in text and "gdb_ready" in run("info symbol $pc"), text)
    run("delete")


def memory():
    text = run("x/s 0x40000000")
    check("memory by virtual address", "read by its virtual address" in text, text)
    run("set var *(char *)0x40000000 = 'R'")
    check("memory is written", run("x/s &spare_page").find("Read by") >= 0, run("x/s &spare_page"))
    run("set var *(char *)0x40000000 = 'r'")
    text = run("x/gx 0x123456789000")
    check("memory that is not mapped", "Cannot access" in text, text)


def threads():
    text = run("info threads")
    count = sum(1 for line in text.splitlines() if "Thread" in line or "CPU" in line)
    check("vCPUs are threads", len(gdb.selected_inferior().threads()) == 4 and count == 4, text)
    run("thread 2")
    text = run("bt 1")
    check("another vCPU's registers", "ap_" in text or "ap_" in run("info symbol $pc"), text)
    run("thread 1")


def software_breakpoint():
    run("break gdb_marker")
    seen = []
    for _ in range(3):
        run("continue")
        seen.append(value("$rdi"))
    check("software breakpoint is hit and passed", seen == [0, 1, 2], seen)
    check("the breakpoint is not seen in memory", value("*(unsigned char *)gdb_marker") != 0xCC)
    run("delete")


def watchpoints():
    text = run("watch watched")
    check("hardware watchpoint is set", "ardware watchpoint" in text, text)
    text = resume()
    check("watchpoint: first write", value("watched") == 5, text)
    text = resume()
    check("watchpoint: second write", value("watched") == 6, text)
    run("delete")
    run("rwatch stored_sum")
    text = resume()
    check("read watchpoint", "breakpoint" in text and "gdb_store" in run("info symbol $pc"), text)
    run("delete")


def steps():
    run("hbreak *(long)&gdb_step0")
    run("continue")
    run("delete")
    at = value("$pc")
    run("stepi")
    check("step: mov", value("$pc") == at + 5 and value("$eax") == 1, hex(value("$pc")))
    run("stepi 2")
    check("step: add", value("$eax") == 3, value("$eax"))
    sp = value("$rsp")
    run("stepi")
    check("step: push", value("$rsp") == sp - 8)
    run("set var $rax = 0x1122334455667788")
    check("registers are written", value("$rax") == 0x1122334455667788)
    run("set var $rax = 3")
    counts = value("ap_counts[1]")
    run("stepi")
    check("step: pop", value("$rdx") == 3)
    check("a step does not run the others for long", value("ap_counts[1]") - counts < 1 << 30)


def vectors():
    run("break *(long)&gdb_vector_at")
    run("continue")
    run("delete")
    low = sum((0x10 + i) << 8 * i for i in range(8))
    check("xmm register", value("$xmm1.v2_int64[0]") == low, run("p/x $xmm1"))
    if "v4_int64" in run("p/x $ymm2"):
        check("ymm register", value("$ymm2.v4_int64[3]") == low + 0x1818181818181818, run("p/x $ymm2"))
    run("set var $xmm1.v2_int64[0] = 77")
    check("xmm register is written", value("$xmm1.v2_int64[0]") == 77)
    check("mxcsr", value("$mxcsr") == 0x1F80, hex(value("$mxcsr")))
    check("x87 control word", value("$fctrl") in (0x40, 0x37F), hex(value("$fctrl")))
    check("control registers", "cr3" not in run("info registers cr3").lower() or value("$cr3") != 0)


def interrupt():
    run("set var hold = 1")
    counts = value("ap_counts[1]")
    text = continue_interrupted(0.5)
    check("Ctrl-C", "SIGINT" in text, text)
    check("all processors ran meanwhile", value("ap_counts[1]") != counts)
    stopped = [t.is_stopped() for t in gdb.selected_inferior().threads()]
    check("every thread is stopped", stopped == [True] * 4, stopped)
    run("set var hold = 0")


connect()
for part in (start, memory, threads, software_breakpoint, watchpoints, steps, vectors, interrupt):
    guarded(part.__name__, part)
if os.environ.get("GDB_END") == "kill":
    run("kill")
else:
    run("detach")
