"""A histogram of fixed size that needs no range in advance, merges without loss, and resolves heavy tails.

Bins are floating-point numbers themselves: sign, exponent and the first bits of the mantissa of each value
(as in HdrHistogram and DDSketch), so that each bin's width is a fixed share of its value. A uniform histogram
spends its bins on the range, which a single outlier stretches until everything else lies in one bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.observers.base import Extremes, Values

Counts = NDArray[np.int64]

_MANTISSA = 8  # bits kept of it: bins are 1/256 of their octave wide
_SHIFT = 23 - _MANTISSA
_MAGNITUDE = np.int32(0x7FFFFFFF)
_OCTAVES = 32  # kept below the greatest magnitude; int8 cannot tell what is smaller from zero
_SIZE = _OCTAVES << _MANTISSA
_END = 2.0**128  # what the greatest float32 stays below
_FUZZ = 1e-9  # that a share of a count may be off: 10,000 · (1 - 0.9999) is a whole value, and computed as less
_TAKEN = 1 << 16  # values counted at once: with their keys they stay in a core's own cache


@dataclass(frozen=True)
class Side:
    """The values of one sign, by magnitude: `counts[i]` of them lie in `edges[i]` ≤ magnitude < `edges[i + 1]`."""

    edges: NDArray[np.float64]
    counts: Counts


class Histogram(Extremes):
    """Counts of values by magnitude, to 1/256, over 32 octaves below the greatest magnitude seen.

    When a greater magnitude arrives, the octaves move up and the lowest ones become zeros. Edges never move
    (they are powers of two and their 256ths), so what is left depends only on the values, not on their order
    or their split over shards. 131 kB, whatever it has seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first = 1  # key (leading bits) of the lowest bin; zero and the least subnormals lie below
        # a row for values ≥ 0 and one for values < 0; column 0 counts what lies below the lowest bin
        self._counts: Counts = np.zeros((2, _SIZE + 1), np.int64)

    @property
    def zeros(self) -> int:
        """How many values are zero, or too small beside the greatest magnitude."""
        return int(self._counts[:, 0].sum())

    def update(self, values: Values, samples: int = 1) -> None:
        """Take in float32 values of any shape, of `samples` samples. Raises NonFiniteError, with nothing taken in."""
        super().update(values, samples)
        if not values.size:
            return
        self._rise(_first_for(max(-self.minimum, self.maximum)))
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        rows = 1 if self.minimum >= 0 else 2  # without values < 0, half the bins to count
        for start in range(0, flat.size, _TAKEN):
            bins = self._bins_of(flat[start : start + _TAKEN], rows)
            self._counts[:rows] += np.bincount(bins, minlength=rows * (_SIZE + 1)).reshape(rows, -1)

    def merge(self, other: Histogram) -> None:
        """Take in what `other` saw."""
        super().merge(other)
        self._rise(other._first)
        self._counts += _raised(other._counts, self._first - other._first)

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain JSON values; bins as `[row, column, count]` of those in use."""
        bins = [[int(i), int(j), int(self._counts[i, j])] for i, j in np.argwhere(self._counts)]
        return {**super().state(), "first": self._first, "bins": bins}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` describes."""
        super().restore(state)
        self._first = state["first"]
        self._counts = np.zeros_like(self._counts)
        for i, j, count in state["bins"]:
            self._counts[i, j] = count

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64], Counts]:
        """Lower edges, upper edges and counts of the bins in use, ascending; zeros are not among them."""
        positive, negative = (np.flatnonzero(row[1:]) for row in self._counts)
        negative = negative[::-1]
        near_p, far_p = self._edges(positive)
        near_n, far_n = self._edges(negative)
        counts = np.concatenate([self._counts[1, 1 + negative], self._counts[0, 1 + positive]])
        return np.concatenate([-far_n, near_p]), np.concatenate([-near_n, far_p]), counts

    def sides(self) -> tuple[Side, Side]:
        """The values > 0 and those < 0, in all bins, used or not; zeros are in neither."""
        near, far = self._edges(np.arange(_SIZE))
        edges = np.append(near, far[-1])
        return Side(edges, self._counts[0, 1:]), Side(edges, self._counts[1, 1:])

    def quantile(self, share: float) -> float:
        """Return the value that `share` of the non-zero values do not exceed, 0 ≤ share ≤ 1.

        Beyond it, in the nearer tail of the `n` values, lie as many whole values as that share of `n` has: none
        where that is less than one, and then it is an extreme. It lies in the bin of the value of that rank,
        where values are taken for evenly spread. Zero if nothing but zeros was seen.
        """
        low, high, counts = self.bins()
        if not counts.size:
            return 0.0
        n = int(counts.sum())
        lower = share < 0.5
        beyond = int(n * min(share, 1 - share) + _FUZZ)
        rank = beyond if lower else n - 1 - beyond
        before = np.cumsum(counts) - counts
        at = int(np.searchsorted(before, rank, side="right")) - 1
        # a bin has its least value at its beginning and its greatest at its end, so that the ends clip nothing
        inside = (0.0 if lower else 1.0) if not beyond else (rank - before[at] + share) / counts[at]
        value = low[at] + inside * (high[at] - low[at])
        return float(np.clip(value, self.minimum, self.maximum))

    def _bins_of(self, values: Values, rows: int) -> NDArray[np.int32]:
        """The flat bin numbers of a part of the values, by integer operations on their bits."""
        below = np.int32(self._first - 1)
        column = values.view(np.int32) & _MAGNITUDE
        column >>= _SHIFT
        np.maximum(column, below, out=column)
        column -= below
        if rows == 2:
            column += (values < 0) * np.int32(_SIZE + 1)
        return column

    def _edges(self, columns: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Magnitudes where bins begin and end: the floats whose leading bits are their keys, and the next."""
        keys = columns.astype(np.int32) + np.int32(self._first)
        near, far = (((keys + step) << _SHIFT).view(np.float32).astype(np.float64) for step in (0, 1))
        return near, np.minimum(far, _END)

    def _rise(self, first: int) -> None:
        if first > self._first:
            self._counts = _raised(self._counts, first - self._first)
            self._first = first


def _first_for(greatest: float) -> int:
    """Key of the lowest bin where `greatest` is the greatest magnitude."""
    exponent = int(np.float32(greatest).view(np.int32)) >> 23
    return max((exponent - _OCTAVES + 1) << _MANTISSA, 1)


def _raised(counts: Counts, up: int) -> Counts:
    """Counts of bins that begin `up` higher: those which fall below join column 0."""
    if not up:
        return counts
    raised = np.zeros_like(counts)
    raised[:, 0] = counts[:, : up + 1].sum(axis=1)
    kept = counts[:, up + 1 :]
    raised[:, 1 : 1 + kept.shape[1]] = kept
    return raised
