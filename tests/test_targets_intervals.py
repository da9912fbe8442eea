"""The intervals against what they claim: coverage over simulated processes, and what few samples are worth."""

from collections.abc import Callable
from functools import cache
from math import ceil, exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from targets.intervals import effective_samples, half_width, log_ratio, log_ratios, quantile_of, ratio
from targets.stats import quantile

Times = NDArray[np.float64]  # (launches, rounds, calls)
Kind = Callable[[np.random.Generator, tuple[int, int, int]], Times]
LAUNCHES, ROUNDS, CALLS = 8, 3, 84  # the defaults of `Timing`
TRIALS = 400
QUANTILES = (0.5, 0.9, 0.99)
PROCESS = 0.01  # standard deviation between processes, as measured here


def lognormal(random: np.random.Generator, shape: tuple[int, int, int]) -> Times:
    return np.exp(random.normal(0, 0.3, shape))


def pareto(random: np.random.Generator, shape: tuple[int, int, int]) -> Times:
    return 1 + 0.1 * random.pareto(1.8, shape)


def bimodal(random: np.random.Generator, shape: tuple[int, int, int]) -> Times:
    return (1 + 0.5 * (random.random(shape) < 0.3)) * np.exp(random.normal(0, 0.05, shape))


def regimes(random: np.random.Generator, shape: tuple[int, int, int]) -> Times:
    """Whole blocks are slow, by chance; every call is heavy-tailed."""
    slow = random.random((*shape[:2], 1)) < 0.3
    return (1 + 0.2 * slow) * np.exp(random.normal(0, 0.2, shape))


def sticky(random: np.random.Generator, shape: tuple[int, int, int]) -> Times:
    """A slow state that outlasts blocks: each follows its predecessor every other time."""
    slow = random.random(shape[:2]) < 0.3
    follows = random.random(shape[:2]) < 0.5
    for i in range(1, shape[1]):
        slow[:, i] = np.where(follows[:, i], slow[:, i - 1], slow[:, i])
    return (1 + 0.2 * slow[:, :, None]) * np.exp(random.normal(0, 0.2, shape))


def autoregressive(random: np.random.Generator, shape: tuple[int, int, int]) -> Times:
    """Each call remembers 90% of the one before it."""
    launches, rounds, calls = shape
    noise = random.normal(0, (1 - 0.9**2) ** 0.5, (rounds * calls, launches))
    state = random.normal(0, 1, launches)
    for i in range(len(noise)):
        state = noise[i] = 0.9 * state + noise[i]
    return np.exp(0.2 * noise.T.reshape(shape))


KINDS: tuple[Kind, ...] = (lognormal, pareto, bimodal, regimes, sticky, autoregressive)


def drawn(kind: Kind, random: np.random.Generator, shape: tuple[int, int, int]) -> Times:
    return kind(random, shape) * np.exp(random.normal(0, PROCESS, (shape[0], 1, 1)))


@cache
def truth(kind: Kind, q: float) -> float:
    many = drawn(kind, np.random.default_rng(99), (4000, ROUNDS, CALLS))
    return float(np.quantile(many, q))


@cache
def trials(kind: Kind) -> tuple[Times, ...]:
    random = np.random.default_rng(6)
    everything = drawn(kind, random, (TRIALS * LAUNCHES, ROUNDS, CALLS))
    return tuple(everything.reshape(TRIALS, LAUNCHES, ROUNDS, CALLS))


