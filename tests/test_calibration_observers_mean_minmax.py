"""Means over samples of their extremes, exact whatever the batches, their order and their shards."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from calibration_nets import samples, saved, single_conv
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantize_nets import stateful

from calibration.collect import collect
from calibration.histogram import Histogram
from calibration.observers import make
from calibration.observers.base import Extremes, NonFiniteError
from calibration.observers.mean_minmax import MeanMinmax
from calibration.ranges import Ranges

RULE = MeanMinmax()
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)
TABLES = hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=ANY)


def observed(*batches: np.ndarray) -> Extremes:
    """What is remembered of batches with samples along axis 0."""
    seen = RULE.start()
    for batch in batches:
        seen.update(batch, len(batch))
    return seen


def slow(table: np.ndarray) -> tuple[float, float]:
    """Means of the rows' extremes by fractions; `float` of a fraction rounds correctly."""
    rows = [[Fraction(float(value)) for value in row] for row in table]
    return tuple(float(sum(end(row) for row in rows) / len(rows)) for end in (min, max))  # type: ignore[return-value]


@given(TABLES)
def test_it_is_the_mean_of_fractions(table):
    low, high = RULE.range(observed(table))
    assert (low, high) == slow(table)
    assert table.min() <= low <= high <= table.max()


@settings(deadline=None)
@given(TABLES, st.randoms(), st.data())
def test_neither_batches_nor_order_nor_shards_show(table, random, data):
    rows = [row[None] for row in table]
    random.shuffle(rows)
    cut = data.draw(st.integers(0, len(rows)))
    one, other = observed(*rows[:cut]), observed(*([np.concatenate(rows[cut:])] if rows[cut:] else []))
    for left, right in ((one, other), (other, one)):
        both = observed()
        both.merge(left)
        both.merge(right)
        assert both.state() == observed(table).state()


def test_a_histogram_holds_the_same():
    table = np.random.default_rng(0).standard_cauchy((9, 50)).astype(np.float32)
    histogram, other = Histogram(), Histogram()
    histogram.update(table[:4], 4)
    other.update(table[4:], 5)
    histogram.merge(other)
    assert histogram.means() == RULE.range(observed(table))


def test_one_outlier_among_the_samples_moves_it_by_its_share():
    table = np.tile(np.asarray([-1, 0, 1], np.float32), (100, 1))
    table[37, 2] = 1001
    assert RULE.range(observed(table)) == (-1, 11)


@pytest.mark.parametrize("value", [0.0, -0.1, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 1.1754942e-38])
@pytest.mark.parametrize("n", [1, 3, 1000])
def test_constants_come_back_as_they_are(value, n):
    exact = float(np.float32(value))
    assert RULE.range(observed(np.full((n, 2), value, np.float32))) == (exact, exact)


def test_what_a_sum_in_floating_point_would_lose():
    column = np.asarray([3.4028235e38, 1e-45, -3.4028235e38, 1e-45], np.float32)[:, None]
    least = 2.0**-149
    assert RULE.range(observed(column)) == (least / 2, least / 2)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 4), (12, 2)])
def test_an_axis_that_is_not_the_samples_counts_as_one(shape):
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape) - 1
    seen = RULE.start()
    seen.update(values, 4)
    assert (seen.samples, RULE.range(seen)) == (1, (values.min(), values.max()))


def test_empty_samples_do_not_count():
    seen = observed(np.zeros((3, 0), np.float32), np.asarray([[2], [4]], np.float32))
    assert (seen.samples, RULE.range(seen)) == (2, (3, 3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 5, 11])
def test_a_value_that_is_not_finite_leaves_it_as_it_was(bad, where):
    seen = observed(np.ones((2, 3), np.float32))
    before = seen.state()
    values = np.zeros((4, 3), np.float32)
    values.flat[where] = bad
    with pytest.raises(NonFiniteError) as caught:
        seen.update(values, 4)
    assert caught.value.where == where
    assert seen.state() == before


def of(path: Path, x: np.ndarray, size: int) -> Ranges:
    return collect(path, ({"x": x[i : i + size]} for i in range(0, len(x), size)), RULE)


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_a_model_is_read_sample_by_sample_whatever_its_batch(tmp_path, batch):
    x = samples(12, (3, 8, 8)) * np.linspace(0.1, 5, 12, dtype=np.float32)[:, None, None, None]
    path = saved(single_conv(batch=batch), tmp_path)
    found = of(path, x, 12).tensors["x"]
    assert (found.low, found.high) == slow(x.reshape(12, -1))
    assert of(path, x[::-1], 4).tensors["x"] == found


def test_inputs_without_a_common_axis_of_samples_are_one_sample_a_call(tmp_path):
    state = np.asarray([[[-1, 0, 0, 1]], [[-9, 0, 0, 9]]], np.float32)
    calls = [{"x": samples(1, (16,), seed=i), "state": state, "rate": np.int64(2)} for i in range(3)]
    found = collect(saved(stateful(), tmp_path), calls, RULE)
    assert (found.samples, found.tensors["state"].low, found.tensors["state"].high) == (3, -9, 9)


def test_it_goes_by_its_file():
    assert make("mean_minmax") == RULE
    assert (RULE.name(), RULE.options, RULE.ordered) == ("mean_minmax", {}, False)
