"""The timing loop, driven by models that are nothing but a known delay."""

import gc
import threading
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
    run = Clocked(lambda i: 5_000_000 if i < 15 else 1_000_000, monkeypatch)
    warm = timing.warm_up(run, {}, limit_s=10)
    assert warm.steady
    assert warm.median_ns == 1_000_000
    assert sum(warm.samples_ns) == run.now
    assert run.calls > 15 + 5 * timing.WINDOWS  # a change that few windows follow is not over


def test_warm_up_stops_as_soon_as_the_test_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 1_000_000, monkeypatch)
    assert len(timing.warm_up(run, {}, limit_s=10).samples_ns) == 10 * timing.WINDOWS


def test_warm_up_may_go_up_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 1_000_000 if i < 60 else 1_200_000, monkeypatch)
    warm = timing.warm_up(run, {}, limit_s=10)
    assert warm.steady
    assert warm.median_ns == 1_200_000


def test_a_change_too_small_to_matter_does_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 1_000_000 + 100 * i, monkeypatch)
    assert timing.warm_up(run, {}, limit_s=10).steady


def test_warm_up_of_a_latency_that_never_settles_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = count(1_000_000, 100_000)
    run = Clocked(lambda i: next(growing), monkeypatch)
    warm = timing.warm_up(run, {}, limit_s=0.5)
    assert not warm.steady
    assert 0.5e9 <= run.now < 0.52e9


@pytest.mark.parametrize(("slower", "steady"), [(0, True), (100_000_000, False)])
def test_few_long_calls_within_the_limit_must_agree(slower: int, steady: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 300_000_000 + slower * i, monkeypatch)
    assert timing.warm_up(run, {}, limit_s=1).steady == steady


def test_one_call_longer_than_the_limit_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clocked(lambda i: 3_000_000_000, monkeypatch)
    warm = timing.warm_up(run, {}, limit_s=1)
    assert warm.samples_ns == (3_000_000_000,)
    assert not warm.steady


class Threaded:
    """A model that notes which threads call it, and fails when asked to."""

    inputs: Mapping[str, tuple[int, ...]] = {}

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.callers = fails, []  # type: bool, list[int]

    def __call__(self, feeds: Any, /) -> dict[str, Any]:
        if self.fails:
            raise ValueError("no such input")
        self.callers.append(threading.get_ident())
        return {}

    kernels = Clocked.kernels
    precision = Clocked.precision


def test_streams_run_in_threads_of_their_own() -> None:
    runs = [Threaded(), Threaded(), Threaded()]
    found = timing.together(runs, {}, calls=5, settle=2)
    assert [len(run.callers) for run in runs] == [7, 7, 7]
    assert len({run.callers[0] for run in runs}) == 3
    assert all(len(set(run.callers)) == 1 for run in runs)
    assert len(found.samples_ns) == 15
    assert found.wall_ns >= max(sum(found.samples_ns[i : i + 5]) for i in (0, 5, 10))
    assert gc.isenabled()


def test_a_failing_stream_ends_all_of_them() -> None:
    with pytest.raises(ValueError, match="no such input"):
        timing.together([Threaded(), Threaded(fails=True)], {}, calls=5)
    assert gc.isenabled()


def test_the_clock_makes_steps_of_a_nanosecond_or_more() -> None:
    assert timing.clock_step_ns() >= 1


def test_a_coarse_clock_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(timing, "perf_counter_ns", lambda: next(ticks) // 10 * 15_000_000)
    assert timing.clock_step_ns(200) == 15_000_000
