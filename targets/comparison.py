"""Bookkeeping of an interleaved comparison: how long blocks may be, and what each process did."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from targets.base import Kernel, Layer
from targets.board.seen import UNSEEN, Seen
from targets.devices.base import Measurement, Timing
from targets.doubts import about, between
from targets.intervals import uncertainty


@dataclass
class Run:
    """One process under way: filled in as its agent answers."""

    load_s: float
    first_call_s: float = 0.0
    batch: int = 1
    warmup_ns: Tuple[int, ...] = ()
    steady: bool = False
    median_ns: int = 0
    clock_ns: int = 0
    cpu_start_s: float = 0.0
    cpu_s: float = 0.0  # processor time over the timed rounds
    memory_peak_bytes: int = 0
    kernels: Tuple[Kernel, ...] = ()
    layers: Tuple[Layer, ...] = ()
    board: Seen = UNSEEN
    blocks_ns: List[Tuple[int, ...]] = field(default_factory=list)
    walls_ns: List[int] = field(default_factory=list)

    def warm(self, reply: Mapping[str, Any]) -> None:
        """Take in what the warm-up found."""
        self.warmup_ns = tuple(reply["samples_ns"])
        self.steady, self.median_ns = bool(reply["steady"]), int(reply["median_ns"])
        self.clock_ns = int(reply["clock_ns"])

    def add(self, block: Mapping[str, Any]) -> None:
        """Take in a block."""
        self.blocks_ns.append(tuple(block["samples_ns"]))
        self.walls_ns.append(int(block["wall_ns"]))

    def finish(self, usage: Mapping[str, Any]) -> None:
        """Take in what the process used."""
        self.memory_peak_bytes = int(usage["memory_peak_bytes"])
        self.cpu_s = float(usage["cpu_s"]) - self.cpu_start_s


@dataclass(frozen=True)
class Lap:
    """One launch: a fresh process for every contestant, and what disturbed them."""

    runs: Mapping[str, Run]
    disturbed: Tuple[str, ...]
    wall_s: float  # of all of it, starting and loading included


def shares(timing: Timing) -> List[Timing]:
    """Split the rounds over the launches, as evenly as they go."""
    launches = max(1, min(timing.launches, timing.rounds))
    rounds = [timing.rounds // launches + (i < timing.rounds % launches) for i in range(launches)]
    return [
        replace(
            timing,
            rounds=n,
            samples=ceil(timing.samples * n / timing.rounds),
            max_s=timing.max_s * n / timing.rounds,
            seed=timing.seed + i,
        )
        for i, n in enumerate(rounds)
    ]


def known_to(laps: Sequence[Lap], q: float) -> float:
    """The uncertainty of the q-quantile of the contestant that is known least."""
    return max(uncertainty([lap.runs[name].blocks_ns for lap in laps], q) for name in laps[0].runs)


def measurements(laps: Sequence[Lap], timing: Timing, retried: int) -> Dict[str, Measurement]:
    """Close a comparison."""
    shared = between([lap.disturbed for lap in laps], retried)
    return {name: _measurement([lap.runs[name] for lap in laps], timing, shared, retried) for name in laps[0].runs}


def _measurement(runs: Sequence[Run], timing: Timing, shared: Tuple[str, ...], retried: int) -> Measurement:
    """What several processes of one artifact did, as one; `shared` are warnings about the comparison as a whole."""
    first = runs[0]
    found = Measurement(
        blocks_ns=tuple(block for run in runs for block in run.blocks_ns),
        warmup_ns=tuple(ns for run in runs for ns in run.warmup_ns),
        load_s=first.load_s,
        memory_peak_bytes=max(run.memory_peak_bytes for run in runs),
        kernels=first.kernels,
        rounds=tuple(len(run.blocks_ns) for run in runs),
        first_call_s=first.first_call_s,
        walls_ns=tuple(ns for run in runs for ns in run.walls_ns),
        mode=timing.mode,
        batch=first.batch,
        layers=first.layers,
        board=Seen.joined([run.board for run in runs]),
        retried=retried,
    )
    steady, clock_ns = all(run.steady for run in runs), max(run.clock_ns for run in runs)
    return replace(found, warnings=(*about(found, timing, steady, clock_ns), *shared, *found.board.warnings))


class Clock:
    """The time limit of one launch: calls are planned by `max_s`, and go on for `patience` times that."""

    def __init__(self, max_s: float, patience: float = 1.0) -> None:
        self._planned_s = time.monotonic() + max_s
        self._deadline_s = time.monotonic() + max_s * patience

    def calls_per_block(self, timing: Timing, medians_ns: Sequence[int]) -> int:
        """Return calls per artifact and round: enough for `timing.samples`, fewer if time would run out.

        Fast models get more than was asked for, so that a block lasts `timing.block_s` on average.
        """
        mean_ns = max(1.0, sum(medians_ns) / len(medians_ns))
        wanted = max(ceil(timing.samples / timing.rounds), ceil(timing.block_s * 1e9 / mean_ns))
        left_ns = (self._planned_s - time.monotonic()) * 1e9
        affordable = int(left_ns / timing.rounds / max(1, sum(medians_ns)))
        return max(1, min(wanted, affordable))

    def over(self) -> bool:
        """Whether the limit has passed, patience included."""
        return time.monotonic() > self._deadline_s
