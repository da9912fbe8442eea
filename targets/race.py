"""Timing artifacts against each other: a fresh process each, blocks that alternate in random order.

Knows agents only by the orders they take: whether they are here or on a board is the device's business.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from math import ceil
from typing import Any, Callable, Dict, List, Mapping, Protocol, Tuple

import numpy as np

from targets.base import Target
from targets.board.options import UNHELD, Board
from targets.board.watch import Watch
from targets.comparison import Clock, Run, joined, measurement, shares
from targets.devices.base import Measurement, Timing, kernel
from targets.plugins import spec


class Agent(Protocol):
    """A process on the device that serves one artifact."""

    def call(self, do: str, timeout_s: float, **arguments: Any) -> Any:
        """Give an order and return what it yields. Raises TargetError."""


@dataclass(frozen=True)
class Race:
    """Who takes part, where their files lie on the device, and how to start a process for one."""

    start: Callable[[Target], AbstractContextManager[Agent]]
    built: Mapping[str, Tuple[Target, str]]  # name -> target, folder on the device
    feeds: str  # .npz on the device
    timeout_s: float  # of each order
    on_round: Callable[[], object]
    board: Board = UNHELD
    on_wait: Callable[[str], object] = lambda _: None

    def run(self, timing: Timing) -> Dict[str, Measurement]:
        """Time them; the rounds are spread over `timing.launches` sets of fresh processes.

        A quarter of `timing.max_s` at most goes into warming up. One process works at a time; the others wait on
        their standard input.
        """
        launches: List[Dict[str, Run]] = []
        shared: Tuple[str, ...] = ()
        for share in shares(timing):
            runs, disturbed = self._launch(share)
            launches.append(runs)
            shared = shared or disturbed
        return {name: measurement(joined([runs[name] for runs in launches]), timing, shared) for name in self.built}

    def _launch(self, timing: Timing) -> Tuple[Dict[str, Run], Tuple[str, ...]]:
        """Run one set of processes; return what each did, and what disturbed them."""
        with ExitStack() as stack:
            agents = {name: stack.enter_context(self.start(target)) for name, (target, _) in self.built.items()}
            runs = {name: self._load(agents[name], *self.built[name]) for name in self.built}
            watch = Watch(agents, self.board, self.timeout_s)
            watch.cool(self.on_wait)
            clock = Clock(timing.max_s)
            for name, run in runs.items():
                run.warm(agents[name].call("warm", self.timeout_s, limit_s=timing.max_s / 4 / len(runs)))
            watch.begin()
            self._rounds(agents, runs, timing, clock)
            seen = watch.end()
            for name, run in runs.items():
                run.finish(agents[name].call("usage", self.timeout_s))
                run.kernels = tuple(kernel(told) for told in agents[name].call("kernels", self.timeout_s))
            disturbed = clock.warnings(sum(run.cpu_s for run in runs.values()))
            for name, run in runs.items():
                run.board = watch.of(name, seen)
            return runs, disturbed

    def _load(self, agent: Agent, target: Target, built: str) -> Run:
        found = agent.call("load", self.timeout_s, **spec(target), built=built, feeds=self.feeds)
        return Run(load_s=float(found["load_s"]))

    def _rounds(self, agents: Mapping[str, Agent], runs: Mapping[str, Run], timing: Timing, clock: Clock) -> None:
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
            self.on_round()
