"""Quantiles and intervals against slow references and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.stats import (
    coefficient_of_variation,
    quantile,
    wilson,
)

finite = st.floats(-1e9, 1e9)


@given(st.lists(finite, min_size=1, max_size=50), st.integers(1, 100))
def test_a_quantile_is_the_smallest_sample_with_enough_at_or_below(values: list[float], percent: int) -> None:
    found = quantile(values, percent / 100)
    enough = [v for v in values if sum(w <= v for w in values) * 100 >= percent * len(values)]
    assert found == min(enough)


@pytest.mark.parametrize(
    ("n", "q", "rank"), [(100, 0.99, 99), (100, 0.5, 50), (10, 0.9, 9), (1000, 0.999, 999), (1, 0.5, 1)]
)
def test_ranks_are_not_off_by_rounding(n: int, q: float, rank: int) -> None:
    assert quantile(list(range(1, n + 1)), q) == rank


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (9300, 10_000), (1, 2)])
def test_wilson_solves_its_own_equation(successes: int, n: int) -> None:
    interval = wilson(successes, n)
    for bound in (interval.low, interval.high):
        if 0 < bound < 1:
            z = (interval.value - bound) / (bound * (1 - bound) / n) ** 0.5
            assert abs(z) == pytest.approx(1.959964, rel=1e-5)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize(("p", "n"), [(0.02, 100), (0.5, 50), (0.93, 10_000)])
def test_coverage_of_wilson(p: float, n: int) -> None:
    hits = np.random.default_rng(3).binomial(n, p, 4000)
    intervals = {int(k): wilson(int(k), n) for k in np.unique(hits)}
    covered = np.mean([intervals[int(k)].low <= p <= intervals[int(k)].high for k in hits])
    assert 0.925 <= covered <= 0.985  # oscillates around 95% with p, as Wilson's does


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(successes, n)


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")]])
def test_samples_must_be_there_and_finite(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="samples"):
        quantile(bad, 0.5)


def test_variation_of_constant_and_single_values_is_none() -> None:
    assert coefficient_of_variation([3.0, 3.0]) == 0
    assert coefficient_of_variation([3.0]) == 0
    assert coefficient_of_variation([1.0, 3.0]) == pytest.approx(2**0.5 / 2)
