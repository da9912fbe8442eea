"""Changes of level in past runs: found where there are some, and hardly ever where there are none."""

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.gate.changepoints import changes
from pipeline.gate.drift import ALPHA, drift_of, judged_drift, series_of
from pipeline.gate.history import Past


def past(index: int, p50_ms: float, level: float | None = None, device: str = "d", **changes: str) -> Past:
    return Past(
        at=f"2026-01-{index + 1:02d}T00:00:00+00:00",
        event=changes.get("event", "checked"),  # type: ignore[arg-type]
        run=f"run{index}",
        version=1,
        commit=f"commit{index}",
        device=device,
        p50_ms=p50_ms,
        p90_ms=None,
        p99_ms=None,
        size_bytes=1,
        memory_peak_bytes=None,
        accuracy=None,
        int8=None,
        level=level,
    )


def noisy(levels: Sequence[float], spread: float = 0.01, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    return [float(level * np.exp(rng.normal(0, spread))) for level in levels]


def test_a_step_is_found_where_it_is() -> None:
    (found,) = changes(np.log(noisy([1.0] * 15 + [1.06] * 15)).tolist(), ALPHA)
    assert abs(found.index - 15) <= 1
    assert found.p <= ALPHA


def test_two_steps_are_two_changes() -> None:
    found = changes(np.log(noisy([1.0] * 12 + [1.1] * 12 + [1.25] * 12)).tolist(), 0.01)
    assert [round(change.index / 12) for change in found] == [1, 2]


def test_alarms_where_nothing_changes_are_as_rare_as_they_should_be() -> None:
    rng = np.random.default_rng(0)
    alarms = sum(bool(changes(np.exp(rng.standard_t(3, 20)).tolist(), 0.05, seed=i)) for i in range(100))
    assert alarms <= 13  # 5 expected; more than 13 has a probability of 0.05%


def test_an_outlier_is_no_level_and_a_short_series_has_none() -> None:
    values = noisy([1.0] * 20)
    values[10] = 3.0
    assert changes(values, ALPHA) == ()
    assert changes([1.0, 1.0, 2.0, 2.0], 0.05) == ()
    assert changes([], 0.05) == ()
    assert changes([1.0] * 30, 0.05) == ()


def test_slow_drift_is_a_regression_though_every_step_was_small() -> None:
    values = noisy(np.linspace(1.0, 1.10, 30).tolist(), 0.005)
    found = judged_drift(drift_of([past(i, value) for i, value in enumerate(values)]), 2.0)
    assert found.outcome == "regression"
    assert found.change is not None
    assert 4 < found.change < 11
    assert "commit" in found.text
    steady = judged_drift(drift_of([past(i, v) for i, v in enumerate(noisy([1.0] * 30, 0.005))]), 2.0)
    assert steady.outcome == "pass"


def test_a_gain_is_no_regression() -> None:
    values = noisy([1.0] * 15 + [0.8] * 15)
    found = judged_drift(drift_of([past(i, value) for i, value in enumerate(values)]), 2.0)
    assert found.outcome == "pass"
    assert found.change == pytest.approx(-20, abs=1.5)


def test_what_was_accepted_is_the_new_start() -> None:
    values = noisy([1.0] * 15 + [1.2] * 15)
    runs = [past(i, value) for i, value in enumerate(values)]
    runs[16] = past(16, values[16], event="accepted")
    assert judged_drift(drift_of(runs), 2.0).outcome == "pass"


def test_few_runs_are_not_judged() -> None:
    assert judged_drift(drift_of([]), 2.0).outcome == "not judged"
    assert judged_drift(drift_of([past(0, 1.0)]), 2.0).outcome == "not judged"
    step = [past(i, value) for i, value in enumerate([1.0] * 8 + [1.5] * 8)]
    assert judged_drift(drift_of(step[:13]), 2.0).outcome == "not judged"  # not "pass": too few to see even this
    assert judged_drift(drift_of(step), 2.0).outcome == "regression"


def test_only_what_compares_is_one_series() -> None:
    runs = [past(i, 1.0, device="old") for i in range(5)] + [past(5 + i, 2.0, device="new") for i in range(4)]
    assert series_of(runs).kind == "p50"
    assert series_of(runs).values == (2.0,) * 4
    measured = [*runs, *(past(9 + i, 3.0, level=1.01, device="new") for i in range(9))]
    assert series_of(measured).kind == "p50"  # 13 medians under the latest fingerprint, 9 measured levels
    rented = [past(i, 1.0 + i, level=1.0, device=f"machine {i}") for i in range(6)]
    assert (series_of(rented).kind, len(series_of(rented).values)) == ("level", 6)
