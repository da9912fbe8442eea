"""How a race spreads, replaces and adds launches, with agents that answer from a script."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from targets.backends.cpu import Cpu
from targets.base import Target
from targets.board.state import State
from targets.devices.base import Measurement, Timing
from targets.race import EXTENDED, Race


@dataclass
class Scripted:
    """A device whose artifacts take what `level` says of a launch, beside `foreign` seconds of others' work."""

    level: Any = lambda launch: 1_000_000  # ns
    foreign: Any = lambda launch: 0.0
    orders: list[tuple[int, str, Mapping[str, Any]]] = field(default_factory=list)
    started: int = 0

    @contextmanager
    def start(self, target: Target) -> Iterator["Answering"]:
        self.started += 1
        yield Answering(self, self.started)

    def race(self, timing: Timing, *names: str, target: Target | None = None) -> dict[str, Measurement]:
        built = {name: (target or Cpu(), f"/there/{name}") for name in names or ("a",)}
        return Race(self.start, built, "/feeds.npz", 60, lambda: None).run(timing)


@dataclass
class Answering:
    device: Scripted
    launch: int
    asked: int = 0

    def call(self, do: str, timeout_s: float, **arguments: Any) -> Any:
        self.device.orders.append((self.launch, do, arguments))
        return getattr(self, do)(**arguments)

    def tell(self, do: str, **arguments: Any) -> None:
        self.device.orders.append((self.launch, do, arguments))

    def cores(self, count: int) -> list[int]:
        return [1, 0][:count]

    def load(self, **_: Any) -> dict[str, Any]:
        return {"load_s": 0.5, "first_call_s": 0.2, "batch": 2}

    def warm(self, **_: Any) -> dict[str, Any]:
        return {"samples_ns": [1], "steady": True, "median_ns": 1_000_000, "clock_ns": 1}

    def usage(self) -> dict[str, Any]:
        self.asked += 1
        other_s = self.device.foreign(self.launch) if self.asked > 2 else 0.0
        busy = {"0": 5.0 * self.asked, "1": self.asked + other_s}
        used = {"memory_peak_bytes": 10, "throttled": 0, "cores": [0, 1]}
        return {"now_s": float(self.asked), "cpu_s": float(self.asked), "busy_s": busy, **used}

    def block(self, calls: int) -> dict[str, Any]:
        ns = self.device.level(self.launch)
        return {"samples_ns": [ns] * calls, "wall_ns": ns * calls}

    def kernels(self) -> list[Any]:
        return []

    def state(self) -> dict[str, Any]:
        return State(float(self.asked), {}, {}, {}, {}, {}, (), {}, {}, None, None, None).as_dict()

    def energy(self, least_s: float) -> None:
        return None

    def notes(self) -> list[str]:
        return []

    def layers(self, calls: int) -> list[Any]:
        return [{"name": "c", "kind": "Conv", "kernel": "k", "precision": "i8", "time_ns": 7}]


TIMING = Timing(samples=60, rounds=6, launches=3, max_s=30.0)


def test_every_launch_is_a_set_of_fresh_processes_on_the_same_cores() -> None:
    device = Scripted()
    found = device.race(TIMING, "a", "b")
    assert device.started == 6
    assert {order["cores"][0] for _, do, order in device.orders if do == "load"} == {1}
    assert found["a"].rounds == found["b"].rounds == (2, 2, 2)
    assert (found["a"].load_s, found["a"].first_call_s, found["a"].batch) == (0.5, 0.2, 2)
    assert found["a"].warnings == ()


def test_both_orders_of_a_round_occur() -> None:
    device = Scripted()
    device.race(Timing(samples=60, rounds=12, launches=3, max_s=30.0), "a", "b")
    order = [launch % 2 for launch, do, _ in device.orders if do == "block"]
    assert {tuple(order[i : i + 2]) for i in range(0, len(order), 2)} == {(0, 1), (1, 0)}


