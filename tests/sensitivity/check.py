#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: check.py REPORT.json REPORT.html

Holds what `sosia sensitivity` found against what is known: Robin and Irvine's list, what 64-bit mode,
UMIP, TSD and later extensions changed, and the host. The analyser itself has no such list.
"""
import html.parser
import json
import sys

# Sensitive and unprivileged by the manuals: volume 2, "Protected Mode Exceptions" and "Operation".
COMMON = {
    "CALL_FAR", "CPUID", "INT", "INT1", "INT3", "IRET", "JMP_FAR", "LAR", "LFS", "LGS", "LSL", "LSS", "MOV",
    "POP", "POPF", "PUSH", "PUSHF", "RDPID", "RDRAND", "RDSEED", "RDTSC", "RDTSCP", "RET_FAR", "SGDT",
    "SIDT", "SLDT", "SMSW", "STR", "SYSENTER", "VERR", "VERW", "XGETBV",
}
KNOWN = {
    64: COMMON | {"RDFSBASE", "RDGSBASE", "SYSCALL", "WRFSBASE", "WRGSBASE"},
    32: COMMON | {"LDS", "LES"},
}
# Not on every processor.
OPTIONAL = {"RDPID", "RDRAND", "RDSEED", "RDTSCP", "RDFSBASE", "RDGSBASE", "WRFSBASE", "WRGSBASE", "XGETBV",
            "SYSENTER", "SYSCALL"}
ROBIN_IRVINE = {"SGDT", "SIDT", "SLDT", "SMSW", "PUSHF", "POPF", "LAR", "LSL", "VERR", "VERW", "POP", "PUSH",
                "CALL", "JMP", "INT n", "RET", "STR", "MOV"}
PRIVILEGED = {"HLT", "LGDT", "LIDT", "LLDT", "LTR", "LMSW", "CLTS", "RDMSR", "WRMSR", "INVD", "WBINVD",
              "INVLPG", "CLI", "STI", "IN", "OUT"}
INNOCUOUS = {"ADD", "LEA", "SHL", "FADD", "ADDPS", "PADDB", "CALL", "RET", "JMP", "JCC", "XCHG", "MUL", "NOP"}
TRAPS_BY = {"SGDT": "CR4.UMIP", "SIDT": "CR4.UMIP", "SLDT": "CR4.UMIP", "SMSW": "CR4.UMIP", "STR": "CR4.UMIP",
            "RDTSC": "CR4.TSD"}

passed = failed = 0


def check(ok, text):
    global passed, failed
    passed += bool(ok)
    failed += not ok
    if not ok:
        print("FAILED:", text)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.outside = 0, []

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"
        self.outside += [v for k, v in attrs if k in ("src", "href") and v]


def check_mode(mode):
    bits, forms = mode["mode"], mode["forms"]
    by_name = {}
    for form in forms:
        by_name.setdefault(form["instruction"], []).append(form)
    found = {f["instruction"] for f in forms if f["class"].startswith("SENSITIVE")}
    check(not found - KNOWN[bits], "%d: not known as sensitive: %s" % (bits, sorted(found - KNOWN[bits])))
    missing = KNOWN[bits] - found - (OPTIONAL - set(by_name))
    check(not missing, "%d: not found: %s" % (bits, sorted(missing)))
    for name in PRIVILEGED & set(by_name):
        check(any(f["privileged"] for f in by_name[name]), "%d: %s is not privileged" % (bits, name))
    for name in INNOCUOUS & set(by_name):
        check(all(f["class"] == "innocuous" for f in by_name[name]), "%d: %s is not innocuous" % (bits, name))
    for name, knob in TRAPS_BY.items():
        check(any(knob in f["cpl3"]["traps_depending_on"] for f in by_name[name]),
              "%d: %s does not depend on %s" % (bits, name, knob))
    check(not mode["theorem_1"]["holds"], "%d: theorem 1 holds" % bits)
    check(not mode["theorem_3"]["holds"], "%d: theorem 3 holds" % bits)
    check(len(forms) > 2000, "%d: only %d forms" % (bits, len(forms)))
    if bits == 32:
        robin = {f.get("robin_irvine") for f in forms if f["class"].startswith("SENSITIVE")} - {None}
        check(robin == ROBIN_IRVINE, "Robin and Irvine's: missing %s" % sorted(ROBIN_IRVINE - robin))
    else:
        check(mode["native"]["differ"] == 0, "the host at ring 3 differs: %d forms" % mode["native"]["differ"])


def main():
    report = json.load(open(sys.argv[1]))
    for mode in report["modes"]:
        check_mode(mode)
    check([m["mode"] for m in report["modes"]] == [64, 32], "both modes are there")
    page = Page()
    page.feed(open(sys.argv[2], encoding="utf-8").read())
    check(page.rows > 4000, "the page has only %d rows" % page.rows)
    check(not page.outside, "the page needs other files: %s" % page.outside)
    print("sensitivity: %d passed, %d failed" % (passed, failed))
    return failed != 0


sys.exit(main())
