"""The timing loop, driven by models that are nothing but a known delay."""

import gc
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest

from targets import timing
from targets.base import Kernel


class Clocked:
    """A fake model on a fake clock: call i takes `cost(i)` ns."""

    inputs: Mapping[str, tuple[int, ...]] = {}

    def __init__(self, cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cost, self.now, self.calls, self.collecting = cost, 0, 0, []  # type: Any, int, int, list[bool]
        monkeypatch.setattr(timing, "perf_counter_ns", lambda: self.now)

    def __call__(self, feeds: Any, /) -> dict[str, Any]:
        self.now += self.cost(self.calls)
        self.calls += 1
        self.collecting.append(gc.isenabled())
        return {}

    def kernels(self) -> tuple[Kernel, ...]:
        return ()

    def precision(self) -> dict[str, int]:
        return {}


def test_a_block_times_each_call_after_the_untimed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 100 + i, monkeypatch)
    assert timing.block(run, {}, 4, settle=2) == [102, 103, 104, 105]
    assert run.calls == 6


def test_the_collector_is_off_while_timing_and_back_on_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 1, monkeypatch)
    timing.block(run, {}, 3, settle=0)
    assert run.collecting == [False] * 3
    assert gc.isenabled()


def test_the_collector_is_back_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 1 // (1 - i), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        timing.block(run, {}, 3, settle=0)
    assert gc.isenabled()


def test_warm_up_outlasts_a_slow_start(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 5_000_000 if i < 25 else 1_000_000, monkeypatch)
    warm = timing.warm_up(run, {}, limit_s=10)
    assert warm.steady
    assert warm.median_ns == 1_000_000
    assert len(warm.samples_ns) == 60
    assert sum(warm.samples_ns) == run.now


def test_warm_up_stops_as_soon_as_three_windows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 1_000_000, monkeypatch)
    assert len(timing.warm_up(run, {}, limit_s=10).samples_ns) == 30


def test_warm_up_of_a_latency_that_never_settles_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = count(1_000_000, 100_000)
    run = Clocked(lambda i: next(growing), monkeypatch)
    warm = timing.warm_up(run, {}, limit_s=0.5)
    assert not warm.steady
    assert 0.5e9 <= run.now < 0.52e9


def test_one_call_longer_than_the_limit_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 3_000_000_000, monkeypatch)
    warm = timing.warm_up(run, {}, limit_s=1)
    assert warm.samples_ns == (3_000_000_000,)
    assert not warm.steady
