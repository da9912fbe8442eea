"""Quantiles of latencies, and intervals for what is independent. Nothing here assumes a distribution.

Latency samples are heavy-tailed, often bimodal, and correlated within a run: quantiles are order statistics.
The intervals here are for independent samples; those of a run, and ratios, have theirs in `targets.intervals`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Sequence, Union

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Samples = Union[Sequence[float], Array]


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
