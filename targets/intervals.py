"""Intervals for what processes did: samples of one process hang together, and only processes are independent.

Within a process, calls that follow each other are correlated, and where its memory happens to lie shifts all of
them for as long as it lives. An interval that takes the calls for independent is then several times too narrow.
Here the processes ("launches") are the units; with fewer than three of them, stretches of successive rounds.
"""

from __future__ import annotations

from itertools import accumulate
from math import ceil, exp, floor, inf, log, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, List, Sequence, Tuple, TypeVar

import numpy as np

from targets.distributions import beta_quantiles, student_quantile
from targets.stats import Interval, quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Block = TypeVar("Block")
Launch = Sequence[Any]  # what one process did: a block of call times (Samples) for each round
MEDIAN = 0.5
UNITS = 3  # processes that are units; fewer say nothing of how much processes differ
STRETCHES = 8  # that the rounds of fewer processes are cut into
NEAR = 1  # rounds that two calls may lie apart to be compared
MOST = 32  # order statistics that a block of more calls is compared by
BEYOND = 3.0  # times the number of samples: more than that are not worth, however alike the units are


def quantile_of(launches: Sequence[Launch], q: float, level: float = 0.95) -> Interval:
    """The q-quantile over all samples, with an interval that holds for correlated and clustered samples.

    The variance of the share of samples at or below the quantile is taken between units; the number of
    independent samples that would have it, corrected by Student's t for the few units, gives an interval of
    that share (Jeffreys), which is read off the ordered samples: Woodruff, JASA 1952; Korn and Graubard,
    Survey Methodology 1998. Nothing is assumed of the distribution of the times.

    Where the effective number of samples is too small for any order statistic to bound the quantile, the bound
    is the extreme sample, and the interval's own `level` says what that is worth.
    """
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, got {q}")
    units = _units(launches)
    ordered = np.sort(np.concatenate(units))
    n = len(ordered)
    value = quantile(ordered, q)
    effective = effective_samples(units, value, q, level)
    tail = (1 - level) / 2
    low, high = beta_quantiles(q * effective + 0.5, (1 - q) * effective + 0.5, tail)
    # No sample of so few lies beyond the quantile, with this probability.
    none_below, none_above = (1 - q) ** floor(effective), q ** floor(effective)
    rank = max(1, ceil(q * n - 1e-9))  # as `quantile` has it
    first = 1 if none_below > tail else max(1, min(rank, round(low * (n + 1))))
    last = n if none_above > tail else min(n, max(rank, round(high * (n + 1))))
    covered = 1 - max(tail, none_below) - max(tail, none_above)
    return Interval(value, float(ordered[first - 1]), float(ordered[last - 1]), max(0.0, covered))


def uncertainty(launches: Sequence[Launch], q: float, level: float = 0.95) -> float:
    """The longer half of a quantile's interval as a share of it; infinite where the samples are too few for `level`."""
    found = quantile_of(launches, q, level)
    if found.level < level - 1e-9:
        return inf
    return max(found.high - found.value, found.value - found.low) / found.value


def effective_samples(units: Sequence[Array], value: float, q: float, level: float = 0.95) -> float:
    """How many independent samples would tell as much of the quantile `value` as these units do, at `level`."""
    sizes = np.array([len(unit) for unit in units], np.float64)
    if len(units) < 2:
        return float(sizes.sum())
    shares = np.array([np.mean(unit <= value) for unit in units])
    off = sizes * (shares - (sizes * shares).sum() / sizes.sum())
    # Once more than the estimate without bias: where whole processes are slow, shares are skewed, and so few of
    # them tell too little of their variance. In simulation 92% were covered without, 94% with (docs/measuring.md).
    variance = float((off**2).sum()) * (len(units) / (len(units) - 1) / float(sizes.sum())) ** 2
    p = (1 + level) / 2
    fewer = (NormalDist().inv_cdf(p) / student_quantile(p, len(units) - 1)) ** 2
    most = BEYOND * float(sizes.sum())
    return max(1.0, most if variance == 0 else min(most, q * (1 - q) / variance * fewer))


def ratio(a: Sequence[Launch], b: Sequence[Launch], q: float = 0.5, level: float = 0.95) -> Interval:
    """The q-quantile of `a` over that of `b`, which were timed interleaved: launch by launch, round by round.

    The geometric mean over units of the ratio of each, with Student's t on the logarithms. What disturbs a unit
    disturbs both sides of it and leaves its ratio alone; between units there is a process's luck. A bootstrap
    over 8 launches covers less (docs/adr/0005-measurement.md).

    Raises ValueError for fewer than 3 rounds, or rounds that are not paired.
    """
    logs = log_ratios(a, b, q)
    middle, half = float(logs.mean()), half_width(logs, level)
    return Interval(exp(middle), exp(middle - half), exp(middle + half), level)


