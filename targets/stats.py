"""Quantiles and intervals for latencies and accuracies. Nothing here assumes a distribution.

Latency samples are heavy-tailed, often bimodal, and correlated within a run, so quantiles are order
statistics, their intervals come from ranks, and ratios are resampled by whole rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, lgamma, log, pi, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Optional, Sequence, Union

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Samples = Union[Sequence[float], Array]

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate between its bounds. `level` is the confidence that the bounds really have."""

    value: float
    low: float
    high: float
    level: float = 0.95


def quantile(samples: Samples, q: float) -> float:
    """Return the q-quantile as an order statistic: the smallest sample with at least q of all at or below."""
    return _ranked(np.sort(_array(samples)), q)


def quantile_interval(samples: Samples, q: float, level: float = 0.95) -> Interval:
    """Distribution-free interval of a quantile from order statistics, by the exact binomial.

    Exact for independent samples. With few samples no pair of order statistics covers an extreme quantile at
    `level`; the bounds are then the extremes, and the interval's own `level` says how little that is worth.
    """
    ordered = np.sort(_array(samples))
    n = len(ordered)
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, got {q}")
    cumulative = np.cumsum(_binomial(n, q))  # [k] = P(at most k of n samples lie below the quantile)
    tail = (1 - level) / 2
    # 1-based ranks: P(X_(low) > Q) = P(B <= low-1) and P(X_(high) <= Q) = P(B >= high) stay within tail.
    low = max(1, int(np.searchsorted(cumulative, tail, side="right")))
    high = min(n, int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1)
    covered = float(cumulative[high - 1] - cumulative[low - 1])
    return Interval(_ranked(ordered, q), float(ordered[low - 1]), float(ordered[high - 1]), covered)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson, JASA 1927): sound near 0 and 1, where ±1.96·se is not."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n} trials is not a proportion")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else centre - half  # exact there; the formula rounds to ±1e-17
    high = 1.0 if successes == n else centre + half
    return Interval(p, low, high, level)


def ratio_interval(
    a: Sequence[Samples],
    b: Sequence[Samples],
    q: float = 0.5,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: Optional[int] = 0,
) -> Interval:
    """Ratio quantile(a) / quantile(b) over all samples, with a bootstrap interval over paired rounds.

    `a[i]` and `b[i]` are the blocks of round i. A resample draws whole rounds, A's and B's blocks together:
    what disturbs a round disturbs both, and samples within a block are not independent. Percentiles are
    expanded for the few rounds there are (Hesterberg, American Statistician 2015, section 5.3), without which
    10 rounds cover about 90%. Needs at least 3 rounds.
    """
    if len(a) != len(b) or len(a) < 3:
        raise ValueError(f"a ratio needs the same 3 or more rounds of both, got {len(a)} and {len(b)}")
    rows_a, rows_b = _padded(a), _padded(b)
    rounds = np.random.default_rng(seed).integers(len(a), size=(resamples, len(a)))
    ratios = np.sort(_resampled(rows_a, rounds, q) / _resampled(rows_b, rounds, q))
    tail = expanded_tail((1 - level) / 2, len(a))
    low = ratios[max(0, ceil(tail * resamples) - 1)]
    high = ratios[min(resamples - 1, ceil((1 - tail) * resamples) - 1)]
    value = quantile(np.concatenate(a), q) / quantile(np.concatenate(b), q)
    return Interval(value, float(min(low, value)), float(max(high, value)), level)


def expanded_tail(tail: float, n: int) -> float:
    """Return the bootstrap percentile that gives `tail` in truth with `n` resampled units.

    Percentile intervals are too narrow by sqrt((n-1)/n) and use the normal where Student's t is due.
    """
    return NormalDist().cdf(sqrt(n / (n - 1)) * _student_quantile(tail, n - 1))


def coefficient_of_variation(values: Samples) -> float:
    """Return standard deviation over mean; 0 for fewer than two values."""
    array = _array(values)
    return float(array.std(ddof=1) / array.mean()) if len(array) > 1 else 0.0


def _array(samples: Any) -> Array:
    array = np.asarray(samples, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError("no samples")
    if not np.isfinite(array).all():
        raise ValueError("samples must be finite")
    return array


def _ranked(ordered: Array, q: float) -> float:
    # The margin keeps 0.99 · 100 = 99.00000000000001 from counting as 100.
    return float(ordered[max(0, ceil(q * len(ordered) - 1e-9) - 1)])


def _binomial(n: int, p: float) -> Array:
    """Probabilities of 0 … n successes, in logarithms so that n may be in the millions."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    mass: Array = np.exp(logs[n] - logs - logs[::-1] + k * log(p) + (n - k) * log(1 - p))
    return mass


def _padded(blocks: Sequence[Samples]) -> Array:
    """Blocks as rows; shorter ones end in NaN."""
    arrays = [_array(block) for block in blocks]
    rows = np.full((len(arrays), max(map(len, arrays))), np.nan)
    for row, array in zip(rows, arrays):
        row[: len(array)] = array
    return rows


def _resampled(rows: Array, rounds: NDArray[np.int64], q: float) -> Array:
    """Return the q-quantile of each resample of whole rows.

    A resample is a weight per row, so one sort serves all: the quantile is where the weights that accumulate
    along the sorted samples reach q of their sum.
    """
    kept = ~np.isnan(rows)
    samples, owner = rows[kept], np.nonzero(kept)[0]
    order = np.argsort(samples, kind="stable")
    samples, owner = samples[order], owner[order]
    result = np.empty(len(rounds))
    for i, drawn in enumerate(rounds):
        weights = np.cumsum(np.bincount(drawn, minlength=len(rows))[owner])
        rank = max(1, ceil(q * float(weights[-1]) - 1e-9))
        result[i] = samples[np.searchsorted(weights, rank)]
    return result


def _student_quantile(tail: float, df: int) -> float:
    """Lower `tail` quantile (tail < 0.5) of Student's t, by bisection on a numerically integrated density."""
    grid = np.linspace(0.0, pi / 2, 4001)
    # With x = sqrt(df)·tan θ the density becomes c·cos(θ)^(df-1) on a finite range.
    density = exp(lgamma((df + 1) / 2) - lgamma(df / 2)) / sqrt(pi) * np.cos(grid) ** (df - 1)
    steps = (density[1:] + density[:-1]) / 2 * (grid[1] - grid[0])
    above = np.concatenate([[0.0], np.cumsum(steps)])  # P(0 < T < sqrt(df)·tan θ)
    angle = float(np.interp(0.5 - tail, above, grid))
    return -sqrt(df) * float(np.tan(angle))