def test_all_who_are_timed_get_the_same_orders() -> None:
    device = Scripted()
    device.race(TIMING, "a", "b", "c")
    told = [[do for number, do, _ in device.orders if number == agent] for agent in range(1, device.started + 1)]
    until = [tuple(orders[: orders.index("kernels")]) for orders in told]
    assert all(len(set(until[i : i + 3])) == 1 for i in range(0, len(until), 3))
    assert {"usage", "cores", "load", "warm", "state", "block"} == set(until[0])


def test_who_is_started_first_changes_from_launch_to_launch() -> None:
    device = Scripted()
    found = device.race(Timing(samples=60, rounds=12, launches=12, max_s=30.0, precision=0.0), "a", "b")
    loaded = [order["built"][-1] for _, do, order in device.orders if do == "load"]
    assert {tuple(loaded[i : i + 2]) for i in range(0, len(loaded), 2)} == {("a", "b"), ("b", "a")}
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize(("cold", "prepared"), [(True, {3, 4, 5, 6}), (False, {1, 2, 3, 4, 5, 6})])
def test_runtimes_are_imported_at_once_but_where_a_cold_start_is_timed(cold: bool, prepared: set[int]) -> None:
    device = Scripted()
    device.race(Timing(samples=60, rounds=6, launches=3, max_s=30.0, precision=0.0, cold=cold), "a", "b")
    assert {agent for agent, do, _ in device.orders if do == "prepare"} == prepared


def test_a_disturbed_launch_is_replaced_and_counted() -> None:
    device = Scripted(foreign=lambda launch: 0.5 if launch == 2 else 0.0)
    found = device.race(TIMING)["a"]
    assert device.started == 4
    assert found.rounds == (2, 2, 2)
    assert found.retried == 1
    assert found.warnings == ("1 disturbed launch was timed again",)


def test_replacing_has_a_limit_and_what_stays_disturbed_is_marked() -> None:
    device = Scripted(foreign=lambda launch: 0.5)
    found = device.race(TIMING)["a"]
    assert device.started == 3 + TIMING.retries
    assert "other processes used 0.5 of core 1 while timing (3 of 3 launches were disturbed)" in found.warnings


def test_no_time_left_replaces_nothing() -> None:
    device = Scripted(foreign=lambda launch: 0.5)
    device.race(Timing(samples=60, rounds=6, launches=3, max_s=1e-6))
    assert device.started == 3


def test_launches_are_added_until_the_median_is_known() -> None:
    wild = Scripted(level=lambda launch: 1_000_000 + 50_000 * (launch % 3))
    found = wild.race(TIMING)["a"]
    assert wild.started == EXTENDED * 3
    assert found.warnings == ("p50 is not bounded at 95% by so few samples, not to the ±1.0% asked for",)
    close = Scripted(level=lambda launch: 1_000_000 + 50_000 * (launch % 3))
    close.race(Timing(samples=60, rounds=6, launches=3, max_s=30.0, precision=0.0))
    assert close.started == 3


def test_launches_are_added_for_the_quantile_that_is_asked_for() -> None:
    started = {}
    for q in (0.5, 0.99, 0.999):
        device = Scripted()
        warnings = device.race(replace(TIMING, quantile=q))["a"].warnings
        started[q] = device.started
    assert started[0.5] == 3 < started[0.99] < started[0.999] == EXTENDED * 3
    assert warnings == ("p99.9 is not bounded at 95% by so few samples, not to the ±1.0% asked for",)


def test_layers_are_taken_once() -> None:
    device = Scripted()
    found = device.race(Timing(samples=60, rounds=6, launches=3, max_s=30.0, layers=True))["a"]
    assert sum(do == "layers" for _, do, _ in device.orders) == 1
    assert [layer.kernel for layer in found.layers] == ["k"]


@pytest.mark.parametrize(("mode", "streams", "cores"), [("latency", 1, 2), ("throughput", 2, 4)])
def test_throughput_runs_the_targets_streams_and_takes_their_cores(mode: str, streams: int, cores: int) -> None:
    device = Scripted()
    device.race(Timing(samples=60, rounds=6, launches=3, mode=mode), target=Cpu(threads=2, streams=2))
    assert {order["streams"] for _, do, order in device.orders if do == "warm"} == {streams}
    assert {order["count"] for _, do, order in device.orders if do == "cores"} == {cores}
