"""Measuring a baseline's own artifact and the run's anew, interleaved, on today's device."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np

from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.gate import judge
from pipeline.gate.evidence import interleaved
from pipeline.gate.judge import Memory, Timed
from pipeline.gate.runs import Run
from pipeline.gate.schema import Judgement
from pipeline.gate.tolerances import LATENCIES, Gate
from pipeline.progress import Progress
from targets.devices.base import Contestant, Device, Measurement, Timing
from targets.npz import save
from targets.stats import quantile

BASELINE, RUN = "baseline", "run"
FIRST = 4  # launches before the first look
# Short blocks: what slows a moment then slows neighbouring blocks of both, and their ratio stays. On two shared
# cores, the ratio of medians of as many calls varied by 0.7% in blocks of 5 ms, by 1.4% in blocks of 20 ms.
BLOCK_S = 0.005
# Times its share of the limit that a launch may take where the machine stalls: one that was cut short says little,
# and counts as much as the others.
PATIENCE = 3.0
ROUNDS, CALLS = 24, 5  # pairs of blocks in a launch, and calls of one at least


@dataclass(frozen=True)
class Launch:
    """One pair of fresh processes."""

    baseline: Measurement
    run: Measurement

    @property
    def pair(self) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """The blocks of both."""
        return self.baseline.blocks_ns, self.run.blocks_ns


@dataclass(frozen=True)
class Rival:
    """Two artifacts, where they are measured, and what every call runs."""

    built: Mapping[str, Contestant]  # BASELINE and RUN
    feeds: Path
    device: Device
    mode: str = "latency"  # as Timing has it


def remeasure(baseline: Run, run: Run, place: Place, gate: Gate, progress: Progress) -> tuple[Launch, ...]:
    """Launch pair after pair until the data decide, or the gate's effort is spent.

    Raises UserError where the two cannot be compared, TargetError where one cannot run on this device.
    """
    if baseline.manifest.inputs != run.manifest.inputs:
        shapes = " and ".join(str(list(r.manifest.inputs.values())) for r in (baseline, run))
        raise UserError(f"{run.folder}: one call takes other input than the baseline's ({shapes}); save a new baseline")
    built = {BASELINE: (baseline.manifest.target(), baseline.model), RUN: (run.manifest.target(), run.model)}
    with tempfile.TemporaryDirectory() as folder:
        feeds = Path(folder) / "feeds.npz"
        rng = np.random.default_rng(0)
        save(feeds, {name: rng.standard_normal(shape, np.float32) for name, shape in run.manifest.inputs.items()})
        with progress.bar("time baseline / run", gate.launches) as bar:
            return launches(Rival(built, feeds, place.device, run.manifest.mode), gate, bar.advance)


def launches(rival: Rival, gate: Gate, on_launch: Callable[[], object] = lambda: None) -> tuple[Launch, ...]:
    """Measure both until every decisive latency is decided, `gate.launches` at most and for `gate.max_s`."""
    found: list[Launch] = []
    start_s = monotonic()
    limit_s = max(1.0, gate.max_s / gate.launches)
    while True:
        timing = Timing(
            samples=ROUNDS * CALLS,
            rounds=ROUNDS,
            launches=1,
            max_s=limit_s,
            patience=min(PATIENCE, gate.launches / 2),  # two are made in any case
            seed=len(found),
            mode=rival.mode,
            block_s=BLOCK_S,
            precision=0.0,  # how many launches there are is decided here
            retries=0,
            cold=False,
        )
        measured = rival.device.measure(rival.built, rival.feeds, timing)
        found.append(Launch(measured[BASELINE], measured[RUN]))
        on_launch()
        each_s = (monotonic() - start_s) / len(found)
        spent = len(found) >= gate.launches or monotonic() - start_s + each_s > gate.max_s
        if len(found) >= 2 and (spent or (len(found) >= FIRST and decided(found, gate))):
            return tuple(found)


def decided(found: Sequence[Launch], gate: Gate) -> bool:
    """Whether no decisive latency is left that cannot be told.

    Looking after every launch costs little: where the truth is no slowdown, the interval would have to lie
    above the whole tolerance at one of the looks.
    """
    return not any(j.outcome == judge.UNTOLD for j in latencies(found, gate) if j.metric in gate.decisive)


def latencies(found: Sequence[Launch], gate: Gate) -> list[Judgement]:
    """The judgements of p50, p90 and p99."""
    timed = {}
    for name, q in LATENCIES.items():
        before, now = ([ns for launch in found for block in launch.pair[side] for ns in block] for side in (0, 1))
        ratio = interleaved([launch.pair for launch in found], q)
        timed[name] = Timed(quantile(before, q) / 1e6, quantile(now, q) / 1e6, ratio)
    return judge.latencies(timed, gate)


def judged(found: Sequence[Launch], gate: Gate) -> tuple[Judgement, ...]:
    """The judgements of latency and memory."""
    judgements = latencies(found, gate)
    if gate.memory is not None:
        before = tuple(launch.baseline.memory_peak_bytes for launch in found)
        now = tuple(launch.run.memory_peak_bytes for launch in found)
        judgements.append(judge.judged_memory(Memory(before, now), gate.memory))
    return tuple(judgements)
