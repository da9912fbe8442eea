"""What the samples say of a ratio of latencies, with an interval that holds for another pair of processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt
from statistics import NormalDist

import numpy as np

from targets.distributions import student_quantile
from targets.intervals import log_quantiles, log_ratio, standard_error
from targets.stats import Interval, wilson

Blocks = Sequence[Sequence[int]]
Pair = tuple[Blocks, Blocks]  # of one launch: the baseline's, the run's

LEVEL = 0.95
POWER = 0.95
ASSUMED = 0.05  # standard deviation of log p50 from day to day, where too few past runs say better
ENOUGH = 5  # past runs from which it is estimated instead


@dataclass(frozen=True)
class Ratio:
    """Latency of the run over that of the baseline."""

    value: float
    low: float
    high: float
    reach: float  # what a true log ratio must lie above the limit for the interval to, 95 times of 100

    def detectable(self, tolerance: float) -> float:
        """The least true slowdown, in percent, that fails 95 times of 100 with `tolerance` in percent."""
        return 100 * ((1 + tolerance / 100) * exp(self.reach) - 1)


def interleaved(pairs: Sequence[Pair], q: float) -> Ratio:
    """The ratio of q-quantiles from launches: pairs of fresh processes with interleaved blocks.

    A process's memory layout shifts its latency for as long as it lives, so the launch is the unit: Student's
    interval over the launches' log ratios. Needs two or more.
    """
    return of_launches([log_ratio(run, baseline, q) for baseline, run in pairs])


def of_launches(log_ratios: Sequence[float]) -> Ratio:
    """The ratio from that of each launch."""
    logs = np.array(log_ratios)
    return _ratio(float(logs.mean()), standard_error(logs), len(logs) - 1)


def stored(a: Sequence[Blocks], b: Sequence[Blocks], q: float, past_p50: Sequence[float]) -> Ratio:
    """The ratio from launches of two days, the interval widened by how much days differ on this machine.

    `past_p50` are those of past runs with this fingerprint, in order. Their successive differences say how much a
    day moves a latency, and shifts that came with a change of the model count but once.
    """
    day, known = day_to_day(past_p50)
    error = sqrt(_own_error(a, q) ** 2 + _own_error(b, q) ** 2 + 2 * day**2)
    value = float(log_quantiles(b, q).mean() - log_quantiles(a, q).mean())
    return _ratio(value, error, known)


def day_to_day(past_p50: Sequence[float]) -> tuple[float, int]:
    """Standard deviation of log p50 between days, and its degrees of freedom (0: assumed, not measured)."""
    if len(past_p50) < ENOUGH:
        return ASSUMED, 0
    steps = np.diff(np.log(np.asarray(past_p50, np.float64)))
    # 1.4826: a median of absolute values as a standard deviation, for the normal; one real shift hardly moves it
    robust = 1.4826 * float(np.median(np.abs(steps))) / sqrt(2)
    return robust, len(past_p50) - 1


def newcombe(baseline: int, of: int, run: int, among: int) -> Interval:
    """How much a share fell, `baseline / of - run / among`, with a 95% interval.

    Newcombe's hybrid score interval (Statistics in Medicine 1998, method 10): sound near 0 and 1.
    """
    before, now = wilson(baseline, of, LEVEL), wilson(run, among, LEVEL)
    lost = before.value - now.value
    low = lost - sqrt((before.value - before.low) ** 2 + (now.high - now.value) ** 2)
    high = lost + sqrt((before.high - before.value) ** 2 + (now.value - now.low) ** 2)
    return Interval(lost, low, high, LEVEL)


def _own_error(launches: Sequence[Blocks], q: float) -> float:
    """Standard error of a run's log quantile, from its processes as units."""
    logs = log_quantiles(launches, q)
    return standard_error(logs) if len(logs) > 1 else ASSUMED


def _ratio(value: float, error: float, freedom: int) -> Ratio:
    tail = (1 - LEVEL) / 2
    bound = student_quantile(1 - tail, freedom) if freedom else NormalDist().inv_cdf(1 - tail)
    power = student_quantile(POWER, freedom) if freedom else NormalDist().inv_cdf(POWER)
    return Ratio(exp(value), exp(value - bound * error), exp(value + bound * error), (bound + power) * error)
