"""This machine as a device: every artifact in a fresh process of its own."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Tuple

import numpy as np

from targets.base import Target
from targets.client import AgentProcess, start
from targets.comparison import Clock, Run, joined, measurement, shares
from targets.devices.base import Contestant, Device, Fingerprint, Measurement, Timing, kernel
from targets.plugins import spec

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
class Local(Device):
    """The machine that runs the pipeline. `timeout_s` limits each single order to an agent."""

    name: str = "local"
    timeout_s: float = 1800.0

    def fingerprint(self, target: Target) -> Fingerprint:
        """Describe this machine as an agent for `target` sees it."""
        with self._agent(target) as agent:
            found = agent.call("fingerprint", self.timeout_s, **spec(target))
        return Fingerprint(**{**found, "features": tuple(found["features"])})

    def build(self, target: Target, onnx: Path, out: Path) -> None:
        """Compile in a process of its own: a compiler that crashes takes nothing along."""
        with self._agent(target) as agent:
            agent.call("build", self.timeout_s, **spec(target), onnx=_path(onnx), out=_path(out))

    def infer(self, target: Target, built: Path, feeds: Path, out: Path) -> None:
        """Run every sample of `feeds` through the artifact, batch by batch, into `out`."""
        with self._agent(target) as agent:
            agent.call("load", self.timeout_s, **spec(target), built=_path(built))
            agent.call("infer", self.timeout_s, feeds=_path(feeds), out=_path(out))

    def measure(
        self,
        built: Mapping[str, Contestant],
        feeds: Path,
        timing: Timing,
        on_round: Callable[[], object] = lambda: None,
    ) -> Dict[str, Measurement]:
        """Time artifacts against each other: fresh processes, interleaved blocks in random order.

        `feeds` gives the first batch, which every call runs. A quarter of `timing.max_s` at most goes into
        warming up. One process works at a time; the others wait on their standard input.
        """
        launches: List[Dict[str, Run]] = []
        shared: Tuple[str, ...] = ()
        for share in shares(timing):
            runs, disturbed = self._launch(built, feeds, share, on_round)
            launches.append(runs)
            shared = shared or disturbed
        return {name: measurement(joined([runs[name] for runs in launches]), timing, shared) for name in built}

    def _launch(
        self, built: Mapping[str, Contestant], feeds: Path, timing: Timing, on_round: Callable[[], object]
    ) -> Tuple[Dict[str, Run], Tuple[str, ...]]:
        """Run one set of processes; return what each did, and what disturbed them."""
        with ExitStack() as stack:
            agents = {name: stack.enter_context(self._agent(target)) for name, (target, _) in built.items()}
            runs = {name: self._load(agents[name], *built[name], feeds) for name in built}
            clock = Clock(timing.max_s)
            for name, run in runs.items():
                run.warm(agents[name].call("warm", self.timeout_s, limit_s=timing.max_s / 4 / len(runs)))
            self._rounds(agents, runs, timing, clock, on_round)
            for name, run in runs.items():
                run.finish(agents[name].call("usage", self.timeout_s))
                run.kernels = tuple(kernel(told) for told in agents[name].call("kernels", self.timeout_s))
            return runs, clock.warnings(sum(run.cpu_s for run in runs.values()))

    def _load(self, agent: AgentProcess, target: Target, built: Path, feeds: Path) -> Run:
        arguments = {**spec(target), "built": _path(built), "feeds": _path(feeds)}
        return Run(load_s=float(agent.call("load", self.timeout_s, **arguments)["load_s"]))

    def _rounds(
        self,
        agents: Mapping[str, AgentProcess],
        runs: Mapping[str, Run],
        timing: Timing,
        clock: Clock,
        on_round: Callable[[], object],
    ) -> None:
        shuffled = np.random.default_rng(timing.seed).permutation
        calls = clock.calls_per_block(timing, [run.median_ns for run in runs.values()])
        for name, run in runs.items():
            run.cpu_start_s = float(agents[name].call("usage", self.timeout_s)["cpu_s"])
        clock.start()
        for done in range(timing.rounds):
            # Intervals need 3 rounds in all; beyond those the limit holds, at the cost of samples.
            if done >= ceil(3 / timing.launches) and clock.over():
                break
            for name in shuffled(list(runs)).tolist():
                runs[name].blocks_ns.append(tuple(agents[name].call("block", self.timeout_s, calls=calls)))
            on_round()

    def _agent(self, target: Target) -> AbstractContextManager[AgentProcess]:
        return start([sys.executable, "-m", "targets.agent"], _environment(target))


def _environment(target: Target) -> Dict[str, str]:
    threads = str(getattr(target, "threads", 1))
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, **dict.fromkeys(THREADS, threads), "PYTHONPATH": path}


def _path(path: Path) -> str:
    """Absolute, as text: the agent may sit in another folder."""
    return str(path.resolve())
