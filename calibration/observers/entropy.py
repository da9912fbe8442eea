"""Entropy: the range that keeps most of what the distribution of the values tells (KL divergence)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.grids import HALF, STEPS, Grids, divergence
from calibration.histogram import Histogram, Side
from calibration.observers.base import Observer

_DEEPEST = 16  # the least threshold tried, as a share of the greatest value: TensorRT's 128 of 2048 bins
_STRIDE = 8  # histogram bins from one threshold tried to the next: 1 to 3% of it
_BODY = 0.999  # share of the values that tells where the distribution ends and its outliers begin


@dataclass(frozen=True)
class Entropy(Observer[Histogram]):
    """The threshold of least KL divergence between the values and their 8-bit image, as TensorRT calibrates.

    Thresholds down to a sixteenth of the greatest value are tried (of the 99.9% quantile of the magnitudes,
    so that an outlier does not end the search early). What rounds to zero whichever of them is chosen is left
    out: counted in, the zeros of a ReLU would drown all else.

    Szymon Migacz, "8-bit inference with TensorRT", GTC 2017.
    """

    def start(self) -> Histogram:
        """Remember a histogram."""
        return Histogram()

    def range(self, seen: Histogram) -> tuple[float, float]:
        """Return the best threshold to both sides, cut to the extremes, over 255 steps from end to end."""
        if seen.minimum == seen.maximum or seen.zeros == seen.count:
            return seen.minimum, seen.maximum
        positive, negative, thresholds = _searched(seen)
        low = np.maximum(-thresholds, min(seen.minimum, 0.0))
        high = np.minimum(thresholds, max(seen.maximum, 0.0))
        step = (high - low) / STEPS
        below = np.rint(-low / step).astype(np.int64)
        best = int(np.argmin(divergence(positive, negative, Grids(thresholds, step, below, STEPS - below))))
        return max(float(low[best]), seen.minimum), min(float(high[best]), seen.maximum)

    def magnitude(self, seen: Histogram) -> float:
        """Return the best threshold over 127 steps to each side."""
        greatest = max(-seen.minimum, seen.maximum)
        if seen.zeros == seen.count:
            return greatest
        positive, negative, thresholds = _searched(seen)
        half = np.full(len(thresholds), HALF)
        best = int(np.argmin(divergence(positive, negative, Grids(thresholds, thresholds / HALF, half, half))))
        return min(float(thresholds[best]), greatest)


def _searched(seen: Histogram) -> tuple[Side, Side, NDArray[np.float64]]:
    """Both sides without what rounds to zero on every grid, and the thresholds to try."""
    sides = seen.sides()
    edges, counts = sides[0].edges, sides[0].counts + sides[1].counts
    top = int(np.flatnonzero(counts)[-1]) + 1
    total = np.cumsum(counts)
    body = edges[int(np.searchsorted(total, _BODY * total[-1])) + 1]
    least = int(np.searchsorted(edges, body / _DEEPEST))
    thresholds = edges[top : max(least, 1) - 1 : -_STRIDE]
    zero = int(np.searchsorted(edges, thresholds[-1] / (2 * STEPS)))
    positive, negative = (Side(edges[zero:], side.counts[zero:]) for side in sides)
    return positive, negative, thresholds
