"""The stage: what it writes, how it goes with the others, and what becomes of a result that is slower."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from conftest import run_cli, write_project

from pipeline import checkpoint, recipe
from pipeline.assess import Assessor, Built
from pipeline.core import Done
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.report.schema import Interval, Verdict
from pipeline.report.table import count
from pipeline.standalone import run_stage
from pipeline.store import Artifact
from pipeline.verdict import judge

RULE = "factorize: {energy: 0.5, round_to: 1, recalibrate: 2}"


def with_stage(folder: Path, line: str = RULE) -> Path:
    """Write the project with the stage before finetune, which ends after one epoch."""
    path = write_project(folder)
    text = path.read_text().replace("  finetune: {epochs: 2", f"  {line}\n  finetune: {{epochs: 1")
    path.write_text(text)
    return path


def run(path: Path, name: str, start: Path | None, out: Path) -> checkpoint.Info:
    return run_stage(recipe.load(path), name, start, out, SILENT)


def schemas(folder: Path) -> list[str]:
    return [plan.schema for plan in checkpoint.plans_in(folder)]


def check_loads(path: Path, folder: Path) -> None:
    """The folder gives a model again, which does what its ONNX file does."""
    loaded = recipe.load(path)
    data = loaded.data_spec()
    model, _ = checkpoint.load(folder, loaded.model_spec(), data)
    x = data.load().calibration[:1][0]
    (expected,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"input": x})
    torch.testing.assert_close(model.eval()(torch.from_numpy(x)), torch.from_numpy(expected), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("order", [("prune", "factorize"), ("factorize", "prune")])
def test_it_goes_before_and_after_pruning_and_is_trained(tmp_path: Path, order: tuple[str, str]) -> None:
    path = with_stage(tmp_path / "project")
    infos, previous = [], None
    for name in (*order, "finetune"):
        infos.append(run(path, name, previous, tmp_path / name))
        previous = tmp_path / name
    assert infos[0].macs > infos[1].macs == infos[2].macs
    kinds = {"prune": "edgesmith.plan/2", "factorize": "edgesmith.lowrank/1"}
    assert schemas(tmp_path / "finetune") == [kinds[name] for name in order]
    check_loads(path, tmp_path / "finetune")
    told = json.loads((tmp_path / "factorize" / "info.json").read_text())["figures"]
    assert told["ranks"] == "energy 0.5"
    assert told["proof_max_rel_error"] < 1e-4
    assert {layer["method"] for layer in told["layers"]} & {"svd", "tucker"}


def test_what_changes_nothing_adds_no_plan(tmp_path: Path) -> None:
    path = with_stage(tmp_path / "project", "factorize: {energy: 1.0}")
    info = run(path, "factorize", None, tmp_path / "out")
    assert schemas(tmp_path / "out") == []
    assert info.macs == info.figures["macs_before"]


def test_layers_with_zeros_that_are_to_stay_are_left_whole(tmp_path: Path) -> None:
    path = with_stage(tmp_path / "project")
    path.write_text(path.read_text().replace("prune: {ratio: 0.5,", "prune: {ratio: 0.5, granularity: [weight],"))
    run(path, "prune", None, tmp_path / "pruned")
    info = run(path, "factorize", tmp_path / "pruned", tmp_path / "out")
    assert {layer["why"] for layer in info.figures["layers"]} == {"ignored"}
    assert schemas(tmp_path / "out") == ["edgesmith.plan/2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{energy: 0.9, budget: 0.5}", "stages.factorize: energy and budget are rules for the same ranks"),
        ("{vbmf: true, energy: 0.0}", "stages.factorize: energy and vbmf are rules"),
        ("{energy: 1.5}", "stages.factorize.energy: input should be less than or equal to 1"),
        ("{budget: 0.0}", "stages.factorize.budget: input should be greater than 0"),
        ("{method: tuker}", "stages.factorize.method"),
        ("{on_regression: refuse}", "stages.factorize.on_regression"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe.load(with_stage(tmp_path, f"factorize: {options}"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_packages_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"stages\.factorize: factorize needs tensorly and scipy: pip install"):
        recipe.load(with_stage(tmp_path))


def test_the_rule_is_the_one_given(tmp_path: Path) -> None:
    rules = {"{}": "energy 0.9", "{vbmf: true}": "vbmf", "{budget: 0.4, of: params}": "budget 0.4 of params"}
    for options, expected in rules.items():
        loaded = recipe.load(with_stage(tmp_path, f"factorize: {options}"))
        shared = {"model": loaded.model_spec(), "data": loaded.data_spec(), "align": 4}
        stage: Any = loaded.stage("factorize", shared)
        assert (str(stage.ranks), stage.round_to) == (expected, 4)
        assert loaded.policy("factorize") == "reject_slower"


def test_the_command_line_prints_ranks_and_reasons_and_diff_tells_them_apart(tmp_path: Path) -> None:
    with_stage(tmp_path)
    done = run_cli("factorize", "recipe.yaml", "--out", "a", "--set", "stages.factorize.ignore=['0']", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "whole, ignored: 0\n" in done.stdout
    assert "svd" in done.stdout or "tucker" in done.stdout
    done = run_cli("factorize", "recipe.yaml", "--out", "b", "--set", "stages.factorize.energy=0.2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert " | " in run_cli("diff", "a", "b", cwd=tmp_path).stdout
    assert run_cli("diff", "a", "a", cwd=tmp_path).stdout == "the plans do the same\n"


def test_a_deployed_model_is_pruned_factorised_trained_and_int8(tmp_path: Path) -> None:
    with_stage(tmp_path, RULE.replace("}", ", on_regression: warn}"))
    done = run_cli("deploy", "recipe.yaml", "--target", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "artifacts/recipe/cpu/report.json").read_text())
    rows = {row["stage"]: row for row in report["stages"]}
    assert list(rows) == ["source", "prune", "factorize", "finetune", "calibrate", "export", "compile"]
    macs = [rows[name]["macs"] for name in ("source", "prune", "factorize")]
    assert macs == sorted(macs, reverse=True)
    assert macs[1] > macs[2] == rows["finetune"]["macs"] == rows["compile"]["macs"]
    assert rows["factorize"]["figures"]["layers"]
    written = (tmp_path / "artifacts/recipe/cpu/report.md").read_text()
    table = written.partition("## Low rank")[2].partition("\n\nfactorize: ranks by energy 0.5;")[0]
    factored = [layer["name"] for layer in rows["factorize"]["figures"]["layers"] if layer["ranks"]]
    named = [line.split(" | ")[0].removeprefix("| ") for line in table.split("\n\n")[1].splitlines()]
    assert named[2:] == [*factored, "the model"]
    assert f"{count(macs[1])} → {count(macs[2])}" in table.splitlines()[-1]
    assert (tmp_path / "artifacts/recipe/cpu/model/model.xml").is_file()


class Staged(Assessor):
    """Takes verdicts as given: what is built and measured is another test's business."""

    def _build(self, done: Done) -> Built:
        name = done.stage.name()
        return SimpleNamespace(stage=name, artifact=done.artifact, digest=name)  # type: ignore[return-value]

    def _measured_row(self, done: Done, *_: Built) -> Any:
        return SimpleNamespace(verdict=done.stage.verdict)


