#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reports functions and files that outgrow their room (HACKING.md, style).

A function of more than 70 lines or a file of more than 900 should be split: the first is reported,
beyond the hard limits (120 and 900) the check fails. Tables do not count: only braces that follow a
parameter list are functions. usage: size_check.py [-v] [FILE...] (default: all C files)
"""
import pathlib
import re
import sys

FUNCTION_SOFT, FUNCTION_HARD = 70, 120
FILE_HARD = 900
TOPS = ("core", "image", "engines", "hosts", "cmd", "bench", "guests", "tests")
# Of test programs each function is a list of steps; their files may be as long as it takes.
TEST_PREFIX = "tests/"

STRIP = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
NAME = re.compile(r'([A-Za-z_]\w*)\s*$')


def blank(match):
    return re.sub(r'[^\n]', ' ', match.group(0))


def without_macros(text):
    """Blanks #define bodies: their braces need not balance."""
    return re.sub(r'^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', blank, text, flags=re.M)


def named(signature):
    """The name before the last parameter list and where it stands, or (None, 0)."""
    end = len(signature.rstrip())
    if not signature[:end].endswith(')'):
        return None, 0
    depth = 0
    for i in range(end - 1, -1, -1):
        depth += {')': 1, '(': -1}.get(signature[i], 0)
        if depth == 0:
            match = NAME.search(signature[:i])
            return (match.group(1), match.start(1)) if match else (None, 0)
    return None, 0


def functions(text):
    """Yields (name, first line, lines) of each function at file level."""
    text = without_macros(STRIP.sub(blank, text))
    depth, head, begin, name = 0, 0, 0, None
    for i, c in enumerate(text):
        if c == '{':
            if depth == 0:
                name, at = named(text[head:i])
                begin = head + at
            depth += 1
        elif c == '}':
            depth = max(depth - 1, 0)
            if depth == 0:
                if name:
                    first = text.count('\n', 0, begin) + 1
                    yield name, first, text.count('\n', begin, i) + 1
                head, name = i + 1, None
        elif c == ';' and depth == 0:
            head = i + 1


def check(path):
    """Returns (warnings, errors) of one file."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    warnings, errors = [], []
    lines = text.count('\n')
    if lines > FILE_HARD and not path.startswith(TEST_PREFIX):
        errors.append("%s: %d lines, more than %d" % (path, lines, FILE_HARD))
    for name, first, length in functions(text):
        message = "%s:%d: %s has %d lines" % (path, first, name, length)
        if length > FUNCTION_HARD:
            errors.append("%s, more than %d" % (message, FUNCTION_HARD))
        elif length > FUNCTION_SOFT:
            warnings.append(message)
    return warnings, errors


def main():
    args = sys.argv[1:]
    verbose = "-v" in args
    files = [a for a in args if a != "-v"]
    if not files:
        files = sorted(str(p) for top in TOPS for p in pathlib.Path(top).rglob("*.[ch]"))
    warnings, errors = [], []
    for path in files:
        w, e = check(path)
        warnings += w
        errors += e
    for line in errors + (warnings if verbose or len(warnings) <= 10 else []):
        print(line)
    print("size check: %d to split soon, %d too large" % (len(warnings), len(errors)))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
