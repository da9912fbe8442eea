"""Quantiles and intervals against slow references and simulated coverage."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from targets.stats import (
    coefficient_of_variation,
    quantile,
    quantile_interval,
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


def exact_coverage(n: int, q: Fraction, low: int, high: int) -> Fraction:
    return sum((comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(low, high)), Fraction(0))


@given(st.integers(2, 60), st.sampled_from([Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)]))
def test_the_interval_has_the_exact_coverage_it_claims(n: int, q: Fraction) -> None:
    interval = quantile_interval(list(range(1, n + 1)), float(q))
    low, high = int(interval.low), int(interval.high)
    assert interval.level == pytest.approx(float(exact_coverage(n, q, low, high)), abs=1e-12)
    assert low <= interval.value <= high


@given(st.integers(2, 60), st.sampled_from([Fraction(1, 2), Fraction(9, 10)]))
def test_the_interval_is_the_tightest_with_both_tails_kept(n: int, q: Fraction) -> None:
    interval = quantile_interval(list(range(1, n + 1)), float(q))
    low, high = int(interval.low), int(interval.high)
    tail = Fraction(25, 1000)
    assert low == 1 or exact_coverage(n, q, 0, low) <= tail  # P(B <= low - 1)
    assert high == n or exact_coverage(n, q, high, n + 1) <= tail  # P(B >= high)
    assert exact_coverage(n, q, 0, low + 1) > tail
    assert exact_coverage(n, q, high - 1, n + 1) > tail


def test_too_few_samples_for_an_extreme_quantile_are_not_called_95_percent() -> None:
    interval = quantile_interval(list(range(50)), 0.99)
    assert interval.high == 49
    assert interval.level < 0.41  # 1 - 0.99^50: the maximum is all there is


def test_a_million_samples_do_not_overflow() -> None:
    interval = quantile_interval(np.arange(1_000_000, dtype=np.float64), 0.5)
    assert 0.949 < interval.level < 0.951
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 500, rel=0.01)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["lognormal", "pareto", "bimodal"])
def test_coverage_of_the_quantile_interval(kind: str, q: float) -> None:
    random = np.random.default_rng(7)
    draws = latencies(random, kind, (600, 400))
    truth = float(np.quantile(latencies(random, kind, (1_000_000,)), q))
    intervals = [quantile_interval(row, q) for row in draws]
    covered = np.mean([i.low <= truth <= i.high for i in intervals])
    assert 0.925 <= covered <= 0.98  # discrete ranks lie a little above 95%


def latencies(random: np.random.Generator, kind: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if kind == "lognormal":
        return random.lognormal(0.0, 0.5, shape)
    if kind == "pareto":
        return 1 + random.pareto(1.5, shape)
    return random.normal(1.0, 0.02, shape) + 0.5 * (random.random(shape) < 0.3)


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
