"""Verdicts: what they call a difference, how often they are wrong, and what they could have found."""

import numpy as np
import pytest
from numpy.typing import NDArray

from targets import verdicts
from targets.intervals import log_ratios
from targets.verdicts import FASTER, SAME, SLOWER, UNCLEAR, detectable, judge


def race(
    seed: int, slowdown: float = 0.0, launches: int = 8, spread: float = 0.01
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two artifacts in fresh processes, each of which has a luck of its own; bursts hit both."""
    random = np.random.default_rng(seed)
    times = np.exp(random.normal(0, 0.05, (2, launches, 3, 40)))
    times *= np.exp(random.normal(0, spread, (2, launches, 1, 1)))
    times *= 1 + 0.4 * (random.random((1, launches, 3, 1)) < 0.1)
    return times[0] * (1 + slowdown), times[1]


@pytest.mark.parametrize(
    ("slowdown", "kind"), [(0.2, SLOWER), (-0.2, FASTER), (0.0, SAME)], ids=["slower", "faster", "same"]
)
def test_clear_cases(slowdown: float, kind: str) -> None:
    found = judge(*race(1, slowdown, launches=40), within=0.02)
    assert found.kind == kind
    assert found.more_rounds == 0


def test_words_for_people() -> None:
    a, b = [[[105.0]], [[106.0]], [[107.0]]], [[[100.0]]] * 3
    assert judge(a, b).text == "slower by 3.5 to 8.5%"
    assert judge(b, a).text == "faster by 3.4 to 7.8%"
    assert judge(b, b).text == "same within 1%"
    assert judge(b, b, within=0.005).text == "same within 0.5%"
    unclear = judge([[[99.0]], [[103.0]], [[102.0]]], b)
    assert unclear.kind == UNCLEAR
    assert unclear.text == f"cannot tell (-3.7% to +6.6%): needs about {unclear.more_rounds} more rounds"


def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    found = [judge(*race(seed), within=0.0).kind for seed in range(400)]
    wrong = sum(kind in (SLOWER, FASTER) for kind in found) / len(found)
    assert 0.025 <= wrong <= 0.075  # 5% of 400, at three standard errors
    strict = [judge(*race(seed), within=0.0, level=0.99).kind for seed in range(400)]
    assert sum(kind in (SLOWER, FASTER) for kind in strict) / len(strict) <= 0.025


def test_the_detectable_slowdown_is_detected_as_often_as_it_says() -> None:
    least = np.median([judge(*race(seed)).detectable for seed in range(200)])
    found = [judge(*race(seed, float(least)), within=0.0).kind == SLOWER for seed in range(200, 600)]
    assert 0.7 <= np.mean(found) <= 0.88


def test_more_rounds_tell_what_few_could_not() -> None:
    first = {seed: judge(*race(seed, 0.008)) for seed in range(60)}
    unclear = {seed: found for seed, found in first.items() if found.kind == UNCLEAR}
    assert len(unclear) > 10
    launches = {seed: 8 + -(-found.more_rounds // 3) for seed, found in unclear.items()}
    told = [judge(*race(1000 + seed, 0.008, n)).kind != UNCLEAR for seed, n in launches.items()]
    assert np.mean(told) >= 0.5


def test_a_stricter_level_takes_more() -> None:
    logs = log_ratios(*race(3), 0.5)
    assert detectable(logs, level=0.99) > detectable(logs) > detectable(logs, power=0.5)


def test_what_no_number_of_rounds_tells_is_bounded() -> None:
    a, b = race(4, spread=0.3)
    found = judge(a, b, within=0.0)
    assert found.kind == UNCLEAR
    assert 0 < found.more_rounds <= verdicts.MOST_ROUNDS


def test_a_tolerance_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        judge(*race(0), within=-0.1)
