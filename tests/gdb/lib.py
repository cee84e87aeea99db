# SPDX-License-Identifier: Apache-2.0
"""What the scripts that run inside gdb share: checks, stops, an interrupt after a while."""
import os
import signal
import threading

import gdb


def check(name, ok, detail=""):
    print("%s %s%s" % ("PASS" if ok else "FAIL", name, "" if ok else ": %s" % (detail,)), flush=True)


def value(expression):
    return int(gdb.parse_and_eval(expression)) & (1 << 64) - 1


def run(command):
    """Runs a gdb command; its output, or the error's text."""
    try:
        return gdb.execute(command, to_string=True)
    except gdb.error as e:
        return "error: %s" % e


def guarded(name, function):
    try:
        function()
    except Exception as e:  # a check that cannot be made has failed; the next is tried
        check(name, False, "%s: %s" % (type(e).__name__, e))


def resume(command="continue"):
    """Runs until a stop; says why in a word: SIGINT, SIGTRAP, "breakpoint N" or what gdb printed."""
    why = []

    def on_stop(event):
        if isinstance(event, gdb.BreakpointEvent):
            why.append("breakpoint %s" % " ".join(str(b.number) for b in event.breakpoints))
        elif isinstance(event, gdb.SignalEvent):
            why.append(event.stop_signal)

    gdb.events.stop.connect(on_stop)
    text = run(command)
    gdb.events.stop.disconnect(on_stop)
    return " ".join(why) or "no stop: " + text


def continue_interrupted(seconds):
    """Continues, and sends gdb a Ctrl-C after a while; the reason of the stop."""
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    text = resume()
    timer.cancel()
    return text


def connect():
    for setting in ("pagination off", "confirm off", "remotetimeout 30", "breakpoint pending off",
                    "tcp connect-timeout 10"):
        gdb.execute("set " + setting)
    gdb.execute("target remote " + os.environ["GDB_SOCKET"], to_string=True)
