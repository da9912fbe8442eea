"""Bookkeeping of an interleaved comparison: how long blocks may be, and what makes the result doubtful."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from targets.base import Kernel
from targets.board.seen import UNSEEN, Seen
from targets.cpuinfo import usable_cores
from targets.devices.base import Measurement, Timing
from targets.stats import coefficient_of_variation, quantile

UNSTABLE = 0.05  # coefficient of variation of the rounds' medians; asv and pyperf warn at 5 and 10%
INTRUDERS = 0.1  # cores busy with other work
STAT = Path("/proc/stat")
SHORTEST_BLOCK_NS = 20_000_000  # below, a block is shorter than the scheduler's own hiccups
TICKS_PER_S = 100  # USER_HZ, fixed by the kernel's interface


@dataclass
class Run:
    """One artifact under way: filled in as its agent answers."""

    load_s: float
    warmup_ns: Tuple[int, ...] = ()
    steady: bool = False
    median_ns: int = 0
    cpu_start_s: float = 0.0
    cpu_s: float = 0.0  # processor time over the timed rounds
    memory_peak_bytes: int = 0
    kernels: Tuple[Kernel, ...] = ()
    board: Seen = UNSEEN
    blocks_ns: List[Tuple[int, ...]] = field(default_factory=list)

    def warm(self, reply: Mapping[str, Any]) -> None:
        """Take in what the warm-up found."""
        self.warmup_ns = tuple(reply["samples_ns"])
        self.steady, self.median_ns = bool(reply["steady"]), int(reply["median_ns"])

    def finish(self, usage: Mapping[str, Any]) -> None:
        """Take in what the process used."""
        self.memory_peak_bytes = int(usage["memory_peak_bytes"])
        self.cpu_s = float(usage["cpu_s"]) - self.cpu_start_s


def joined(launches: Sequence[Run]) -> Run:
    """What several processes of one artifact did, as one run."""
    first = launches[0]
    return Run(
        load_s=first.load_s,
        warmup_ns=tuple(ns for run in launches for ns in run.warmup_ns),
        steady=all(run.steady for run in launches),
        median_ns=first.median_ns,
        cpu_s=sum(run.cpu_s for run in launches),
        memory_peak_bytes=max(run.memory_peak_bytes for run in launches),
        kernels=first.kernels,
        board=Seen.joined([run.board for run in launches]),
        blocks_ns=[block for run in launches for block in run.blocks_ns],
    )


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


class Clock:
    """The time limit of a comparison, and what else kept the machine busy during its rounds."""

    def __init__(self, max_s: float) -> None:
        self._deadline_s = time.monotonic() + max_s
        self._start_s = time.monotonic()
        self._busy_s = busy_s()

    def calls_per_block(self, timing: Timing, medians_ns: Sequence[int]) -> int:
        """Return calls per artifact and round: enough for `timing.samples`, fewer if time would run out.

        Fast models get more than was asked for, so that a block lasts 20 ms on average.
        """
        mean_ns = max(1.0, sum(medians_ns) / len(medians_ns))
        wanted = max(ceil(timing.samples / timing.rounds), ceil(SHORTEST_BLOCK_NS / mean_ns))
        left_ns = (self._deadline_s - time.monotonic()) * 1e9
        affordable = int(left_ns / timing.rounds / max(1, sum(medians_ns)))
        return max(1, min(wanted, affordable))

    def start(self) -> None:
        """Mark the start of the timed rounds."""
        self._start_s, self._busy_s = time.monotonic(), busy_s()

    def over(self) -> bool:
        """Whether the limit has passed."""
        return time.monotonic() > self._deadline_s

    def warnings(self, own_cpu_s: float) -> Tuple[str, ...]:
        """Say how much of the machine other processes used since `start`, if it was enough to disturb."""
        busy = busy_s()
        if busy is None or self._busy_s is None:
            return ()
        others = (busy - self._busy_s - own_cpu_s) / max(1e-9, time.monotonic() - self._start_s)
        if others <= INTRUDERS:
            return ()
        return (f"other processes used {others:.1f} of {len(usable_cores())} cores while timing",)


def measurement(run: Run, timing: Timing, shared: Tuple[str, ...]) -> Measurement:
    """Close a run; `shared` are warnings about the comparison as a whole."""
    return Measurement(
        blocks_ns=tuple(run.blocks_ns),
        warmup_ns=run.warmup_ns,
        load_s=run.load_s,
        memory_peak_bytes=run.memory_peak_bytes,
        kernels=run.kernels,
        warnings=(*_warnings(run, timing), *shared, *run.board.warnings),
        board=run.board,
    )


def busy_s() -> Optional[float]:
    """Processor time all processes have used since boot, time stolen by the hypervisor included."""
    if not STAT.is_file():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, STAT.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def _warnings(run: Run, timing: Timing) -> Tuple[str, ...]:
    found = []
    if not run.steady:
        found.append(f"latency had not settled after {sum(run.warmup_ns) / 1e9:.1f} s of warm-up")
    samples = sum(map(len, run.blocks_ns))
    if samples < timing.samples:
        found.append(f"{samples} of {timing.samples} samples within the limit of {timing.max_s:g} s")
    spread = coefficient_of_variation([quantile(block, 0.5) for block in run.blocks_ns])
    if spread > UNSTABLE:
        found.append(f"unstable: the medians of the rounds vary by {spread:.0%} (standard deviation / mean)")
    return tuple(found)