def log_ratios(a: Sequence[Launch], b: Sequence[Launch], q: float) -> Array:
    """The `log_ratio` of each unit."""
    if [len(launch) for launch in a] != [len(launch) for launch in b] or sum(map(len, a)) < UNITS:
        raise ValueError("a ratio needs the same 3 or more rounds of both")
    return np.array([log_ratio(ours, theirs, q) for ours, theirs in zip(_grouped(a), _grouped(b))])


def log_ratio(a: Launch, b: Launch, q: float) -> float:
    """The logarithm of the ratio of q-quantiles of one unit, whose rounds are paired.

    For the median it is the shift of Hodges and Lehmann (Annals of Mathematical Statistics 1963) between calls
    that are neighbours in time: the median ratio of all pairs of one call of each, from the same round or the
    next. What slows a stretch of time slows both of a pair and cancels, while in pooled samples it moves both
    medians by where it happened to fall. On two shared cores it varied 10 to 27% less than the median of the
    rounds' ratios. A block has too few calls for the outer quantiles, which are of the pooled samples.
    """
    if q == MEDIAN:
        return float(np.median(_near_log_ratios(a, b)))
    return log(quantile(_pooled(a), q) / quantile(_pooled(b), q))


def log_quantiles(launches: Sequence[Launch], q: float) -> Array:
    """The logarithm of the q-quantile of each unit."""
    return np.log([quantile(unit, q) for unit in _units(launches)])


def cut(blocks: Sequence[Block], rounds: Sequence[int]) -> Tuple[Tuple[Block, ...], ...]:
    """Blocks in a row as launches of so many rounds each; of one launch where `rounds` is empty."""
    ends = list(accumulate(rounds or (len(blocks),)))
    return tuple(tuple(blocks[start:end]) for start, end in zip([0, *ends], ends))


def half_width(values: Array, level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean of two or more values."""
    return student_quantile((1 + level) / 2, len(values) - 1) * standard_error(values)


def standard_error(values: Array) -> float:
    """Of the mean of two or more values."""
    return float(values.std(ddof=1)) / sqrt(len(values))


def _near_log_ratios(a: Launch, b: Launch) -> Array:
    """The logarithm of the ratio of each pair of calls that lie NEAR each other."""
    ours, theirs = ([np.log(_thinned(block)) for block in side] for side in (a, b))
    count = len(ours)
    pairs = [(i, j) for i in range(count) for j in range(max(0, i - NEAR), min(count, i + NEAR + 1))]
    return np.concatenate([np.subtract.outer(ours[i], theirs[j]).ravel() for i, j in pairs])


def _thinned(block: Block) -> Array:
    """Call times, or as many of their quantiles as the pairs of long blocks can do with."""
    times = np.asarray(block, np.float64)
    return times if len(times) <= MOST else np.quantile(times, (np.arange(MOST) + 0.5) / MOST)


def _grouped(launches: Sequence[Launch]) -> List[Launch]:
    """The units of launches whose rounds must stay together: launches, or stretches of rounds.

    A stretch may hold the end of one launch and the start of the next, and all count them as neighbours.
    """
    if len(launches) >= UNITS:
        return list(launches)
    rounds = [block for launch in launches for block in launch]
    return [rounds[first:end] for first, end in _cuts(len(rounds))]


def _units(launches: Sequence[Launch]) -> List[Array]:
    """The samples of each unit; too few rounds are cut amid."""
    if not any(len(block) for launch in launches for block in launch):
        raise ValueError("no samples")
    if len(launches) >= UNITS or sum(map(len, launches)) >= STRETCHES:
        return [_pooled(unit) for unit in _grouped(launches)]
    samples = _pooled([block for launch in launches for block in launch])
    return [samples[first:end] for first, end in _cuts(len(samples))]


def _pooled(blocks: Launch) -> Array:
    return np.concatenate([np.asarray(block, np.float64) for block in blocks])


def _cuts(count: int) -> List[Tuple[int, int]]:
    """Where `count` things in a row are cut into at most STRETCHES of about the same length."""
    edges = np.linspace(0, count, min(STRETCHES, count) + 1).round().astype(int).tolist()
    return [(edges[i], edges[i + 1]) for i in range(len(edges) - 1)]
