import math

import numpy as np
import pytest
from test_calibration_grids import slow_divergence

from calibration.histogram import Histogram, Side
from calibration.observers.entropy import Entropy

RNG = np.random.default_rng
KINDS = {
    "normal": lambda n: RNG(0).normal(0.3, 1, n),
    "relu": lambda n: np.maximum(RNG(1).normal(0, 1, n), 0),
    "cauchy": lambda n: RNG(2).standard_cauchy(n),
    "negative": lambda n: -RNG(3).exponential(2, n),
    "silu": lambda n: (x := RNG(4).normal(0, 2, n)) / (1 + np.exp(-x)),
}


def seen(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(values.astype(np.float32))
    return histogram


def counted(values: np.ndarray) -> dict[int, list[int]]:
    """Counts by (octave · 256 + share of it), for values above and below zero, one value at a time."""
    found: dict[int, list[int]] = {}
    for value in values.astype(np.float32).astype(np.float64):
        if value:
            mantissa, exponent = math.frexp(abs(value))
            found.setdefault(exponent * 256 + math.floor((2 * mantissa - 1) * 256), [0, 0])[int(value < 0)] += 1
    return found


def edge(key: int) -> float:
    return math.ldexp(1 + (key % 256) / 256, key // 256 - 1)


def slow_search(values: np.ndarray, symmetric: bool) -> float:
    """The threshold of least divergence: every eighth bin edge, down to a sixteenth of the 99.9% quantile."""
    bins = counted(values)
    top = max(bins)
    total, below, body = sum(map(sum, bins.values())), 0, 0
    for key in sorted(bins):
        below += sum(bins[key])
        if below >= 0.999 * total:
            body = key + 1
            break
    keys = [k for k in range(top + 1, top - 256 * 40, -8) if edge(k) >= edge(body) / 16]
    zero = edge(keys[-1]) / 510
    used = sorted(k for k in bins if edge(k) >= zero)
    first, last = used[0], used[-1] + 1
    edges = np.asarray([edge(k) for k in range(first, last + 1)])
    sides = [Side(edges, np.asarray([bins.get(k, [0, 0])[i] for k in range(first, last)])) for i in (0, 1)]
    best = (math.inf, 0.0)
    for threshold in map(edge, keys):
        low, high = max(-threshold, values.min(), -math.inf), min(threshold, values.max())
        low, high = min(low, 0.0), max(high, 0.0)
        step, ends = ((high - low) / 255, (round(-low / ((high - low) / 255)),))
        ends = (127, 127) if symmetric else (ends[0], 255 - ends[0])
        step = threshold / 127 if symmetric else step
        best = min(best, (slow_divergence(*sides, threshold, step, ends), threshold))
    return best[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_equals_that_of_a_search_in_plain_loops(kind):
    values = KINDS[kind](300).astype(np.float32)
    observer, histogram = Entropy(), seen(values)
    threshold = slow_search(values, symmetric=False)
    low, high = max(-threshold, float(values.min())), min(threshold, float(values.max()))
    assert observer.range(histogram) == pytest.approx((low, high), rel=1e-5)
    threshold = min(slow_search(values, symmetric=True), float(np.abs(values).max()))
    assert observer.magnitude(histogram) == pytest.approx(threshold, rel=1e-5)


def test_the_zeros_of_a_relu_have_no_say():
    values = np.maximum(RNG(0).normal(0, 1, 200_000), 0).astype(np.float32)
    observer = Entropy()
    plain = seen(values[values > 0])
    drowned = seen(np.append(values, np.zeros(5_000_000, np.float32)))
    assert observer.range(drowned)[1] == observer.range(plain)[1]
    assert observer.magnitude(drowned) == observer.magnitude(plain)
    assert observer.range(drowned)[1] > 3


def test_values_next_to_zero_do_not_pull_the_threshold_in():
    body = RNG(0).normal(0, 1, 100_000)
    dust = RNG(1).lognormal(-20, 3, 100_000)
    alone, dusty = (Entropy().range(seen(v)) for v in (body, np.append(body, dust)))
    assert dusty == pytest.approx(alone, rel=0.05)


def test_a_one_sided_tensor_has_all_the_steps_on_its_side():
    values = np.abs(RNG(0).laplace(0, 1, 500_000))
    low, high = Entropy().range(seen(values))
    assert low == np.float32(values.min())
    mirrored_low, mirrored_high = Entropy().range(seen(-values))
    assert (-mirrored_high, -mirrored_low) == pytest.approx((low, high))
    assert high != Entropy().magnitude(seen(values))  # half the steps weigh otherwise


@pytest.mark.parametrize("outlier", [1e2, 1e6, 1e8])
def test_an_outlier_is_clipped_however_far(outlier):
    values = np.append(RNG(0).normal(0, 1, 200_000), outlier)
    low, high = Entropy().range(seen(values))
    assert 3 < high < 6
    assert -6 < low < -3


def test_scale_does_not_matter():
    values = RNG(0).laplace(0, 1, 50_000).astype(np.float32)
    low, high = Entropy().range(seen(values))
    assert Entropy().range(seen(values * 2**-40)) == (low * 2**-40, high * 2**-40)
