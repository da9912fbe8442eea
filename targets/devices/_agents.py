"""What devices have in common: a process of its own there for each artifact, given orders over a line."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Callable, Dict, Mapping

from targets.base import Target
from targets.devices.base import Contestant, Device, Fingerprint, Measurement, Timing
from targets.plugins import spec
from targets.race import Agent, Race


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
    def collected(self, path: Path) -> AbstractContextManager[str]:
        """Give a path there for agents to write; leaving the context without an error brings it to `path`.

        An existing `path` is a folder to fill; else what is written is a file.
        """

    def fingerprint(self, target: Target) -> Fingerprint:
        """Describe the device as an agent for `target` sees it."""
        with self.agent(target) as agent:
            found = agent.call("fingerprint", self.timeout_s, **spec(target))
        return Fingerprint(**{**found, "features": tuple(found["features"])})

    def build(self, target: Target, onnx: Path, out: Path) -> None:
        """Compile in a process of its own: a compiler that crashes takes nothing along."""
        with self.agent(target) as agent, self.collected(out) as there:
            agent.call("build", self.timeout_s, **spec(target), onnx=self.put(onnx), out=there)

    def infer(self, target: Target, built: Path, feeds: Path, out: Path) -> None:
        """Run every sample of `feeds` through the artifact, batch by batch, into `out`."""
        with self.agent(target) as agent, self.collected(out) as there:
            agent.call("load", self.timeout_s, **spec(target), built=self.put(built))
            agent.call("infer", self.timeout_s, feeds=self.put(feeds), out=there)

    def measure(
        self,
        built: Mapping[str, Contestant],
        feeds: Path,
        timing: Timing,
        on_round: Callable[[], object] = lambda: None,
    ) -> Dict[str, Measurement]:
        """Time artifacts against each other: fresh processes, interleaved blocks in random order.

        `feeds` gives the first batch, which every call runs.
        """
        there = {name: (target, self.put(path)) for name, (target, path) in built.items()}
        return Race(self.agent, there, self.put(feeds), self.timeout_s, on_round).run(timing)
