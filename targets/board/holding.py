"""The agent's end of the keeper: starts it, hears what it set, lets go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import targets
from targets.base import TargetError

LIMIT_S = 120.0  # to put everything back


class Holding:
    """At most one keeper, which lives until `release`, or until this process is gone."""

    def __init__(self) -> None:
        self._keeper: Optional[subprocess.Popen[str]] = None

    def hold(self, wanted: Mapping[str, Any], root: str = "/") -> str:
        """Set what is wanted; return what was done, in words. Raises TargetError."""
        if self._keeper is not None:
            raise TargetError("this agent holds the board already: release it first")
        keeper = _start()
        said = _tell(keeper, json.dumps({**wanted, "root": root}) + "\n")
        if "error" in said:
            _close(keeper)
            raise TargetError(said["error"])
        self._keeper = keeper
        return said["ok"]

    def release(self) -> None:
        """Have everything put back, and wait for it. Raises TargetError where that failed."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            said = _close(keeper)
            if said:
                raise TargetError(json.loads(said)["error"])


def _start() -> subprocess.Popen[str]:
    home = str(Path(targets.__file__).parents[1])  # a folder, or the zipapp
    path = os.pathsep.join(p for p in (home, os.environ.get("PYTHONPATH", "")) if p)
    # A session of its own: what ends the agent, and all of its group, must not end this.
    return subprocess.Popen(
        [sys.executable, "-m", "targets.board.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it says everything on its output, and must not keep the agent's line open
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def _tell(keeper: subprocess.Popen[str], line: str) -> Dict[str, str]:
    if keeper.stdin is None or keeper.stdout is None:
        raise TargetError("the keeper of the board's settings has no line to it")
    with suppress(BrokenPipeError):  # it died: what it said, if anything, follows
        keeper.stdin.write(line)
        keeper.stdin.flush()
    said: Dict[str, str] = json.loads(keeper.stdout.readline() or '{"error": "the keeper of the settings died"}')
    return said


def _close(keeper: subprocess.Popen[str]) -> str:
    """End its standard input and wait for it; return what it had to say."""
    said, _ = keeper.communicate(timeout=LIMIT_S)
    return said.strip()
