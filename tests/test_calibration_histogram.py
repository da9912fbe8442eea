import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.errors import CalibrationError
from calibration.histogram import Histogram
from calibration.observers.base import NonFiniteError

BIN = 1 / 256  # a bin's width as a share of its value

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, st.integers(1, 50), elements=finite)


def seen(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.update(part)
    return histogram


def reference_bins(values: np.ndarray) -> dict[float, int]:
    """Counts by the lower edge of magnitude bins, one value at a time, knowing the greatest in advance."""
    top = int(np.frexp(np.abs(values).max())[1])
    counts: dict[float, int] = {}
    for value in values.astype(np.float64):
        mantissa, exponent = np.frexp(abs(value))
        if value == 0 or exponent <= top - 32:
            continue
        edge = float(np.ldexp(np.floor(mantissa * 512) / 512, int(exponent)) * np.sign(value))
        counts[edge] = counts.get(edge, 0) + 1
    return counts


@settings(deadline=None)
@given(st.lists(arrays, min_size=1, max_size=5), st.randoms())
def test_neither_order_nor_sharding_shows(parts, random):
    whole = seen(*parts).state()
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert seen(*shuffled).state() == whole
    shards = [seen(part) for part in shuffled]
    merged = reduce(lambda a, b: a.merge(b) or a, shards)
    assert merged.state() == whole


@settings(deadline=None)
@given(hnp.arrays(np.float32, 60, elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)))
def test_bins_equal_a_count_one_by_one(values):
    histogram = seen(values)
    low, high, counts = histogram.bins()
    nearer = np.where(low >= 0, low, high)
    if np.abs(values).max() > 1e-20:
        found = dict(zip(nearer.tolist(), counts.tolist(), strict=True))
        assert found == reference_bins(values)
    assert histogram.zeros + counts.sum() == histogram.count == 60
    assert (low < high).all()
    assert (np.diff(low) > 0).all()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["normal", "uniform", "lognormal", "cauchy", "negative"])
def test_quantile_is_within_a_bin_of_what_whole_values_in_the_tail_leave(kind, share):
    rng = np.random.default_rng(3)
    values = {
        "normal": rng.normal(0, 2, 20000),
        "uniform": rng.uniform(3, 7, 20000),
        "lognormal": rng.lognormal(0, 2, 20000),
        "cauchy": rng.standard_cauchy(20000),
        "negative": -rng.exponential(5, 20000),
    }[kind].astype(np.float32)
    beyond = int(20000 * min(share, 1 - share) + 1e-9)
    exact = np.sort(values)[beyond if share < 0.5 else 19999 - beyond]
    assert abs(seen(*np.array_split(values, 7)).quantile(share) - exact) <= BIN * abs(exact)


def test_one_outlier_does_not_cost_the_others_their_resolution():
    values = np.random.default_rng(0).normal(0, 1, 10000).astype(np.float32)
    exact = np.quantile(values, 0.99, method="lower")
    with_outlier = seen(np.append(values, np.float32(1e6)))
    assert with_outlier.quantile(0.99) == pytest.approx(exact, rel=2 * BIN)
    assert with_outlier.quantile(1.0) == pytest.approx(1e6)


def test_zeros_have_no_say_in_a_quantile():
    rng = np.random.default_rng(0)
    positive = rng.exponential(1, 1000).astype(np.float32)
    sparse = np.concatenate([positive, np.zeros(10**6, np.float32), -np.zeros(5, np.float32)])
    assert seen(sparse).quantile(0.5) == seen(positive).quantile(0.5)
    assert seen(sparse).zeros == 10**6 + 5


def test_constant_and_all_zero_tensors():
    assert seen(np.full(100, 0.3, np.float32)).quantile(0.5) == np.float32(0.3)
    assert seen(np.full(100, -7e-30, np.float32)).quantile(0.999) == np.float32(-7e-30)
    assert seen(np.zeros(100, np.float32)).quantile(0.999) == 0.0


def test_memory_does_not_grow_with_samples():
    rng = np.random.default_rng(0)
    histogram = Histogram()
    sizes = set()
    for scale in (1, 1e-6, 1e9, 1):
        for _ in range(20):
            histogram.update((rng.standard_cauchy(1000) * scale).astype(np.float32))
        sizes.add(sum(v.nbytes for v in vars(histogram).values() if isinstance(v, np.ndarray)))
    assert sizes == {2 * (32 * 256 + 1) * 8}


def test_state_survives_json():
    histogram = seen(np.random.default_rng(0).normal(0, 1, 500).astype(np.float32))
    copy = Histogram()
    copy.restore(json.loads(json.dumps(histogram.state())))
    assert copy.state() == histogram.state()
    assert copy.quantile(0.9) == histogram.quantile(0.9)


def test_merging_leaves_the_other_as_it_was():
    big, small = seen(np.asarray([1e30], np.float32)), seen(np.asarray([1e-3, 2.0], np.float32))
    before = small.state()
    big.merge(small)
    assert small.state() == before
    assert (big.zeros, big.count) == (2, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(bad):
    histogram = seen(np.ones(3, np.float32))
    values = np.zeros((4, 5), np.float32)
    values[2, 3] = bad
    before = histogram.state()
    with pytest.raises(NonFiniteError) as caught:
        histogram.update(values)
    assert caught.value.where == 13
    assert histogram.state() == before


def test_nothing_seen_is_an_error_and_empty_arrays_are_nothing():
    histogram = seen(np.zeros((0, 3), np.float32))
    with pytest.raises(CalibrationError, match="at least one sample"):
        histogram.state()
