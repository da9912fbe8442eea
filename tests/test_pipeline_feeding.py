"""How calibration data is cut into folds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.feeding import Calls, folds_of


def calls(count: int, batch: int, fixed: bool) -> Calls:
    return Calls(count, batch, lambda start, stop: {"x": np.arange(start, stop)}, fixed=fixed)


def read(part: Calls) -> list[int]:
    return [int(value) for call in part for value in call["x"]]


@given(st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(1, 40))
def test_folds_are_alike_and_all_is_read_once(times, batch, fixed, most):
    whole = calls(times * batch if fixed else times, batch, fixed)
    folds, rest = folds_of(whole, most)
    assert [value for part in (*folds, *rest) for value in read(part)] == list(range(whole.count))
    sizes = [fold.count for fold in folds]
    assert len(sizes) == (2 if len(whole) > 1 or (whole.count > 1 and not fixed) else 0)
    assert len(set(sizes)) <= 1
    assert all(0 < size <= max(most, batch if fixed else 1) for size in sizes)
    assert not fixed or all(size % batch == 0 for size in sizes)
    if rest and folds:
        assert rest[0].count < 2 * (batch if fixed else 1) or sizes[0] + (batch if fixed else 1) > most


@pytest.mark.parametrize(
    ("count", "batch", "fixed", "sizes"),
    [
        (512, 16, False, [32, 32, 448]),
        (64, 16, False, [32, 32]),
        (41, 16, False, [20, 20, 1]),
        (2, 16, False, [1, 1]),
        (1, 16, False, [1]),
        (64, 64, True, [64]),
        (128, 64, True, [64, 64]),
        (30, 10, True, [10, 10, 10]),
    ],
)
def test_sizes(count, batch, fixed, sizes):
    folds, rest = folds_of(calls(count, batch, fixed), 32)
    assert [part.count for part in (*folds, *rest)] == sizes
