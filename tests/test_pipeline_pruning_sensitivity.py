"""Curves of accuracy against modules zeroed by hand, resuming, the picture, and the allocator that goes by curves."""

import copy
import json
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from conftest import run_cli
from torch import Tensor, nn

from pipeline import fingerprint
from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.allocate import sensitivity_wants
from pipeline.pruning.curves import Curve, Sensitivity
from pipeline.pruning.groups import Group
from pipeline.pruning.samples import Samples
from pipeline.pruning.sensitivity import Probe, sensitivity, top1
from pipeline.report.curves import picture
from pipeline.stages.prune import Prune
from tests.pruning_nets import built


def labelled(n: int = 24) -> tuple[nn.Module, Samples, Tensor]:
    """The VGG, which answers differently from sample to sample; labels are its answers: whole it scores 1."""
    model, x = built("vgg")
    inputs = torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.classifier[3].bias -= model(inputs).mean(0)
        labels = model(inputs).argmax(1)
    return model, Samples.of(inputs, labels, batch_size=n // 2), inputs


def norms(weight: Tensor) -> list[float]:
    return [sum(abs(v) for v in f.flatten().double().tolist()) for f in weight]


def without(model: nn.Module, group: str, gone: int) -> nn.Module:
    """The VGG with the filters of least norm silenced after their ReLU, by a hook."""
    masked = copy.deepcopy(model)
    place = int(group.partition(".")[2])
    least = sorted(
        range(len(norms(masked.features[place].weight))), key=norms(masked.features[place].weight).__getitem__
    )
    mask = torch.ones(len(least))
    mask[least[:gone]] = 0
    masked.features[place + 2].register_forward_hook(lambda _m, _i, out: out * mask[:, None, None])
    return masked


def test_curves_are_the_accuracy_with_those_channels_silenced() -> None:
    model, samples, inputs = labelled()
    alone = {"readers": False}  # as `without` ranks them
    found = sensitivity(model, Probe(samples, ratios=(0.25, 0.5, 0.9)), criterion_options=alone)
    assert found.baseline == 1.0
    assert {c.group for c in found.curves} == {"features.0", "features.4", "features.7", "features.11", "classifier.0"}
    for curve in found.curves:
        assert curve.gone == tuple(round(r * curve.units) for r in (0.25, 0.5, 0.9))
        if curve.group.startswith("features"):
            for gone, value in zip(curve.gone, curve.values, strict=True):
                with torch.no_grad():
                    answers = without(model, curve.group, gone)(inputs).argmax(1)
                assert value == pytest.approx((answers == samples.labels).double().mean().item(), abs=1e-5)
    assert min(v for c in found.curves for v in c.values) < 1


def test_any_metric_can_be_measured() -> None:
    model, samples, _ = labelled(8)

    def margin(outputs: Tensor, labels: Tensor) -> float:
        return float(outputs.gather(1, labels[:, None]).mean())

    found = sensitivity(model, Probe(samples, margin, "margin", (0.5,)), granularity="filter")
    with torch.no_grad():
        whole = margin(model(torch.cat([x for (x,), _ in samples.batches])), samples.labels)
    assert found.baseline == pytest.approx(whole, rel=1e-5)
    assert found.metric == "margin"


class Counting:
    """A progress that counts, and can stop the work after some steps."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.total, self.steps, self.stop_at = 0, 0, stop_at

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator["Counting"]:
        self.total += total
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.steps += steps
        if self.steps >= self.stop_at:
            raise KeyboardInterrupt


def counted(calls: list[int]) -> Callable[[Tensor, Tensor], float]:
    def metric(outputs: Tensor, labels: Tensor) -> float:
        calls.append(1)
        return top1(outputs, labels)

    return metric


def test_an_interrupted_analysis_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, samples, _ = labelled(8)
    path = tmp_path / "new" / "curves.json"
    calls: list[int] = []
    probe = Probe(samples, counted(calls), ratios=(0.3, 0.6))
    with pytest.raises(KeyboardInterrupt):
        sensitivity(model, probe, path=path, progress=Counting(stop_at=6))  # whole, two groups, one ratio of the third
    assert [c.group for c in Sensitivity.load(path).curves] == ["features.0", "features.4"]
    calls.clear()
    bar = Counting()
    found = sensitivity(model, probe, path=path, progress=bar)
    assert len(calls) == 6
    assert bar.total == 11
    assert found == sensitivity(model, Probe(samples, ratios=(0.3, 0.6))) == Sensitivity.load(path)
    model.features[0].weight.data *= 2
    with pytest.raises(UserError, match="holds curves of other weights, samples or settings; remove it"):
        sensitivity(model, probe, path=path)


def test_a_group_of_few_units_is_measured_once_per_width() -> None:
    probe = Probe(Samples.of(torch.zeros(2, 1), torch.zeros(2)))
    assert probe.gone(2) == (1,)
    assert probe.gone(4) == (1, 2, 3)
    assert probe.gone(100) == tuple(range(10, 100, 10))


@pytest.mark.parametrize("ratios", [(), (0.0,), (1.0, 0.5)])
def test_impossible_ratios_are_refused(ratios: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="ratios: the shares to remove must be above 0 and below 1"):
        Probe(Samples.of(torch.zeros(2, 1), torch.zeros(2)), ratios=ratios)


def curves(**drops: list[float]) -> Sensitivity:
    """Ten units each, measured without 1, 2, … of them."""
    found = [Curve(name, 10, tuple(range(1, len(d) + 1)), tuple(0.9 - v for v in d)) for name, d in drops.items()]
    return Sensitivity("top1", "l1", 100, 0.9, tuple(found))


def groups(*names: str) -> list[Group]:
    return [Group(name, 10, 1, ()) for name in names]


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.4, 0.55])
def test_one_threshold_takes_the_largest_ratio_below_it_from_each_group(ratio: float) -> None:
    rng = np.random.default_rng(0)
    drops = {name: (rng.random(9) * np.linspace(0.1, 1, 9)).tolist() for name in "abc"}  # not monotone
    kept = sensitivity_wants(curves(**drops), groups(*"abc"), [], ratio)

    def lost(threshold: float) -> list[int]:
        return [max((n for n in range(10) if n == 0 or drops[g][n - 1] <= threshold + 1e-12), default=0) for g in "abc"]

    options = sorted({-1.0, *(v for d in drops.values() for v in d)})
    best = max((lost(t) for t in options if sum(lost(t)) <= ratio * 30), key=sum)
    # between two thresholds several units of one group go together; those that still fit are taken
    assert all(10 - k >= n for k, n in zip(kept, best, strict=True))
    assert sum(10 - k for k in kept) <= ratio * 30 + 1e-9


def test_a_sensitive_group_keeps_its_units() -> None:
    found = curves(robust=[0.0] * 9, fragile=[0.3] * 9)
    assert sensitivity_wants(found, groups("robust", "fragile"), [], 0.4) == [2, 10]


def test_between_measured_ratios_the_drop_is_a_line_and_beyond_them_nothing_goes() -> None:
    found = Sensitivity("top1", "l1", 10, 0.9, (Curve("a", 10, (2, 6), (0.8, 0.4)),))
    prices = found.prices(groups("a")[0])
    assert prices == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.4, 0.5] + [np.inf] * 4)
    assert np.isinf(found.prices(groups("b")[0])).all()


def test_prune_by_curves_meets_a_budget(tmp_path: Path) -> None:
    model, samples, inputs = labelled()
    path = tmp_path / "curves.json"
    sensitivity(model, Probe(samples, ratios=(0.2, 0.4, 0.6, 0.8)), path=path)
    result = prune(model, inputs[:2], scope="sensitivity", sensitivity=path, target="macs", ratio=0.3)
    assert result.achieved == pytest.approx(0.3, abs=0.03)
    assert result.proof.holds
    result.plan.save(tmp_path / "plan.json")
    record = json.loads((tmp_path / "plan.json").read_text())["settings"]
    assert record["sensitivity"] == Sensitivity.load(path).digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": "sensitivity"}, "scope: 'sensitivity' goes by curves"),
        ({"sensitivity": curves(a=[0.1])}, "scope: 'sensitivity' goes by curves, and only it does"),
        ({"scope": "sensitivity", "sensitivity": "nowhere.json"}, "sensitivity: there is no file nowhere.json"),
        ({"scope": "sensitivity", "sensitivity": __file__}, "is no edgesmith.sensitivity/1"),
        ({"scope": "sensitivity", "sensitivity": curves(a=[0.1])}, "has a curve for none of the groups"),
        (
            {"scope": "sensitivity", "sensitivity": curves(**{"features.0": [0.1]})},
            "features.0 has 16 units, and 10 in the curves",
        ),
    ],
)
def test_missing_and_foreign_curves_are_refused(settings: dict[str, object], message: str) -> None:
    model, x = built("vgg")
    with pytest.raises(UserError, match=message) as error:
        prune(model, x, **settings)
    assert "\n" not in str(error.value)


def test_the_picture_has_every_curve_and_any_name_is_text() -> None:
    found = curves(**{"<script>&\x00": [0.1, 0.2], "b": [0.0]})
    drawn = picture(found, "a & b")
    root = ET.fromstring(drawn)  # noqa: S314, our own output
    svg = "{http://www.w3.org/2000/svg}"
    lines = [line.attrib["points"].split() for line in root.iter(f"{svg}polyline")]
    assert [len(points) for points in lines] == [3, 2]
    assert "<script>" not in drawn
    heights = [float(point.partition(",")[2]) for point in lines[0]]
    assert heights == sorted(heights)
    assert drawn == picture(found, "a & b")
    assert picture(Sensitivity("top1", "l1", 1, 0.5, ()), "none")


def test_the_verb_writes_curves_that_prune_goes_by(project: Path) -> None:
    folder = project.parent
    torch.save(runpy.run_path(str(folder / "my_model.py"))["build"]().state_dict(), folder / "w.pt")

    def ran(*args: str) -> "tuple[int, str, str]":
        done = run_cli(*args, "--set", "model.weights=w.pt", cwd=folder)
        return done.returncode, done.stdout, done.stderr

    code, told, errors = ran("sensitivity", "recipe.yaml", "--out", "curves", "--samples", "48")
    assert code == 0, errors
    assert "top1" in told
    assert {p.name for p in (folder / "curves").iterdir()} == {"sensitivity.json", "sensitivity.svg"}
    found = Sensitivity.load(folder / "curves" / "sensitivity.json")
    assert [(c.group, len(c.gone)) for c in found.curves] == [("0", 9), ("3", 9)]
    again = ran("sensitivity", "recipe.yaml", "--out", "curves", "--samples", "48")
    assert again[0] == 0, again[2]
    assert Sensitivity.load(folder / "curves" / "sensitivity.json") == found
    scope = ("--set", "stages.prune.scope=sensitivity")
    code, _, errors = ran("prune", "recipe.yaml", "--out", "a", *scope)
    assert code == 2
    assert "stages.prune: sensitivity: None is no file" in errors
    code, _, errors = ran(
        "prune", "recipe.yaml", "--out", "a", *scope, "--set", "stages.prune.sensitivity=curves/sensitivity.json"
    )
    assert code == 0, errors
    settings = json.loads((folder / "a" / "plan.json").read_text())["settings"]
    assert (settings["scope"], settings["sensitivity"]) == ("sensitivity", found.digest)


def test_the_content_of_the_curves_is_part_of_the_stages_key(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    keys = []
    for drops in ([0.1, 0.2], [0.1, 0.3]):
        curves(a=drops).save(path)
        stage = Prune(model=None, data=None, scope="sensitivity", sensitivity=str(path))  # type: ignore[arg-type]
        keys.append(fingerprint.of_value(stage))
    moved = path.rename(tmp_path / "elsewhere.json")
    same = Prune(model=None, data=None, scope="sensitivity", sensitivity=str(moved))  # type: ignore[arg-type]
    assert keys[0] != keys[1] == fingerprint.of_value(same)


def test_options_that_do_not_go_together_are_told_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    curves(a=[0.1]).save(path)
    fits = {"scope": "sensitivity", "sensitivity": str(path), "schedule": None}
    assert Prune.wrong(fits) is None
    for changed, line in (
        ({"sensitivity": None}, "None is no file"),
        ({"sensitivity": str(tmp_path / "no.json")}, "no.json is no file"),
        ({"scope": "local"}, "is for scope sensitivity alone"),
        ({"schedule": object()}, "curves are of the whole network, not of its steps"),
    ):
        assert line in (Prune.wrong({**fits, **changed}) or "")
