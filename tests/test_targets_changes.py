"""Changes of level and correlation, on series that have them and series that do not."""

import numpy as np
import pytest

from targets.changes import autocorrelation, likeliest
from targets.distributions import beta_quantiles, student_quantile


def test_a_step_is_found_where_it_is() -> None:
    series = np.random.default_rng(0).normal(100, 1, 40)
    series[25:] += 10
    found = likeliest(series)
    assert abs(found.index - 25) <= 1
    assert found.p < 1e-4
    assert found.shift == pytest.approx(0.1, abs=0.02)


def test_noise_seldom_looks_like_a_change() -> None:
    random = np.random.default_rng(1)
    alarms = np.mean([likeliest(random.pareto(1.5, 30)).p < 0.05 for _ in range(500)])
    assert alarms < 0.06


def test_outliers_are_no_change() -> None:
    series = np.random.default_rng(2).normal(100, 1, 30)
    series[[3, 14, 22]] *= 50
    assert likeliest(series).p > 0.05


def test_ten_values_tell_nothing_and_eleven_do() -> None:
    assert likeliest([1.0] * 5 + [2.0] * 5).p > 0.05
    assert likeliest([1.0] * 6 + [2.0] * 6).p < 0.05


def test_one_value_has_no_change() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        likeliest([1.0])


@pytest.mark.parametrize("remembered", [0.0, 0.5, 0.9])
def test_the_correlation_is_that_of_the_series(remembered: float) -> None:
    random = np.random.default_rng(3)
    series = [0.0]
    for noise in random.normal(0, 1, 5000):
        series.append(remembered * series[-1] + noise)
    assert autocorrelation(series) == pytest.approx(remembered, abs=0.05)


@pytest.mark.parametrize("series", [[], [1.0, 2.0], [5.0] * 9])
def test_nothing_to_correlate_is_none(series: list[float]) -> None:
    assert autocorrelation(series) == 0


@pytest.mark.parametrize(
    ("p", "df", "value"),
    [(0.975, 1, 12.7062), (0.975, 7, 2.36462), (0.8, 1, 1.37638), (0.995, 30, 2.75), (0.025, 5, -2.57058), (0.5, 4, 0)],
)
def test_students_t_is_that_of_the_tables(p: float, df: int, value: float) -> None:
    assert student_quantile(p, df) == pytest.approx(value, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    # scipy 1.17.1: scipy.stats.beta.ppf([0.025, 0.975], a, b)
    [
        (0.5, 0.5, 0.00154133, 0.99845867),
        (100.5, 1.5, 0.95466504, 0.99892962),
        (2000.0, 2000.0, 0.48450788, 0.51549212),
        (1e6, 1e4, 0.98990500, 0.99029118),
        (50.0, 0.5, 0.95076377, 0.99999013),
    ],
)
def test_the_beta_quantiles_are_scipys(a: float, b: float, low: float, high: float) -> None:
    assert beta_quantiles(a, b, 0.025) == (pytest.approx(low, rel=1e-5), pytest.approx(high, rel=1e-5))


@pytest.mark.parametrize(("p", "df"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_no_such_quantile(p: float, df: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        student_quantile(p, df)
