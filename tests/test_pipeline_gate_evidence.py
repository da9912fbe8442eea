"""Intervals of the ratio: from launches, and from the samples of two days."""

from math import exp

import numpy as np
import pytest

from pipeline.gate.evidence import ASSUMED, day_to_day, interleaved, newcombe, stored
from targets.intervals import log_ratio

Blocks = list[list[int]]


def pair(rng: np.random.Generator, slowdown: float, rounds: int = 20) -> tuple[Blocks, Blocks]:
    """A launch of two processes of about 1 ms: luck of each process, a tide common to both, heavy tails."""
    tide = 1 + 0.3 * (rng.random(rounds) < 0.3)
    sides = []
    for factor in (1.0, 1 + slowdown):
        luck = np.exp(rng.normal(0, 0.004))
        noise = 1 + 0.02 * rng.standard_t(3, (rounds, 5)) ** 2
        sides.append((1e6 * factor * luck * tide[:, None] * noise).astype(int).tolist())
    return sides[0], sides[1]


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [interleaved([pair(rng, 0.05) for _ in range(6)], 0.5) for _ in range(400)]
    held = np.mean([ratio.low <= 1.05 <= ratio.high for ratio in found])
    assert 0.92 <= held <= 0.98
    assert np.mean([ratio.value for ratio in found]) == pytest.approx(1.05, abs=0.003)


def test_what_is_called_detectable_is_detected() -> None:
    rng = np.random.default_rng(1)
    told = np.median([interleaved([pair(rng, 0.0) for _ in range(6)], 0.5).detectable(2.0) for _ in range(100)])
    slower = [interleaved([pair(rng, told / 100) for _ in range(6)], 0.5).low > 1.02 for _ in range(300)]
    assert np.mean(slower) > 0.9


def test_a_tide_that_both_ride_cancels_in_the_median() -> None:
    rng = np.random.default_rng(2)
    ratios = [log_ratio(*pair(rng, 0.0), 0.5) for _ in range(200)]
    assert np.std(ratios) < 0.02


def test_two_days_differ_as_much_as_days_did() -> None:
    rng = np.random.default_rng(3)
    a, b = pair(rng, 0.0)
    assumed = stored([a], [b], 0.5, [])
    calm = stored([a], [b], 0.5, [1.0, 1.001, 0.999, 1.0, 1.001, 1.0])
    wild = stored([a], [b], 0.5, [1.0, 1.2, 0.9, 1.1, 0.8, 1.1])
    widths = [ratio.high / ratio.low for ratio in (calm, assumed, wild)]
    assert widths == sorted(widths)
    assert day_to_day([1.0] * 3) == (ASSUMED, 0)


def test_a_single_shift_of_the_model_is_not_taken_for_days_that_differ() -> None:
    rng = np.random.default_rng(4)
    calm = np.exp(rng.normal(0, 0.01, 20))
    shifted = np.concatenate([calm[:10], 1.5 * calm[10:]])
    assert day_to_day(shifted.tolist())[0] == pytest.approx(day_to_day(calm.tolist())[0], rel=0.3)
    assert day_to_day(calm.tolist())[0] == pytest.approx(0.01, rel=0.6)


def test_newcombe_as_published() -> None:
    """Newcombe (1998), table II: 56/70 against 48/80, method 10."""
    found = newcombe(56, 70, 48, 80)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))
    none = newcombe(10, 10, 0, 10)  # and 10/10 against 0/10
    assert (none.low, none.high) == (pytest.approx(0.6075, abs=5e-5), pytest.approx(1.0))


def test_a_ratio_says_what_it_takes_to_be_seen() -> None:
    rng = np.random.default_rng(5)
    ratio = interleaved([pair(rng, 0.0) for _ in range(4)], 0.5)
    assert ratio.detectable(0.0) == pytest.approx(100 * (exp(ratio.reach) - 1))
    assert ratio.detectable(2.0) > ratio.detectable(0.0) + 2
