"""Where a series of runs changed its level: e-divisive means with a permutation test.

Matteson and James, "A Nonparametric Approach for Multiple Change Point Analysis of Multivariate Data" (JASA
2014), as MongoDB applied it to past performance tests: Daly et al., "The Use of Change Point Detection to
Identify Software Performance Regressions in a Continuous Integration System" (ICPE 2020); Fleming et al., "Hunter:
Using Change Point Detection to Hunt for Performance Regressions" (ICPE 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST = 3  # runs of a segment: fewer are an outlier, not a level
PERMUTATIONS = 1999
LONGEST = 200  # runs looked at, the last ones: the test takes memory and time with their square


@dataclass(frozen=True)
class Change:
    """A change of level before run `index`; `p` is that of the permutation test."""

    index: int
    p: float


def changes(values: Sequence[float], alpha: float, seed: int = 0) -> tuple[Change, ...]:
    """Change points of a series, in order of time.

    The series is split where the energy distance between both sides is largest, if that is larger than in all but
    `alpha` of its permutations; then either side again. Runs must be exchangeable where nothing changes: a
    series that wanders by itself gives change points that are real and mean nothing.
    """
    offset = max(0, len(values) - LONGEST)
    series = np.asarray(values[offset:], np.float64)
    found = _split(series, 0, alpha, np.random.default_rng(seed))
    return tuple(Change(change.index + offset, change.p) for change in sorted(found, key=lambda c: c.index))


def _split(series: Array, start: int, alpha: float, rng: np.random.Generator) -> list[Change]:
    if len(series) < 2 * LEAST:
        return []
    at, best = _best(np.abs(series[:, None] - series[None, :]))
    beaten = 0
    for _ in range(PERMUTATIONS):
        shuffled = rng.permutation(series)
        beaten += _best(np.abs(shuffled[:, None] - shuffled[None, :]))[1] >= best - 1e-12 * abs(best)
        if (beaten + 1) / (PERMUTATIONS + 1) > alpha:  # it can only get larger
            return []
    p = (beaten + 1) / (PERMUTATIONS + 1)
    sides = (series[:at], start), (series[at:], start + at)
    return [Change(start + at, p), *(c for side, offset in sides for c in _split(side, offset, alpha, rng))]


def _best(distances: Array) -> tuple[int, float]:
    """Where the energy statistic is largest, and that.

    q(t) = t·(n-t)/n · (2·mean |x-y| - mean |x-x'| - mean |y-y'|), x before t and y from t on.
    """
    n = len(distances)
    total = np.zeros((n + 1, n + 1))
    total[1:, 1:] = distances.cumsum(0).cumsum(1)
    t = np.arange(LEAST, n - LEAST + 1)
    within_before = total[t, t]
    across = total[t, n] - total[t, t]
    within_after = total[n, n] - within_before - 2 * across
    rest = n - t
    q = t * rest / n * (2 * across / (t * rest) - within_before / (t * (t - 1)) - within_after / (rest * (rest - 1)))
    i = int(np.argmax(q))
    return int(t[i]), float(q[i])