@pytest.mark.parametrize("q", QUANTILES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_of_a_quantile_holds_it_as_often_as_it_says(kind: Kind, q: float) -> None:
    found = [quantile_of(times, q) for times in trials(kind)]
    covered = np.mean([one.low <= truth(kind, q) <= one.high for one in found])
    said = np.mean([one.level for one in found])
    if said > 0.949:
        assert 0.93 - 0.012 <= covered <= 0.97 + 0.012  # 400 trials know a share of 95% to ±2.1 points
    else:  # too few samples, and it says so
        assert covered >= said - 0.02


@pytest.mark.parametrize("q", QUANTILES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says(kind: Kind, q: float) -> None:
    random = np.random.default_rng(3)
    half = len(trials(kind)) // 2
    covered = []
    for a, b in zip(trials(kind)[:half], trials(kind)[half:], strict=True):
        drift = np.exp(np.cumsum(random.normal(0, 0.02, (LAUNCHES, ROUNDS, 1)), axis=1))
        found = ratio(1.05 * a * drift, b * drift, q)
        covered.append(found.low <= 1.05 <= found.high)
    assert 0.93 - 0.02 <= np.mean(covered) <= 0.97 + 0.02  # 200 trials know it to ±3 points


def test_the_naive_interval_is_far_from_honest_where_this_one_is() -> None:
    n = LAUNCHES * ROUNDS * CALLS
    low, high = binom.ppf([0.025, 0.975], n, 0.5).astype(int)  # ranks that bound the median of n independent samples
    naive = [np.sort(times.ravel())[[low, high]] for times in trials(autoregressive)[:200]]
    covered = np.mean([one[0] <= truth(autoregressive, 0.5) <= one[1] for one in naive])
    assert covered < 0.6


def test_too_few_samples_for_a_p99_are_not_called_95_percent() -> None:
    random = np.random.default_rng(0)
    found = quantile_of(lognormal(random, (8, 3, 4)), 0.99)
    assert found.level < 0.93
    one = quantile_of([[[3.0, 1.0, 2.0]]], 0.99)
    assert (one.value, one.high) == (3.0, 3.0)
    assert one.level < 0.1


def test_samples_of_independent_processes_are_worth_their_number() -> None:
    random = np.random.default_rng(1)
    found = [
        effective_samples([random.random(500) for _ in range(40)], 0.5, 0.5) / 20_000 * (2.02 / 1.96) ** 2 * 40 / 39
        for _ in range(200)
    ]
    assert 0.9 < np.median(found) < 1.15


def test_identical_blocks_are_worth_one_each() -> None:
    random = np.random.default_rng(2)
    units = [np.full(1000, value) for value in random.random(100)]
    assert effective_samples(units, 0.5, 0.5) < 130


@given(st.lists(st.lists(st.lists(st.integers(1, 10**9), min_size=1, max_size=5), min_size=1, max_size=4), min_size=1))
def test_the_interval_is_of_the_samples_and_around_the_quantile(launches: list[list[list[int]]]) -> None:
    everything = [ns for launch in launches for block in launch for ns in block]
    for q in QUANTILES:
        found = quantile_of(launches, q)
        assert found.value == quantile(everything, q)
        assert found.low <= found.value <= found.high
        assert {found.low, found.high} <= set(map(float, everything))
        assert 0 <= found.level <= 0.95


@given(st.integers(0, 1000), st.sampled_from([(8, 2), (3, 1), (1, 6), (2, 3), (1, 30)]))
def test_a_ratio_turned_round_is_its_inverse(seed: int, shape: tuple[int, int]) -> None:
    a, b = np.random.default_rng(seed).lognormal(0, 0.2, (2, *shape, 9))
    ab, ba = ratio(a, b), ratio(b, a)
    assert ab.value == pytest.approx(1 / ba.value)
    assert ab.low == pytest.approx(1 / ba.high)
    assert ab.low <= ab.value <= ab.high


def test_what_hits_both_sides_of_a_round_leaves_the_ratio_alone() -> None:
    base = np.linspace(1, 1.01, 50)
    load = [[1.0], [1.0], [4.0], [1.0], [2.0], [1.0], [1.0], [3.0]]
    found = ratio([[2 * f * base for f in launch] for launch in load], [[f * base for f in launch] for launch in load])
    assert found.low == pytest.approx(2)
    assert found.high == pytest.approx(2)


def test_the_p50_of_a_unit_is_the_median_over_neighbouring_calls() -> None:
    a = [[1.0, 4.0], [16.0], [64.0]]
    b = [[1.0], [2.0], [4.0]]
    # 1/1, 4/1, 16/2, 64/4 in the same round; 1/2, 4/2, 16/1, 16/4, 64/2 in neighbours; not 1/4, 4/4, 64/1
    assert exp(log_ratio(a, b, 0.5)) == pytest.approx(4.0)  # of 0.5 1 2 4 4 8 16 16 32; the rounds alone: 5.7


def test_long_blocks_are_compared_by_as_much_as_short_ones() -> None:
    random = np.random.default_rng(5)
    a, b = random.lognormal(0.05, 0.1, (3, 5000)), random.lognormal(0, 0.1, (3, 5000))
    assert log_ratio(a, b, 0.5) == pytest.approx(0.05, abs=0.005)


def test_few_launches_are_cut_into_stretches_of_rounds() -> None:
    a = [[[float(i)] * 3 for i in range(1, 17)]]
    assert len(log_ratios(a, a, 0.5)) == 8
    assert len(log_ratios(a * 2, a * 2, 0.5)) == 8
    assert len(log_ratios(a * 3, a * 3, 0.5)) == 3
    assert len(log_ratios([a[0][:5]], [a[0][:5]], 0.5)) == 5


@pytest.mark.parametrize(
    ("a", "b"), [([[[1.0]] * 2], [[[1.0]] * 2]), ([[[1.0]] * 4], [[[1.0]] * 3]), ([[[1.0]]] * 4, [[[1.0]] * 4])]
)
def test_a_ratio_needs_paired_rounds(a: list[list[list[float]]], b: list[list[list[float]]]) -> None:
    with pytest.raises(ValueError, match="same 3 or more rounds"):
        ratio(a, b)


@pytest.mark.parametrize("launches", [[], [[]], [[[]]]])
def test_no_samples_have_no_interval(launches: list[list[list[float]]]) -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantile_of(launches, 0.5)


def test_the_half_width_is_students() -> None:
    # t of 3 degrees of freedom is 3.182; the standard deviation of 1, 2, 3, 4 is 1.291
    assert half_width(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(3.182 * 1.291 / 2, rel=1e-3)
    found = ratio([[[exp(k)]] for k in (1, 2, 3, 4)], [[[1.0]]] * 4)
    assert found.value == pytest.approx(exp(2.5))
    assert ceil(np.log(found.high) * 1000) == ceil((2.5 + 3.1824 * 1.29099 / 2) * 1000)
