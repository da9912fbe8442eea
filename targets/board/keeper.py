"""Holds a board still for as long as whoever asked for it is there.

    $ python -m targets.board.keeper
    {"power_mode": "MAXN", "lock_clocks": true, "root": "/"}
    {"ok": "power mode MAXN (0), clocks locked"}

A process and session of its own: it goes on when the agent is killed, the line drops or the user interrupts. It
puts everything back as soon as its standard input ends, and is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator, List, Mapping

from targets.base import TargetError
from targets.board import modes

LOCK = "edgesmith-board-{}.lock"  # one holder per board: two would put back each other's settings


@contextmanager
def held(wanted: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Set what is wanted, in order; put it back in reverse. Raises TargetError."""
    with ExitStack() as stack:
        stack.enter_context(_alone())
        done: List[str] = []
        if wanted.get("power_mode") is not None:
            stack.callback(modes.set_power_mode(wanted["power_mode"], root))
            done.append(f"power mode {modes.current(root)}")
        if wanted.get("lock_clocks"):
            stack.callback(modes.lock_clocks(root))
            done.append("clocks locked")
        yield ", ".join(done)


def main() -> int:
    """Serve one holding; return the exit code."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        wanted = json.loads(sys.stdin.readline())
        with held(wanted, Path(wanted.get("root", "/"))) as done:
            _say({"ok": done})
            sys.stdin.read()
    except (TargetError, OSError, ValueError) as error:
        _say({"error": str(error)})
        return 1
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    path = Path(tempfile.gettempdir()) / LOCK.format(os.geteuid())
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TargetError(
                "another run holds this board's power mode and clocks: measure one after the other"
            ) from None
        yield
    finally:
        os.close(handle)


def _say(message: Mapping[str, str]) -> None:
    with suppress(OSError):  # nobody may listen any more; what matters is put back all the same
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
