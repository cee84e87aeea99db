#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: tests/cli/words.py

Every verb of `sosia --help` and every option of each verb's --help must be in man/sosia.1 and be completed by
completion/sosia.bash, which in turn may not complete what is not there. Prints one line per gap and, last,
"words: N passed, N failed".
"""
import os
import re
import subprocess
import sys

SOSIA = os.environ.get("SOSIA", "build/sosia")
# Said in the manual in another way: --help of each verb.
EVERYWHERE = {"--help"}


def run(*args):
    p = subprocess.run([SOSIA, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                       check=False)
    return p.returncode, p.stdout


def options_of(text):
    """Options that a help text lists: in its usage, and where lines begin with one."""
    usage, _, rest = text.partition("\n\n")
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", usage))
    for line in rest.splitlines():
        if re.match(r" +--?[a-zA-Z]", line):
            names = re.split(r" {2,}", line.strip())[0]
            found |= set(re.findall(r"(?<![\w=-])--[a-z][a-z-]*", names))
    return found


def completed(*words):
    """What bash offers for the last of the words."""
    script = ('source completion/sosia.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sosia; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    p = subprocess.run(["bash", "-c", script, "bash", "sosia", *words], stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=60, check=False)
    return set(p.stdout.split())


def gaps(verb, manual):
    status, text = run(verb, "--help")
    if status:
        return ["%s --help: status %d" % (verb, status)]
    if verb in ("help", "version"):
        return []
    mine = options_of(text)
    offered = completed(verb, "--")
    if verb == "verify":  # takes those of run
        offered, mine = {"--help"}, mine - {"--verify"}
    out = ["%s: %s is not in man/sosia.1" % (verb, o)
           for o in sorted(mine - EVERYWHERE) if not re.search(re.escape(o) + r"(?![a-z-])", manual)]
    out += ["%s: %s is not completed" % (verb, o) for o in sorted(mine - offered)]
    out += ["%s: %s is completed, but not in its --help" % (verb, o) for o in sorted(offered - mine - EVERYWHERE)]
    if text.count("usage: ") != 1 or not text.startswith("usage: sosia " + verb):
        out.append("%s --help does not begin with its usage" % verb)
    out += ["%s --help: a line of %d columns" % (verb, len(s)) for s in text.splitlines() if len(s) > 100]
    return out


def main():
    status, text = run("--help")
    verbs = re.findall(r"^  (\S+)", text, re.M)
    with open("man/sosia.1", encoding="utf-8") as f:
        # fonts and escapes out: \fB, .BR, "\-"
        source = re.sub(r"\\f.|\\-", lambda m: "-" if m.group() == "\\-" else "", f.read())
    manual = re.sub(r"(?m)^\.\w+ ?", "", source)
    passed = failed = 0
    words = completed("")
    for verb in verbs:
        wrong = gaps(verb, manual)
        if verb not in words:
            wrong.append("%s is not completed" % verb)
        if not re.search(r"sosia %s\b|\b%s\b" % (verb, verb), manual):
            wrong.append("%s is not in man/sosia.1" % verb)
        for text in wrong:
            print("FAILED: " + text)
        passed, failed = passed + (not wrong), failed + bool(wrong)
    if status or not verbs or words - set(verbs) - {"--help", "--version"}:
        print("FAILED: verbs %s, completed %s" % (verbs, sorted(words)))
        failed += 1
    print("words: %d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


sys.exit(main())
