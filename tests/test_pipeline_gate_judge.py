"""What is a regression, what is none, and what cannot be told."""

from math import exp

import pytest
from gate_runs import covered, proportion, row

from pipeline.errors import UserError
from pipeline.gate.evidence import Ratio
from pipeline.gate.judge import (
    Memory,
    Timed,
    judged_accuracy,
    judged_int8,
    judged_latency,
    judged_memory,
    judged_size,
    not_judged,
    overall,
)
from pipeline.gate.tolerances import METRICS, Gate, overridden, validated
from pipeline.recipe import load


def timed(value: float, half: float) -> Timed:
    return Timed(1.0, value, Ratio(value, value * exp(-half), value * exp(half), 2 * half))


@pytest.mark.parametrize(
    ("value", "half", "outcome"),
    [
        (1.00, 0.005, "pass"),
        (1.05, 0.005, "regression"),
        (0.80, 0.005, "pass"),
        (1.015, 0.01, "pass"),  # spans the limit, but is known well enough
        (1.025, 0.01, "cannot tell"),
        (1.00, 0.05, "cannot tell"),
        (1.50, 0.60, "cannot tell"),
        (0.90, 0.06, "pass"),
    ],
)
def test_latency_is_judged_by_the_whole_interval(value: float, half: float, outcome: str) -> None:
    found = judged_latency("p50", timed(value, half), 2.0)
    assert found.outcome == outcome
    assert found.change == pytest.approx(100 * (value - 1))
    assert found.detectable == pytest.approx(100 * (1.02 * exp(2 * half) - 1))


@pytest.mark.parametrize(("run", "outcome"), [(1000, "pass"), (1010, "pass"), (1011, "regression"), (10, "pass")])
def test_size_is_exact(run: int, outcome: str) -> None:
    assert judged_size(1000, run, 1.0).outcome == outcome


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        ((100, 101, 100, 99), "pass"),
        ((120, 121, 120, 121), "regression"),
        ((101, 120, 120, 120), "cannot tell"),  # not every one
        ((120, 121), "cannot tell"),  # too few
        ((50,), "pass"),
    ],
)
def test_memory_is_worse_where_every_peak_is(run: tuple[int, ...], outcome: str) -> None:
    found = judged_memory(Memory((99, 100, 100, 100), run), 5.0)
    assert found.outcome == outcome
    assert (found.detectable is None) == (len(run) < 4)


def test_a_rise_in_memory_of_what_is_told_as_detectable_is_found() -> None:
    peaks = (98_000, 99_000, 100_000, 101_000)
    rise = 1 + (judged_memory(Memory(peaks, peaks), 5.0).detectable or 0) / 100
    for factor, outcome in ((rise * 1.001, "regression"), (rise * 0.99, "cannot tell")):
        run = tuple(round(peak * factor) for peak in peaks)
        assert judged_memory(Memory(peaks, run), 5.0).outcome == outcome


def test_one_peak_of_each_is_no_evidence() -> None:
    found = judged_memory(Memory((100,), (200,)), 5.0)
    assert found.outcome == "cannot tell"
    assert "too few peaks (1)" in found.text


@pytest.mark.parametrize(
    ("run", "n", "outcome"),
    [
        (9200, 10000, "pass"),
        (9150, 10000, "pass"),  # just the tolerance
        (9140, 10000, "cannot tell"),  # more than it, and maybe chance
        (9000, 10000, "regression"),
        (9500, 10000, "pass"),
        (90, 100, "cannot tell"),
    ],
)
def test_accuracy_is_worse_where_it_is_no_chance(run: int, n: int, outcome: str) -> None:
    found = judged_accuracy(proportion(9200 * n // 10000, n), proportion(run, n), 0.5)
    assert found.outcome == outcome
    assert found.low is not None
    assert found.change is not None
    assert found.low < found.change


def test_int8_coverage() -> None:
    int8, less, floats = (row(coverage=c) for c in (covered(10, 10), covered(9, 10), None))
    assert judged_int8(int8, int8, 0).outcome == "pass"
    assert judged_int8(int8, less, 0).outcome == "regression"
    assert judged_int8(int8, less, 10).outcome == "pass"
    assert judged_int8(int8, floats, 0).outcome == "regression"
    assert judged_int8(floats, int8, 0).outcome == "pass"
    assert judged_int8(floats, floats, 0).outcome == "not judged"


def test_what_decides() -> None:
    gate = Gate()
    slow = judged_latency("p99", timed(1.5, 0.01), 10)
    untold = judged_latency("p99", timed(1.0, 0.5), 10)
    assert overall([slow, untold], gate) == "regression"
    assert overall([untold], gate) == "pass"  # p99 is not decisive
    assert overall([untold], Gate(decisive=("p99",))) == "cannot tell"
    assert overall([not_judged("p50", "refused", "cannot tell")], gate) == "cannot tell"


def test_tolerances_as_people_write_them(project) -> None:  # type: ignore[no-untyped-def]
    sets = ["gate.p50=3%", "gate.p90=7", "gate.accuracy=0.25", "gate.p99=null", "gate.decisive=[p50, int8]"]
    gate = load(project, sets).sections.gate
    assert (gate.p50, gate.p90, gate.p99, gate.accuracy, gate.size) == (3.0, 7.0, None, 0.25, 1.0)
    assert gate.decisive == ("p50", "int8")
    assert load(project).sections.gate == Gate()
    for wrong, told in (("gate.p5=3%", "unknown key 'p5'"), ("gate.p50=much", "p50"), ("gate.p50=-1%", "p50")):
        with pytest.raises(UserError, match=told):
            load(project, [wrong])


def test_tolerances_from_the_command_line() -> None:
    found = overridden(Gate(), ["p50=4%", "size=off", "accuracy=1"])
    assert (found.p50, found.size, found.accuracy, found.p90) == (4.0, None, 1.0, 5.0)
    for wrong in ("p50", "p5=3%", "p50=x", "max_s=3", "p50=-3", "p50=nan"):
        with pytest.raises(UserError, match="--tolerance"):
            overridden(Gate(), [wrong])
    assert validated(Gate().model_dump(), "x") == Gate()
    assert "p50" in METRICS
    assert "max_s" not in METRICS
