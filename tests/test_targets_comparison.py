"""The bookkeeping of comparisons, and what they say is doubtful."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.base import Kernel, TargetError
from targets.comparison import Lap, Run, measurements, shares
from targets.devices.base import Measurement, Timing
from targets.doubts import disturbances

INT8 = (Kernel("conv", "i8", ()),)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(50, 5000))
def test_launches_share_the_rounds_evenly(rounds: int, launches: int, samples: int) -> None:
    parts = shares(Timing(samples=samples, rounds=rounds, launches=launches, max_s=30.0))
    assert len(parts) == min(rounds, launches)
    counts = [part.rounds for part in parts]
    assert sum(counts) == rounds
    assert max(counts) - min(counts) <= 1
    assert sum(part.samples for part in parts) >= samples
    assert abs(sum(part.max_s for part in parts) - 30.0) < 1e-9
    assert len({part.seed for part in parts}) == len(parts)


def lap(disturbed: tuple[str, ...] = (), **fields: Any) -> Lap:
    run = Run(1.0, warmup_ns=(5,), steady=True, memory_peak_bytes=10, kernels=INT8)
    for name, value in fields.items():
        setattr(run, name, value)
    run.walls_ns = [sum(block) for block in run.blocks_ns]
    return Lap({"a": run}, disturbed, 1.0)


def test_what_several_processes_did_is_one_measurement() -> None:
    laps = [
        lap(blocks_ns=[(1, 2)], warmup_ns=(5,)),
        lap(blocks_ns=[(3,), (4,)], warmup_ns=(6,), memory_peak_bytes=30, load_s=2.0),
    ]
    found = measurements(laps, Timing(samples=4), 0)["a"]
    assert found.blocks_ns == ((1, 2), (3,), (4,))
    assert found.launches_ns == (((1, 2),), ((3,), (4,)))
    assert found.compared_ns == found.launches_ns
    assert found.warmup_ns == (5, 6)
    assert (found.load_s, found.memory_peak_bytes) == (1.0, 30)


def test_throughput_is_compared_by_the_time_per_call() -> None:
    laps = [lap(blocks_ns=[(10, 10, 10, 10)]), lap(blocks_ns=[(9, 9), (8, 8)])]
    for one, walls in zip(laps, ([20], [9, 8]), strict=True):
        one.runs["a"].walls_ns = walls  # two streams at once
    found = measurements(laps, Timing(samples=4, mode="throughput"), 0)["a"]
    assert found.compared_ns == (((5.0,),), ((4.5,), (4.0,)))


def test_a_measurement_of_one_process_needs_no_cuts() -> None:
    one = Measurement(((1,), (2,)), (), 0.0, 0, ())
    assert one.launches_ns == (((1,), (2,)),)


@pytest.mark.parametrize("mode", ["", "both"])
def test_a_mode_is_latency_or_throughput(mode: str) -> None:
    with pytest.raises(TargetError, match="mode must be latency or throughput"):
        Timing(mode=mode)


def steady(level: float = 100.0, launches: int = 4, rounds: int = 6) -> list[Lap]:
    random = np.random.default_rng(0)
    blocks = [
        [tuple(int(1000 * v) for v in random.normal(level, 0.2, 50)) for _ in range(rounds)] for _ in range(launches)
    ]
    return [lap(blocks_ns=found) for found in blocks]


def said(laps: list[Lap], retried: int = 0, **timing: Any) -> str:
    return " | ".join(measurements(laps, Timing(**{"samples": 100, **timing}), retried)["a"].warnings)


def test_a_steady_run_raises_no_doubt() -> None:
    assert said(steady()) == ""


def test_each_doubt_is_named() -> None:
    doubtful = lap(blocks_ns=[(100,), (150,), (100,)], steady=False, clock_ns=50)
    words = ("settled", "clock's step of 50 ns", "3 of 12 samples", "vary by 25%", "p50 is not bounded at 95%")
    assert all(word in said([doubtful], samples=12) for word in words)
    assert "p50 is" not in said([doubtful], samples=12, precision=0.0)


@pytest.mark.parametrize("quantile", [-0.1, 0, 1, 50])
def test_a_quantile_lies_between_0_and_1(quantile: float) -> None:
    with pytest.raises(TargetError, match="quantile must lie between 0 and 1"):
        Timing(quantile=quantile)


def test_drift_is_told_from_noise() -> None:
    laps = steady()
    for number, one in enumerate(laps):
        run = one.runs["a"]
        run.blocks_ns = [tuple(int(ns * (1 + 0.02 * number)) for ns in block) for block in run.blocks_ns]
    assert "drift: the median rose by 4% after round 12" in said(laps)


def test_calls_that_hang_together_are_told() -> None:
    walk = np.cumsum(np.random.default_rng(1).normal(0, 1, 400)) + 5000
    block = tuple(int(1000 * v) for v in walk)
    assert "successive calls hang together" in said([lap(blocks_ns=[block] * 3)])


def test_what_disturbed_and_what_was_replaced_is_said_once() -> None:
    laps = [lap(("busy",), blocks_ns=[(100,) * 50] * 3), *steady()]
    assert "busy (1 of 5 launches were disturbed)" in said(laps)
    assert "2 disturbed launches were timed again" in said(steady(), retried=2)


BEFORE = {"now_s": 100.0, "cpu_s": 5.0, "busy_s": {"0": 50.0, "1": 70.0}, "throttled": 3}


@pytest.mark.parametrize(
    ("busy", "cores", "own_s", "says"),
    [
        ({"0": 52.0, "1": 80.0}, [1], 9.8, None),
        ({"0": 52.0, "1": 80.0}, [], 9.8, "other processes used 0.2 of 2 cores"),
        ({"0": 50.0, "1": 80.0}, [1], 6.0, "other processes used 0.4 of core 1"),
        ({}, [1], 6.0, None),
    ],
)
def test_other_work_counts_on_the_cores_that_are_timed_on(
    busy: dict[str, float], cores: list[int], own_s: float, says: str | None
) -> None:
    found = disturbances(BEFORE, {**BEFORE, "now_s": 110.0, "busy_s": busy}, cores, own_s)
    assert [text.startswith(says) for text in found] == [True] if says else found == ()


def test_heat_is_a_disturbance() -> None:
    after = {**BEFORE, "now_s": 110.0, "throttled": 5}
    assert disturbances(BEFORE, after, [1], 0.0) == ("the cores were slowed down for their heat 2 times while timing",)
