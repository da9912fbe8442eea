"""What rounding to a grid costs: squared error and KL divergence, for many grids at once, from a histogram.

A grid is what an 8-bit tensor can hold: the multiples `k · step`, `-below ≤ k ≤ above`. Zero is one of them,
and values outside go to the nearest end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Side

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = 255  # of an 8-bit range from end to end
HALF = 127  # of them to each side of zero in a symmetric scheme


def squared_error(side: Side, steps: Floats, most: int) -> Floats:
    """Summed squared rounding error of the values on one side of zero, for grids of `0…most` multiples.

    Shape `(len(steps), most + 1)`: entry `[i, k]` is for the multiples 0 to k of `steps[i]`. Within a bin the
    values count as spread evenly; a bin that a rounding boundary cuts through is split there.
    """
    k = np.arange(most + 1.0)
    bounds = steps[:, None] * (k[:-1] + 0.5)
    below = [np.pad(moment, ((0, 0), (1, 0))) for moment in _moments(side, bounds)]
    total = _moments(side, side.edges[-1:])
    levels = steps[:, None] * k
    inside = [np.diff(moment) for moment in below]
    beyond = [end - moment for end, moment in zip(total, below, strict=True)]
    rounded = np.cumsum(_around(inside, levels[:, :-1]), axis=1)
    return _around(beyond, levels) + np.pad(rounded, ((0, 0), (1, 0)))


def _around(moments: list[Floats], level: Floats) -> Floats:
    """Sum of (value - level)² of values with these sums of value⁰, value¹ and value²."""
    m0, m1, m2 = moments
    return m2 - 2 * level * m1 + level**2 * m0


def _moments(side: Side, at: Floats) -> list[Floats]:
    """Sums of value⁰, value¹ and value² over the values below each of `at`."""
    near, far = side.edges[:-1], side.edges[1:]
    at = np.clip(at, near[0], far[-1])
    bins = np.minimum(np.searchsorted(side.edges, at, side="right") - 1, len(near) - 1)
    density = side.counts / (far - near)
    starts, ends, cuts = near, far, at
    found = []
    for power in (1, 2, 3):
        whole = density * (ends - starts) / power
        found.append(_before(whole)[bins] + density[bins] * (cuts - starts[bins]) / power)
        starts, ends, cuts = starts * near, ends * far, cuts * at
    return found


@dataclass(frozen=True)
class Grids:
    """Several grids to compare: each clips at `±threshold` and counts `below` and `above` steps from zero."""

    threshold: Floats
    step: Floats
    below: Ints
    above: Ints


@dataclass(frozen=True)
class _Half:
    """What the values on one side of zero add to the divergence from each grid."""

    inside: Floats  # number of values within the threshold
    clipped: Floats  # and beyond it
    own: Floats  # Σ p·log(p / width) over the bins within, the clipped ones counted to the outermost
    cells: Floats  # (grids, multiples) number of values that round to each multiple, without the clipped ones
    full: Floats  # (grids, multiples) with them
    width: Floats  # (grids, multiples) of the bins in use


def divergence(positive: Side, negative: Side, grids: Grids) -> Floats:
    """KL divergence, in nats, of the values from what is left of their distribution on each grid.

    After Migacz, "8-bit inference with TensorRT", GTC 2017: P is the histogram within the threshold, its
    outermost bin raised by all that is clipped; Q is the histogram without those, its mass evened out over
    the bins in use that round to the same multiple. A bin rounds as its middle does. Infinite where values
    are clipped to an end that no value lies near.
    """
    sides = ((positive, grids.above), (negative, grids.below))
    one, other = (_half(side, grids, steps) for side, steps in sides)
    kept, clipped = one.inside + other.inside, one.clipped + other.clipped
    cells, full, width = (
        np.concatenate([b[:, 1:], a[:, :1] + b[:, :1], a[:, 1:]], axis=1)  # what rounds to zero is one cell
        for a, b in ((one.cells, other.cells), (one.full, other.full), (one.width, other.width))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        evened = np.where(cells > 0, full * np.log(cells / width), 0.0).sum(axis=1)
        found = (one.own + other.own - evened) / (kept + clipped) + np.log(kept / (kept + clipped))
    return np.where(kept > 0, found, np.inf)


def _half(side: Side, grids: Grids, steps: Ints) -> _Half:
    near, far = side.edges[:-1], side.edges[1:]
    used = side.counts > 0
    counts, width, middle = side.counts[used].astype(np.float64), (far - near)[used], ((near + far) / 2)[used]
    end = np.searchsorted(far[used], grids.threshold, side="right")  # the bins before it are not clipped
    bounds = grids.step[:, None] * (np.arange(steps.max()) + 0.5)
    beyond = np.arange(steps.max()) >= steps[:, None]  # the grid ends before this bound
    cuts = np.where(beyond, len(counts), np.searchsorted(middle, bounds, side="right"))
    cuts = np.pad(np.minimum(cuts, end[:, None]), ((0, 0), (1, 0)))
    cuts = np.append(cuts, end[:, None], axis=1)
    cells = np.diff(_before(counts)[cuts])
    clipped = counts.sum() - _before(counts)[end]
    full = cells.copy()
    full[np.arange(len(end)), (cuts[:, 1:-1] < end[:, None]).sum(axis=1)] += clipped
    last = np.append(counts, 0.0)[end - 1], np.append(width, 1.0)[end - 1]
    own = _before(_own(counts, width))[end] + _own(last[0] + clipped, last[1]) - _own(*last)
    own = np.where((end == 0) & (clipped > 0), np.inf, own)
    return _Half(counts.sum() - clipped, clipped, own, cells, full, np.diff(_before(width)[cuts]))


def _own(counts: Floats, width: Floats) -> Floats:
    """Counts · log(counts / width), zero where nothing is counted."""
    return counts * np.log(np.where(counts > 0, counts, width) / width)


def _before(values: Floats) -> Floats:
    """Sums of the values before each one, and of all."""
    return np.concatenate([[0.0], np.cumsum(values)])
