"""This machine as a device: every artifact in a fresh process of its own."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, Mapping

from targets.base import Target, TargetError
from targets.board.options import UNHELD, Board
from targets.client import AgentProcess, start
from targets.devices._agents import THREADS, AgentDevice
from targets.devices.base import SILENT, Agent, Run, Tell

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Local(AgentDevice):
    """The machine that runs the pipeline. `timeout_s` limits each single order to an agent."""

    name: str = "local"
    timeout_s: float = 1800.0
    board: Board = UNHELD

    @classmethod
    def at(cls, where: str, options: Mapping[str, str], name: str = "", tell: Tell = SILENT) -> Local:
        """This machine, which needs no address. Raises TargetError where one is given."""
        if where != "local" or options:
            raise TargetError(f"{where}: device local is this machine and takes no address")
        return cls()

    def agent(self, target: Target) -> AbstractContextManager[AgentProcess]:
        """Start a process of this interpreter."""
        return start([sys.executable, "-m", "targets.agent"], _environment(target))

    def opened(self, target: Target, built: Path) -> AbstractContextManager[Run]:
        """In this process: nothing is timed."""
        return target.open(built)

    def put(self, path: Path) -> str:
        """Its absolute path, as the agent may sit in another folder."""
        return str(path.resolve())

    @contextmanager
    def collected(self, agent: Agent, path: Path) -> Iterator[str]:
        """Its absolute path: agents write in place."""
        yield str(path.resolve())


def _environment(target: Target) -> Dict[str, str]:
    threads = str(getattr(target, "threads", 1))
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, **dict.fromkeys(THREADS, threads), "PYTHONPATH": path}
