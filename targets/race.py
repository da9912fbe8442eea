"""Timing artifacts against each other: a fresh process each, blocks that alternate in random order.

Knows agents only by the orders they take: whether they are here or on a board is the device's business.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from math import ceil
from typing import Callable, Dict, List, Mapping, Tuple

import numpy as np

from targets.base import Layer, Target
from targets.board.options import UNHELD, Board
from targets.board.watch import Watch
from targets.comparison import Clock, Lap, Run, known_to, measurements, shares
from targets.devices.base import Agent, Measurement, Timing, kernel
from targets.doubts import disturbances, unsteady
from targets.plugins import spec

EXTENDED = 2  # times the launches asked for are made at most, for the p50 to be known as asked
PROFILED = 20  # calls that the times of layers are medians of


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
        """Time them; the rounds are spread over `timing.launches` sets of fresh processes, and more.

        A disturbed launch is replaced by a new one, whatever its times were, up to `timing.retries` times; and
        launches are added until `timing.quantile` is known to `timing.precision`, up to twice as many. Both only
        within `timing.max_s`. A quarter of that at most goes into warming up. While calls are timed, one process
        works at a time; the others wait on their standard input.
        """
        start_s = time.monotonic()
        planned = shares(timing)
        todo, laps, retried = list(planned), [], 0  # type: List[Timing], List[Lap], int
        while todo:
            lap = self._launch(todo.pop(0), first=not laps)
            time_left = time.monotonic() + lap.wall_s < start_s + timing.max_s
            if lap.disturbed and time_left and retried < timing.retries:
                retried += 1
                todo.insert(0, _again(planned[len(laps) % len(planned)], len(planned) * EXTENDED + retried))
                continue
            laps.append(lap)
            wanting = timing.precision and len(laps) < EXTENDED * len(planned)
            if not todo and time_left and wanting and known_to(laps, timing.quantile) > timing.precision:
                todo.append(_again(planned[-1], len(laps)))
        return measurements(laps, timing, retried)

    def _launch(self, timing: Timing, first: bool) -> Lap:
        """Run one set of processes; return what each did, and what disturbed them.

        All get the same orders, and take turns in being the first: a process that alone had looked for quiet cores was
        1.3% slower than its twin ever after.
        """
        start_s = time.monotonic()
        turn = timing.seed % len(self.built)
        order = [*list(self.built)[turn:], *list(self.built)[:turn]]
        with ExitStack() as stack:
            agents = {name: stack.enter_context(self.start(self.built[name][0])) for name in order}
            if not (first and timing.cold):
                for name, agent in agents.items():
                    agent.tell("prepare", **spec(self.built[name][0]))
            cores = self._cores(agents, timing)
            runs = {name: self._load(agents[name], *self.built[name], cores) for name in order}
            watch = Watch(agents, self.board, self.timeout_s)
            watch.cool(self.on_wait)
            clock = Clock(timing.max_s, timing.patience)
            for name, run in runs.items():
                limit_s = timing.max_s / 4 / len(runs)
                streams = _streams(self.built[name][0], timing)
                run.warm(agents[name].call("warm", self.timeout_s, limit_s=limit_s, streams=streams))
            watch.begin()
            disturbed = self._rounds(agents, runs, timing, clock, cores)
            seen = watch.end()
            for name, run in runs.items():
                run.kernels = tuple(kernel(told) for told in agents[name].call("kernels", self.timeout_s))
                run.board = watch.of(name, seen)
                if first and timing.layers:
                    told = agents[name].call("layers", self.timeout_s, calls=PROFILED)
                    run.layers = tuple(Layer(**layer) for layer in told)
        return Lap({name: runs[name] for name in self.built}, disturbed, time.monotonic() - start_s)

    def _cores(self, agents: Mapping[str, Agent], timing: Timing) -> List[int]:
        """The cores that all contestants are kept to; none where there are not as many as one of them needs."""
        needs = [getattr(target, "threads", 1) * _streams(target, timing) for target, _ in self.built.values()]
        for agent in agents.values():
            agent.call("usage", self.timeout_s)  # none is busy starting any more
        *others, last = agents.values()
        for agent in others:
            agent.tell("cores", count=max(needs))
        found: List[int] = last.call("cores", self.timeout_s, count=max(needs))
        return found

    def _load(self, agent: Agent, target: Target, built: str, cores: List[int]) -> Run:
        told = agent.call("load", self.timeout_s, **spec(target), built=built, feeds=self.feeds, cores=cores)
        return Run(load_s=float(told["load_s"]), first_call_s=float(told["first_call_s"]), batch=int(told["batch"]))

    def _rounds(
        self, agents: Mapping[str, Agent], runs: Mapping[str, Run], timing: Timing, clock: Clock, cores: List[int]
    ) -> Tuple[str, ...]:
        """Time the blocks; return what disturbed them."""
        shuffled = np.random.default_rng(timing.seed).permutation
        calls = clock.calls_per_block(timing, [run.median_ns for run in runs.values()])
        for name, run in runs.items():
            before = agents[name].call("usage", self.timeout_s)
            run.cpu_start_s = float(before["cpu_s"])
        for done in range(timing.rounds):
            # Intervals need 3 rounds in all; beyond those the limit holds, at the cost of samples.
            if done >= ceil(3 / timing.launches) and clock.over():
                break
            for name in shuffled(list(runs)).tolist():
                runs[name].add(agents[name].call("block", self.timeout_s, calls=calls))
            self.on_round()
        for name, run in runs.items():
            after = agents[name].call("usage", self.timeout_s)
            run.finish(after)
        found = disturbances(before, after, cores, sum(run.cpu_s for run in runs.values()))
        restless = [name for name, run in runs.items() if not run.steady or unsteady(run.blocks_ns)]
        return (*found, *(f"the times of {name} varied" for name in restless))


def _again(share: Timing, number: int) -> Timing:
    """The same share of the rounds, in another order."""
    return replace(share, seed=share.seed + 1000 * number)


def _streams(target: Target, timing: Timing) -> int:
    """How many calls of an artifact run at once."""
    return getattr(target, "streams", 1) if timing.mode == "throughput" else 1
