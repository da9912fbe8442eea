"""What devices have in common: a process of its own there for each artifact, given orders over a line."""

from __future__ import annotations

import io
from abc import abstractmethod
from base64 import b64decode, b64encode
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Callable, Dict, Iterator, Mapping, Optional

import numpy as np

from targets import npz
from targets.base import Target, TargetError
from targets.devices.base import Agent, Contestant, Device, Fingerprint, Measurement, Run, Timing
from targets.plugins import spec
from targets.race import Race

if TYPE_CHECKING:
    from targets.base import Tensors

# Libraries that start their own threads, whatever their caller asked of them.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TBB_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


IN_LINE_BYTES = 500_000  # of arrays that go with an order; larger ones go as a file


class AgentDevice(Device):
    """A device that agents run on. A subclass says how one is started and how files get there and back."""

    timeout_s: float  # of each single order

    @abstractmethod
    def agent(self, target: Target) -> AbstractContextManager[Agent]:
        """Start an agent for `target`; leaving the context ends it and all it started."""

    @abstractmethod
    def put(self, path: Path) -> str:
        """Make a file or a folder readable to agents, as it is now; return its path there."""

    @abstractmethod
    def collected(self, agent: Agent, path: Path) -> AbstractContextManager[str]:
        """Give a path there for `agent` to write; leaving the context without an error brings it to `path`.

        An existing `path` is a folder to fill; else what is written is a file.
        """

    def fingerprint(self, target: Target) -> Fingerprint:
        """Describe the device as an agent for `target` sees it."""
        with self._held(target), self.agent(target) as agent:
            found = agent.call("fingerprint", self.timeout_s, **spec(target))
        return Fingerprint(**{**found, "features": tuple(found["features"])})

    def why_not(self, target: Target) -> Optional[str]:
        """Ask the target, there."""
        with self.agent(target) as agent:
            found: Optional[str] = agent.call("runs_here", self.timeout_s, **spec(target))
        return found

    def build(self, target: Target, onnx: Path, out: Path) -> None:
        """Compile in a process of its own: a compiler that crashes takes nothing along."""
        model = self.put(onnx)  # before there is an agent: transfers outlive a lost connection, agents do not
        with self._held(target), self.agent(target) as agent, self.collected(agent, out) as there:
            agent.call("build", self.timeout_s, **spec(target), onnx=model, out=there)

    def infer(self, target: Target, built: Path, feeds: Path, out: Path) -> None:
        """Run every sample of `feeds` through the artifact, batch by batch, into `out`."""
        model, samples = self.put(built), self.put(feeds)
        with self.agent(target) as agent, self.collected(agent, out) as there:
            agent.call("load", self.timeout_s, **spec(target), built=model)
            agent.call("infer", self.timeout_s, feeds=samples, out=there)

    def opened(self, target: Target, built: Path) -> AbstractContextManager[Run]:
        """Load an artifact in an agent of its own; each call goes there and back."""
        return self._opened(target, built)

    @contextmanager
    def _opened(self, target: Target, built: Path) -> Iterator[Run]:
        model = self.put(built)
        with self.agent(target) as agent, TemporaryDirectory() as scratch:
            agent.call("load", self.timeout_s, **spec(target), built=model)

            def run(arrays: Tensors) -> Tensors:
                feeds = Path(scratch) / "feeds.npz"
                npz.save(feeds, arrays)
                if feeds.stat().st_size < IN_LINE_BYTES:
                    given = {"arrays": b64encode(feeds.read_bytes()).decode("ascii")}
                else:
                    given = {"feeds": self.put(feeds)}
                with np.load(io.BytesIO(b64decode(agent.call("run", self.timeout_s, **given)))) as loaded:
                    return dict(loaded)

            yield run

    def measure(
        self,
        built: Mapping[str, Contestant],
        feeds: Path,
        timing: Timing,
        on_round: Callable[[], object] = lambda: None,
        on_wait: Callable[[str], object] = lambda _: None,
    ) -> Dict[str, Measurement]:
        """Time artifacts against each other: fresh processes, interleaved blocks in random order.

        `feeds` gives the first batch, which every call runs.
        """
        there = {name: (target, self.put(path)) for name, (target, path) in built.items()}
        race = Race(self.agent, there, self.put(feeds), self.timeout_s, on_round, self.board, on_wait)
        with self._held(next(target for target, _ in built.values())):
            return race.run(timing)

    @contextmanager
    def _held(self, target: Target) -> Iterator[None]:
        """Hold the board as it is to be measured, where that is asked for; a keeper there outlives this line."""
        if not self.board.holds:
            yield
            return
        with self.agent(target) as agent:
            agent.call("hold", self.timeout_s, board=self.board.held())
            try:
                yield
            except BaseException:
                with suppress(TargetError):  # what went wrong before matters more
                    agent.call("release", self.timeout_s)
                raise
            agent.call("release", self.timeout_s)
