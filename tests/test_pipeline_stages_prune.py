"""Pruning in steps, with training between them, as the stage does it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import write_project

from pipeline import checkpoint, recipe, stepwise
from pipeline.errors import UserError
from pipeline.progress import SILENT, Bar, Progress
from pipeline.store import Artifact
from pipeline.training.evaluate import Score

TRAINING = "finetune: {epochs: 2, epoch_size: 64, batch_size: 32, lr: 0.01, warmup: 0}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    path = write_project(folder)
    (folder / "source").mkdir()
    loaded = recipe.load(path)
    loaded.stage("source", shared_of(loaded)).run({}, folder / "source", SILENT)
    return path


def shared_of(loaded: recipe.Recipe) -> dict[str, object]:
    return {"model": loaded.model_spec(), "data": loaded.data_spec()}


def prune(path: Path, out: Path, *overrides: str, progress: Progress = SILENT) -> dict[str, object]:
    """Run the stage; return its figures, with the plans that it wrote."""
    loaded = recipe.load(
        path, [f"stages.prune.{text}" for text in ("ratio=0.5", "min_width=1", "round_to=1", *overrides)]
    )
    out.mkdir(exist_ok=True)
    inputs = {"previous": Artifact(path.parent / "source", "")}
    loaded.stage("prune", shared_of(loaded)).run(inputs, out, progress)
    figures = json.loads((out / "info.json").read_text())["figures"]
    checkpoint.load(out, loaded.model_spec(), loaded.data_spec())
    return {**figures, "plans": len(checkpoint.plans_in(out))}


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [("kind: iterative, steps: 2", 2), ("kind: during, steps: 2", 2), ("kind: iterative, steps: 3, curve: cubic", 3)],
)
def test_steps_reach_the_ratio_together(project: Path, tmp_path: Path, schedule: str, steps: int) -> None:
    told = prune(project, tmp_path / "out", f"schedule={{{schedule}, {TRAINING}}}")
    assert told["plans"] == steps
    assert len(told["steps"]) == steps  # type: ignore[arg-type]
    assert told["achieved_ratio"] == pytest.approx(0.5, abs=0.1)
    assert told["proof_max_rel_error"] < 1e-4  # type: ignore[operator]
    assert not (tmp_path / "out" / "steps").exists()


def test_layerwise_takes_one_group_after_the_other(project: Path, tmp_path: Path) -> None:
    told = prune(project, tmp_path / "out", f"schedule={{kind: layerwise, {TRAINING}}}")
    plans = checkpoint.plans_in(tmp_path / "out")
    cut = [[group.name for group in plan.groups] for plan in plans]
    assert [len(names) for names in cut] == [1] * len(plans)
    assert len({names[0] for names in cut}) == len(plans) > 1
    assert told["achieved_ratio"] == pytest.approx(0.5, abs=0.1)


def test_until_ends_where_accuracy_does(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    until = "schedule={kind: until, steps: 4, max_drop: 1, finetune: {epochs: 0}}"
    top1 = iter([0.9, 0.91, 0.895, 0.88, 0.95])  # before any step, then after each
    monkeypatch.setattr(stepwise, "evaluate", lambda *_: Score(0.0, next(top1), 1))
    loads: list[str] = []
    load = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda folder, *a: loads.append(folder.name) or load(folder, *a))
    told = prune(project, tmp_path / "out", until)
    assert loads == ["source", "step-0", "step-1", "step-2", "step-1", "out"]  # each once, and the one to go back to
    assert [step["validation_top1"] for step in told["steps"]] == [0.91, 0.895]  # type: ignore[attr-defined]
    assert told["plans"] == 2
    assert told["achieved_ratio"] == pytest.approx(1 - 0.5**0.5, abs=0.1)


def test_weights_are_fit_to_the_samples_where_that_is_asked_for(project: Path, tmp_path: Path) -> None:
    plain = prune(project, tmp_path / "plain", "recalibrate=0")
    fit = prune(project, tmp_path / "fit", "recalibrate=0", "reconstruct=true", "samples=32")
    assert fit["achieved_ratio"] == plain["achieved_ratio"]
    assert fit["proof_max_rel_error"] < 1e-4  # type: ignore[operator]
    loaded = recipe.load(project)
    models = [checkpoint.load(tmp_path / n, loaded.model_spec(), loaded.data_spec())[0] for n in ("plain", "fit")]
    changed = {name for name, t in models[0].state_dict().items() if not torch.equal(t, models[1].state_dict()[name])}
    assert changed
    assert all(name.endswith("weight") for name in changed)


class InterruptedHere(BaseException):
    """Stands for Ctrl-C."""


class Stopping:
    """Progress that interrupts the second step's training."""

    def __init__(self) -> None:
        self.epochs = 0

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        self.epochs += label.startswith("epoch 2/2")
        if self.epochs == 2:
            raise InterruptedHere
        with SILENT.bar(label, total) as bar:
            yield bar


def test_an_interrupted_run_goes_on_with_the_step_it_was_in(project: Path, tmp_path: Path) -> None:
    schedule = f"schedule={{kind: iterative, steps: 2, {TRAINING}}}"
    whole = prune(project, tmp_path / "whole", schedule)
    with pytest.raises(InterruptedHere):
        prune(project, tmp_path / "out", schedule, progress=Stopping())
    assert sorted(p.name for p in (tmp_path / "out" / "steps").iterdir()) == ["1.training", "step-0"]
    assert prune(project, tmp_path / "out", schedule) == whole
    weights = [tmp_path / name / "weights.safetensors" for name in ("whole", "out")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("schedule={kind: layerwise}", "scope=global"), "layerwise takes one share"),
        (("schedule={}", "granularity=[filter, weight]"), "single weights go at once"),
        (("schedule={kind: layerwise}", "granularity=[filter, block]"), "leave block out of granularity"),
        (("schedule={kind: layerwise}", "granularity=[layer, block]"), "leave block and layer out of granularity"),
        (("schedule={kind: layerwise}", "scope=pfa_kl", "criterion=pfa"), "scope pfa_kl takes no ratio"),
        (("schedule={kind: until}", "scope=pfa_kl", "criterion=pfa"), "scope pfa_kl takes no ratio"),
        (("schedule={}", "scope=pfa_kl", "criterion=pfa"), "leave it out, or set scope: energy"),
    ],
)
def test_what_a_schedule_cannot_do_is_refused_before_any_work(
    project: Path, tmp_path: Path, overrides: tuple[str, ...], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        prune(project, tmp_path / "out", *overrides)


def test_energy_reaches_the_ratio_in_steps(project: Path, tmp_path: Path) -> None:
    schedule = "schedule={kind: iterative, steps: 2, finetune: {epochs: 0}}"
    told = prune(project, tmp_path / "out", schedule, "scope=energy", "criterion=pfa", "samples=32")
    assert told["plans"] == 2
    assert told["achieved_ratio"] == pytest.approx(0.5, abs=0.1)
