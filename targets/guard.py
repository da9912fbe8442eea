"""The process between an ssh session and an agent: forwards orders, and ends the agent when nobody is there.

An agent deep in a runtime's native code may see neither the end of its input nor a signal's handler. So a process of
its own watches: when the session ends, or nothing has been heard for the lease, or it is told to by a signal, it
kills the agent's whole group. NUL bytes are signs of life and are not passed on. It sleeps otherwise.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Mapping, NoReturn, Sequence, Tuple

BEAT = b"\0"
OLDEST = (3, 8)
LOST = 3  # exit code where the lease ran out
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def main(order: Mapping[str, Any]) -> NoReturn:
    """Serve one session as the first line says: `root`, `environment`, `lease_s`; or `kill` an earlier one."""
    if "kill" in order:
        kill(order["kill"])
        sys.exit(0)
    wrong = unfit()
    if wrong:
        say({"error": wrong})
        sys.exit(1)
    os.utime(Path(order["root"], "agent", f"{order['agent']}.pyz"))  # in use: what is not goes some day
    os.environ.update(order["environment"], EDGESMITH_ROOT=order["root"])
    os.chdir(order["root"])
    wake = _wakes()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _agent(reading, writing)
    os.close(reading)
    ours = [[pid, started(pid)] for pid in (child, os.getpid())]
    say({"ready": {"pid": child, "processes": ours, "python": platform.python_version()}})
    code = watch(child, writing, wake, float(order["lease_s"]))
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os._exit(code)


def unfit() -> str:
    """Why this interpreter cannot run agents, and what to do there; "" if it can."""
    if sys.version_info < OLDEST:
        return f"{sys.executable} is Python {platform.python_version()}; agents need 3.8 or newer: name one by ?python="
    if importlib.util.find_spec("numpy") is None:
        return f"no numpy there: run {sys.executable} -m pip install numpy"
    return ""


def watch(child: int, pipe: int, wake: int, lease_s: float) -> int:
    """Forward standard input to the agent until one of them ends; return the exit code, 128 + signal if killed."""
    os.set_blocking(pipe, False)  # an agent that is stopped must not stop us
    pending, deadline_s = b"", time.monotonic() + lease_s
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            sys.stderr.write(f"nothing heard for {lease_s:g} s: the agent is ended\n")
            return LOST
        readable, writable, _ = select.select([0, wake], [pipe] if pending else [], [], left_s)
        if wake in readable:
            signals = os.read(wake, 64)
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            if any(number in ENDING for number in signals):
                return 128 + signal.SIGTERM
        if 0 in readable:
            heard = os.read(0, 1 << 16)
            if not heard:
                return 0
            deadline_s = time.monotonic() + lease_s
            pending += heard.replace(BEAT, b"")
        if writable:
            with suppress(BrokenPipeError):  # it is dying: its end is told by the signal
                pending = pending[os.write(pipe, pending) :]


def started(pid: int) -> str:
    """When a process started, in ticks since boot: with its number, what tells it from a later one. "" if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def kill(which: Sequence[Tuple[int, str]]) -> None:
    """Kill an agent's group and its guard, which could not, as far as they are still those that started then."""
    for pid, when in which:
        if int(pid) > 1 and when and started(int(pid)) == when:
            with suppress(ProcessLookupError):
                (os.killpg if os.getpgid(int(pid)) == int(pid) else os.kill)(int(pid), signal.SIGKILL)


def say(words: Mapping[str, Any]) -> None:
    """Write one line of JSON to whoever started this."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _wakes() -> int:
    """Return a descriptor that becomes readable when a child ends or a signal asks us to."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGCHLD, *ENDING):
        signal.signal(number, lambda *_: None)
    return reading


def _agent(reading: int, writing: int) -> NoReturn:
    """Become the agent: a session of its own, ended with its parent, orders on standard input."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *ENDING):
            signal.signal(number, signal.SIG_DFL)
        with suppress(AttributeError, OSError):  # Linux alone has it; the end of input does the same, later
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(reading, 0)
        os.close(reading)
        os.close(writing)
        from targets import agent

        agent.main()
    except BaseException:
        traceback.print_exc()
    os._exit(1)
