"""This machine as a device: every artifact in a fresh process of its own."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator

from targets.base import Target
from targets.client import AgentProcess, start
from targets.devices._agents import AgentDevice

ROOT = Path(__file__).resolve().parents[2]
# Libraries that start their own threads, whatever their caller asked of them.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TBB_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True)
class Local(AgentDevice):
    """The machine that runs the pipeline. `timeout_s` limits each single order to an agent."""

    name: str = "local"
    timeout_s: float = 1800.0

    def agent(self, target: Target) -> AbstractContextManager[AgentProcess]:
        """Start a process of this interpreter."""
        return start([sys.executable, "-m", "targets.agent"], _environment(target))

    def put(self, path: Path) -> str:
        """Its absolute path, as the agent may sit in another folder."""
        return str(path.resolve())

    @contextmanager
    def collected(self, path: Path) -> Iterator[str]:
        """Its absolute path: agents write in place."""
        yield str(path.resolve())


def _environment(target: Target) -> Dict[str, str]:
    threads = str(getattr(target, "threads", 1))
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, **dict.fromkeys(THREADS, threads), "PYTHONPATH": path}
