"""Measured placement inside `edgesmith quantize`, and what is told of it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibration_nets import calibrated, resnet, samples
from rich.console import Console

from calibration.kernels import Layer
from calibration.measured import Found, Trial
from calibration.parts import Part, parts
from calibration.placement import place as placed
from pipeline import devices
from pipeline.errors import UserError
from pipeline.placing import AT_LEAST, Limits, Wanted, layer_costs, race_timing, summary, told
from pipeline.progress import SILENT
from pipeline.quantized import Raced, _verdict, quantize
from pipeline.quantizing import Job, Settings
from pipeline.report.quantized import Quantized, show
from pipeline.report.schema import Interval, MeasuredPlacement
from targets.backends.mobile import Mobile
from targets.devices.base import Timing

QUICK = Timing(samples=50, rounds=3, launches=1, max_s=1.0, precision=0.0)


def job(folder: Path, **settings: Any) -> Job:
    target = Mobile()
    chosen = Settings(samples=16, placement="measured", store=folder / "store", races=2, **settings)
    return Job(
        folder / "net.onnx", folder / "x.npz", target, devices.place(target, "local"), chosen, SILENT, timing=QUICK
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(resnet(), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=samples(24))
    return tmp_path


def test_it_ends_in_a_valid_model_with_a_trail_and_resumes(folder: Path) -> None:
    made = job(folder, min_sqnr=5.0)
    report = quantize(made, folder / "one.onnx")
    found = report.placement
    assert found is not None
    assert found.floor == 5.0
    assert found.trials[0].change == "everything in int8"
    assert report.accuracy is not None
    assert report.accuracy.int8 >= 5.0
    onnx.checker.check_model(folder / "one.onnx", full_check=True)
    left = {name for name, why in report.kept_float.items() if why == "left in float by measured placement"}
    assert left == (set(found.floats) if found.outcome == "mixed" else set())
    assert Quantized.model_validate_json((folder / "one.json").read_text()).placement == found
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    assert found.text in console.file.getvalue()

    entries = sorted((folder / "store" / "entries").iterdir())
    assert quantize(made, folder / "two.onnx").placement == found
    assert sorted((folder / "store" / "entries").iterdir()) == entries, "timed again"


def test_where_nothing_can_be_timed_it_is_an_error_before_any_work(folder: Path) -> None:
    (folder / "x.npz").unlink()
    made = job(folder)
    assert made.place is not None
    for place in (None, replace(made.place, why_not="no GPU")):
        with pytest.raises(UserError, match="measured is timed on the device, and nothing can be timed here") as error:
            quantize(replace(made, place=place), folder / "out.onnx")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--method dynamic has nothing to place"):
        quantize(job(folder, method="dynamic"), folder / "out.onnx")
    assert not (folder / "store").exists()


RATIO = Interval(value=0.9, low=0.8, high=0.95)
EVERY = frozenset({"a", "b"})


def found_in(floats: frozenset[str], outcome: Any, ratio: Interval | None) -> Found:
    trial = Trial("a in float", frozenset({"a"}), frozenset(), RATIO, True, "faster", 0.9)
    first = Trial("everything in int8", frozenset(), EVERY, RATIO, False, "to compare with float")
    return Found(floats, outcome, ratio, 0.9, True, (first, trial))


@pytest.mark.parametrize(("policy", "says"), [("warn", "written all the same"), ("reject", "nothing was written")])
def test_float_that_is_as_fast_is_what_ships(folder: Path, policy: str, says: str) -> None:
    placement = told(found_in(EVERY, "float", None), Wanted(), EVERY)
    verdict = _verdict(job(folder, on_regression=policy), Raced({"float": 9, "int8": 3}, {}), RATIO, placement)
    assert (verdict.kind, verdict.rejected) == ("slower", policy == "reject")
    assert verdict.text.startswith("no placement with int8 is faster than float")
    assert says in verdict.text


def test_what_is_told() -> None:
    mixed = told(found_in(frozenset({"a"}), "mixed", RATIO), Wanted(lambda floats: 0.9, 0.8), EVERY)
    assert MeasuredPlacement.model_validate_json(mixed.model_dump_json()) == mixed
    assert [(trial.against, trial.kept) for trial in mixed.trials] == [("float", False), ("int8", True)]
    assert (mixed.floor, mixed.accuracy, mixed.floats) == (0.8, 0.9, ("a",))
    assert mixed.text == "1 ops in float, 1.11× as fast as float (2 comparisons)"
    assert summary(replace(found_in(frozenset(), "int8", RATIO), complete=False)).endswith("a limit ended the search")
    assert "float goes on" in summary(found_in(EVERY, "float", None))
    assert "below the accuracy floor" in summary(found_in(EVERY, "unreached", None))


def test_comparisons_are_short_and_no_longer_than_the_recipes() -> None:
    assert race_timing(Timing(layers=True)) == Timing(samples=300, rounds=12, launches=6, max_s=15.0, precision=0.0)
    assert race_timing(QUICK) == QUICK
    assert Limits().races == 60


def test_a_layer_costs_its_share_of_its_part_by_work() -> None:
    def part(name: str, *macs: int) -> Part:
        layers = tuple(Layer((f"{name}{i}",), "Conv", n) for i, n in enumerate(macs))
        return Part(name, frozenset(layer.name for layer in layers), layers)

    cut = (part("a", 30, 10), part("b", 40), part("c", 20), Part("adds", frozenset({"x"})))
    ratios = {"a": Interval(value=1.4, low=1.3, high=1.5), "b": Interval(value=0.7, low=0.6, high=0.8)}
    costs = layer_costs(cut, ratios)
    least = {name: AT_LEAST * work / 100 for name, work in {"a0": 30, "a1": 10, "b0": 40, "c0": 20}.items()}
    measured = {"a0": 0.3, "a1": 0.1, "b0": 0.0, "c0": 20 * 0.4 / 80}  # c was not timed: as others are on average
    assert costs == pytest.approx({name: measured[name] + least[name] for name in measured})


def test_every_layer_has_a_cost() -> None:
    net = resnet()
    whole = placed(net, calibrated(net), Mobile.scheme)
    cut = parts(net, whole, Mobile.scheme)
    assert set(layer_costs(cut, {})) == {layer.name for part in cut for layer in part.layers}
    assert all(cost > 0 for cost in layer_costs(cut, {}).values())
