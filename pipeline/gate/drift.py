"""Slow drift: steps that each stayed within the tolerance, and together did not."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from pipeline.gate.changepoints import Change, changes
from pipeline.gate.history import Past, distinct, since_accepted
from pipeline.gate.judge import not_judged
from pipeline.gate.schema import Judgement

# Every check looks at the whole series again. With this p-value at each look, one false alarm in 1,000 checks is
# what to expect, however the looks depend on each other (expectations add up).
ALPHA = 0.001
# Fewer runs than this have too few orders for a p-value of ALPHA: of 14 split amid, even a clean step is seen in two
# of three looks only; of 10, in none.
ENOUGH = 14


@dataclass(frozen=True)
class Series:
    """The latency of past runs, as far as they compare, oldest first."""

    kind: Literal["level", "p50"]  # over the first version, interleaved; or ms with one fingerprint
    runs: tuple[Past, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Drift:
    """A series with its changes of level, and how much its last level is above its first."""

    series: Series
    changes: tuple[Change, ...]
    risen: float  # percent

    @property
    def levels(self) -> tuple[tuple[int, int, float], ...]:
        """Segments: first run, run after the last, median."""
        bounds = [0, *(change.index for change in self.changes), len(self.series.values)]
        spans = pairwise(bounds)
        return tuple((a, b, float(np.median(self.series.values[a:b]))) for a, b in spans if b > a)


def series_of(history: Sequence[Past]) -> Series:
    """The longer of the two series that compare: measured ratios, or medians under the latest fingerprint."""
    runs = distinct(since_accepted(history))
    levels = [(past, past.level) for past in runs if past.level is not None]
    device = runs[-1].device if runs else ""
    medians = [(past, past.p50_ms) for past in runs if past.p50_ms is not None and past.device == device]
    kind: Literal["level", "p50"] = "level" if len(levels) >= len(medians) else "p50"
    taken = levels if kind == "level" else medians
    return Series(kind, tuple(past for past, _ in taken), tuple(value for _, value in taken))


def drift_of(history: Sequence[Past]) -> Drift:
    """Look for changes of level in the past runs."""
    series = series_of(history)
    found = changes(np.log(np.asarray(series.values)).tolist(), ALPHA)
    drift = Drift(series, found, 0.0)
    levels = drift.levels
    return Drift(series, found, 100 * (levels[-1][2] / levels[0][2] - 1)) if levels else drift


def judged_drift(drift: Drift, tolerance: float) -> Judgement:
    """Regression where runs settled on a level above their first by more than the tolerance of p50."""
    runs = len(drift.series.values)
    if runs < ENOUGH:
        return not_judged("drift", f"{runs} past runs compare; {ENOUGH} or more show a change of level")
    if not drift.changes:
        return Judgement(metric="drift", outcome="pass", tolerance=tolerance, text=f"no change of level in {runs} runs")
    start = drift.series.runs[drift.changes[-1].index]
    text = f"{drift.risen:+.1f}% over {runs} runs; level since {start.at[:10]}"
    if start.commit:
        text += f" ({start.commit[:12]})"
    return Judgement(
        metric="drift",
        outcome="regression" if drift.risen > tolerance else "pass",
        change=drift.risen,
        tolerance=tolerance,
        text=text,
    )
