"""Metric by metric: has the run got worse than its baseline by more than the tolerance?"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import comb, log
from typing import Literal

from pipeline.gate.evidence import Ratio, newcombe
from pipeline.gate.schema import Judgement, Outcome
from pipeline.gate.tolerances import LATENCIES, Gate
from pipeline.report.schema import Proportion, StageReport

UNTOLD: Literal["cannot tell"] = "cannot tell"
BY_CHANCE = 1 / 40  # how often, at most, peaks of one artifact may part as a regression wants it: 2.5%, one side
POWERED = 1 + 1.645 / 1.96  # half-widths of a 95% interval that a true change takes to show 95 times of 100


@dataclass(frozen=True)
class Timed:
    """What the samples say of one metric of latency, with the two figures themselves in ms."""

    baseline_ms: float
    run_ms: float
    ratio: Ratio


@dataclass(frozen=True)
class Memory:
    """Peak resident sets in bytes; of one launch after another where they were measured anew."""

    baseline: tuple[int, ...]
    run: tuple[int, ...]


def judged_latency(metric: str, timed: Timed, tolerance: float) -> Judgement:
    """Regression where the whole interval lies above the tolerance; pass where it lies below.

    Where it spans the limit: pass if the estimate is within the tolerance and the interval no wider than that
    to either side, as then a slowdown worth the name would have been seen; else it cannot be told.
    """
    ratio, limit = timed.ratio, 1 + tolerance / 100
    change, low, high = (100 * (value - 1) for value in (ratio.value, ratio.low, ratio.high))
    narrow = log(ratio.high / ratio.value) <= log(limit)
    outcome: Outcome = UNTOLD
    if ratio.low > limit:
        outcome = "regression"
    elif ratio.high <= limit or (ratio.value <= limit and narrow):
        outcome = "pass"
    detectable = ratio.detectable(tolerance)
    text = f"{change:+.1f}% ({low:+.1f} … {high:+.1f})"
    if outcome == UNTOLD:
        text += f": the interval spans the tolerance of {tolerance:g}%"
    return Judgement(
        metric=metric,
        outcome=outcome,
        baseline=timed.baseline_ms,
        run=timed.run_ms,
        unit="ms",
        change=change,
        low=low,
        high=high,
        tolerance=tolerance,
        detectable=detectable,
        text=text,
    )


def judged_size(baseline: int, run: int, tolerance: float) -> Judgement:
    """Bytes of the files that the device needs: exact."""
    return _exact("size", 100 * (run / baseline - 1), (baseline, run, "bytes"), tolerance, "%")


def judged_memory(memory: Memory, tolerance: float) -> Judgement:
    """Peak memory. Worse where even the least of the run's peaks is above the largest of the baseline's.

    Peaks of one artifact differ by pages that the allocator and the loader happened to touch. That all of one lie
    above all of the other is a test of ranks: of alike ones, four of each part so once in 70 times, three once in 20.
    """
    change = 100 * (max(memory.run) / max(memory.baseline) - 1)
    least = 100 * (min(memory.run) / max(memory.baseline) - 1)
    most = 100 * (max(memory.run) / min(memory.baseline) - 1)
    enough = 1 / comb(len(memory.run) + len(memory.baseline), len(memory.run)) <= BY_CHANCE
    outcome: Outcome = UNTOLD if change > tolerance else "pass"
    if enough and least > tolerance:
        outcome = "regression"
    spread = max(max(peaks) / min(peaks) for peaks in (memory.baseline, memory.run))
    text = f"{change:+.1f}%"
    if outcome == UNTOLD:
        few = f"too few peaks ({len(memory.run)}) for chance to be ruled out"
        text += f": the peaks vary from {least:+.1f} to {most:+.1f}%" if enough else f": {few}"
    return Judgement(
        metric="memory",
        outcome=outcome,
        baseline=max(memory.baseline),
        run=max(memory.run),
        unit="bytes",
        change=change,
        low=least,
        high=most,
        tolerance=tolerance,
        detectable=100 * ((1 + tolerance / 100) * spread - 1) if enough else None,
        text=text,
    )


def judged_accuracy(baseline: Proportion, run: Proportion, tolerance: float) -> Judgement:
    """Points lost on the test split, with Newcombe's interval of a difference of proportions.

    Which samples either got right is not kept, so the interval takes the two as independent; on one test split
    they are not, and it is wider than it need be.
    """
    found = newcombe(round(baseline.value * baseline.n), baseline.n, round(run.value * run.n), run.n)
    lost, low, high = (100 * value for value in (found.value, found.low, found.high))
    # counts are whole, so a loss of just the tolerance is not more than it
    within = lost <= tolerance + 1e-9
    outcome: Outcome = "pass" if within else "regression" if low > 0 else UNTOLD
    text = f"{-lost + 0.0:+.2f} points"
    if outcome == UNTOLD:
        text += f": {-high:+.2f} … {-low:+.2f}, more than the tolerance but maybe chance among {run.n} samples"
    return Judgement(
        metric="accuracy",
        outcome=outcome,
        baseline=100 * baseline.value,
        run=100 * run.value,
        unit="%",
        change=lost,
        low=low,
        high=high,
        tolerance=tolerance,
        detectable=max(tolerance, POWERED * (lost - low)),
        text=text,
    )


def judged_int8(baseline: StageReport, run: StageReport, tolerance: float) -> Judgement:
    """Percent of ops in int8: exact. What is float in both has none to lose."""
    before, now = int8_share(baseline), int8_share(run)
    if before is None and now is None:
        return not_judged("int8", "neither is in int8")
    lost = (before or 0.0) - (now or 0.0)
    return _exact("int8", lost, (before or 0.0, now or 0.0, "%"), tolerance, " points")


def int8_share(row: StageReport) -> float | None:
    """Percent of the ops of an int8 model that run in int8; None for a float model."""
    if row.coverage is None:
        return None
    return 100 * sum(row.coverage.int8.values()) / max(1, sum(row.coverage.ops.values()))


def not_judged(metric: str, why: str, outcome: Outcome = "not judged") -> Judgement:
    """A metric of which nothing can be said."""
    return Judgement(metric=metric, outcome=outcome, text=why)


def overall(judgements: Iterable[Judgement], gate: Gate) -> Literal["pass", "regression", "cannot tell"]:
    """Regression if any metric has one; cannot tell if a decisive one cannot be told."""
    found = [(j.metric, j.outcome) for j in judgements]
    if any(outcome == "regression" for _, outcome in found):
        return "regression"
    untold = any(outcome == UNTOLD and metric in gate.decisive for metric, outcome in found)
    return "cannot tell" if untold else "pass"


def latencies(timed: Mapping[str, Timed], gate: Gate) -> list[Judgement]:
    """The judgements of p50, p90 and p99, as far as the gate judges them."""
    return [
        judged_latency(name, timed[name], tolerance)
        for name in LATENCIES
        if (tolerance := gate.tolerance(name)) is not None
    ]


def _exact(metric: str, change: float, figures: tuple[float, float, str], tolerance: float, unit: str) -> Judgement:
    shown = change if unit == "%" else -change + 0.0  # no minus sign before a zero
    return Judgement(
        metric=metric,
        outcome="regression" if change > tolerance + 1e-9 else "pass",
        baseline=figures[0],
        run=figures[1],
        unit=figures[2],
        change=change,
        low=change,
        high=change,
        tolerance=tolerance,
        detectable=tolerance,
        text=f"{shown:+.2f}{unit}",
    )