@pytest.mark.parametrize(("policy", "expected"), [("reject_slower", "prune"), ("reject", "source")])
def test_a_slower_result_gives_way_to_what_it_was_made_from(policy: str, expected: str) -> None:
    """Not to the last one within the budget: what is pruned is yet to be trained."""

    def done(name: str, kind: str, rejected: bool = False) -> Done:
        stage = SimpleNamespace(name=lambda: name, verdict=Verdict(kind=kind, text="", rejected=rejected))
        return Done(stage, Artifact(Path(name), name), {}, False, 0.0)  # type: ignore[arg-type]

    assessor = Staged(meter=None, recipe=SimpleNamespace(policy=lambda stage: policy), proxy=False)  # type: ignore[arg-type]
    assert assessor.on_done(done("source", "reference")).path.name == "source"
    assert assessor.on_done(done("prune", "inaccurate")).path.name == "prune"
    assert assessor.on_done(done("factorize", "slower", rejected=True)).path.name == expected
    assert assessor.on_done(done("finetune", "pays")).path.name == "finetune"


def test_slower_is_rejected_though_it_is_inaccurate_too_and_inaccurate_alone_is_not() -> None:
    from test_pipeline_verdict import evidence

    both = judge(evidence((1.2, 1.1, 1.3), accuracy=0.5), max_drop=1.0, policy="reject_slower")
    assert (both.kind, both.rejected) == ("slower", True)
    assert "slower than finetune" in both.text
    assert "rejected, source goes on" in both.text
    for given in (evidence(accuracy=0.5), evidence((1.0, 0.9, 1.1), accuracy=0.5), evidence(None, accuracy=0.5)):
        alone = judge(given, max_drop=1.0, policy="reject_slower")
        assert (alone.kind, alone.rejected) == ("inaccurate", False)
    assert judge(evidence(), max_drop=1.0, policy="reject_slower").kind == "pays"
    unsure = evidence((1.1, 0.9, 1.3))
    assert isinstance(unsure.ratio, Interval)
    assert not judge(unsure, max_drop=1.0, policy="reject_slower").rejected
