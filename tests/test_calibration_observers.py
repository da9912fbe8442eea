import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.errors import CalibrationError
from calibration.observers import make, names
from calibration.observers.minmax import Minmax
from calibration.observers.percentile import Percentile

UNORDERED = [name for name in names() if not make(name).ordered]


def test_files_are_the_names():
    assert {"minmax", "mean_minmax", "percentile", "entropy", "mse", "moving_average"} <= set(names())
    assert set(names()) - set(UNORDERED) == {"moving_average"}
    assert make("minmax") == Minmax()
    assert make("percentile", percentile=99.0) == Percentile(99.0)


@pytest.mark.parametrize("name", names())
class TestEvery:
    def test_range_lies_within_the_extremes_and_holds_most_values(self, name):
        observer = make(name)
        values = np.random.default_rng(0).normal(1, 2, 5000).astype(np.float32)
        seen = observer.start()
        seen.update(values)
        low, high = observer.range(seen)
        assert values.min() <= low < high <= values.max()
        assert np.mean((values >= low) & (values <= high)) > 0.99

    def test_magnitude_lies_within_the_extremes_and_keeps_most_values(self, name):
        observer = make(name)
        values = np.random.default_rng(0).normal(1, 2, 5000).astype(np.float32)
        seen = observer.start()
        seen.update(values)
        found = observer.magnitude(seen)
        if found is not None:
            assert found <= np.abs(values).max()
            assert np.mean(np.abs(values) <= found) > 0.99

    @pytest.mark.parametrize("value", [0.0, 3.5, -1e-8])
    def test_constant_tensors(self, name, value):
        observer = make(name)
        seen = observer.start()
        seen.update(np.full(50, value, np.float32))
        low, high = observer.range(seen)
        assert (low, high) == (np.float32(value), np.float32(value))
        assert observer.magnitude(seen) in (None, pytest.approx(abs(np.float32(value)), rel=1 / 64))

    @pytest.mark.parametrize("values", [[0, 1e-42], [-1e-42, 1e-44], [-3e38, 3e38], [0, 0, 1e-30]])
    def test_the_ends_of_float32(self, name, values):
        observer = make(name)
        seen = observer.start()
        seen.update(np.asarray(values, np.float32))
        low, high = observer.range(seen)
        assert np.float32(min(values)) <= low <= high <= np.float32(max(values))
        magnitude = observer.magnitude(seen)
        assert magnitude is None or 0 < magnitude <= np.float32(np.abs(values).max())

    def test_configuration_and_state_are_json(self, name):
        observer = make(name)
        seen = observer.start()
        seen.update(np.arange(-3, 9, dtype=np.float32))
        copy = observer.start()
        copy.restore(json.loads(json.dumps(seen.state())))
        assert observer.range(copy) == observer.range(seen)
        assert make(observer.name(), **json.loads(json.dumps(observer.options))) == observer


@pytest.mark.parametrize("name", UNORDERED)
def test_shards_and_order_give_the_same(name):
    observer = make(name)
    parts = np.random.default_rng(1).standard_cauchy((6, 1000)).astype(np.float32)
    whole, left, right = observer.start(), observer.start(), observer.start()
    for part in parts:
        whole.update(part)
    for part in parts[3:][::-1]:
        left.update(part)
    for part in parts[:3]:
        right.update(part)
    left.merge(right)
    assert observer.range(left) == observer.range(whole)
    assert observer.magnitude(left) == observer.magnitude(whole)


def test_percentile_cuts_both_tails():
    values = np.random.default_rng(0).standard_cauchy(100_000).astype(np.float32)
    observer = Percentile(99.0)
    seen = observer.start()
    seen.update(values)
    assert observer.range(seen) == pytest.approx(tuple(np.percentile(values, [1, 99])), rel=1 / 128)


def test_percentile_of_a_sparse_relu_output_is_not_that_of_its_zeros():
    observer = Percentile(99.0)
    seen = observer.start()
    values = np.zeros(100_000, np.float32)
    values[:200] = np.linspace(1, 2, 200)
    seen.update(values)
    low, high = observer.range(seen)
    assert high == pytest.approx(1.99, rel=1 / 128)
    assert low >= 0


@pytest.mark.parametrize("bad", [50, 0, -1, 100.1])
def test_impossible_percentiles(bad):
    with pytest.raises(CalibrationError, match="percentile is"):
        Percentile(bad)


def test_unknown_names_and_options():
    with pytest.raises(CalibrationError, match=r"no observer named 'minmx'; have: .*minmax"):
        make("minmx")
    with pytest.raises(CalibrationError, match="percentile has no option 'bins'; have: percentile"):
        make("percentile", bins=3)


@settings(deadline=None)
@given(
    st.floats(90, 100),
    hnp.arrays(
        np.float32, st.integers(1, 60), elements=st.floats(0.125, 1e4, width=32) | st.floats(-1e4, -1, width=32)
    ),
)
def test_percentile_clips_nothing_where_less_than_one_value_would_be(percentile, values):
    observer = Percentile(percentile)
    seen = observer.start()
    seen.update(values)
    low, high = observer.range(seen)
    allowed = len(values) * (1 - percentile / 100)
    if allowed < 0.999:
        assert (low, high) == (values.min(), values.max())
    beyond = (values < low - abs(low) / 128).sum(), (values > high + abs(high) / 128).sum()
    assert max(beyond) <= allowed + 0.001
    seen.update(np.zeros(10_000, np.float32))
    assert observer.range(seen) == pytest.approx((low, high), rel=1 / 128)


@pytest.mark.parametrize(("n", "clipped"), [(6, 0), (9_999, 0), (10_000, 1), (20_000, 2)])
def test_percentile_begins_to_clip_with_the_first_whole_value(n, clipped):
    values = np.linspace(1, 2, n, dtype=np.float32)
    values[-3:], values[:3] = (10, 20, 30), (0.1, 0.2, 0.3)
    observer = Percentile()
    seen = observer.start()
    seen.update(values)
    low, high = observer.range(seen)
    assert high == pytest.approx(values[n - 1 - clipped], rel=1 / 128)
    assert low == pytest.approx(values[clipped], rel=1 / 128)
