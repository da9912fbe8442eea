"""The stage on folders as the stages before it write them."""

import json
from pathlib import Path

import pytest
import torch
from conftest import run_cli

from pipeline import checkpoint, core, recipe
from pipeline.core import Stage
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.store import Artifact


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A project's recipe, and the folders of its source and prune."""
    from conftest import write_project

    folder = tmp_path_factory.mktemp("project")
    path = write_project(folder)
    loaded = recipe.load(path)
    shared = shared_of(loaded)
    for name, inputs in (("source", {}), ("prune", {"previous": Artifact(folder / "source", "")})):
        (folder / name).mkdir()
        loaded.stage(name, shared).run(inputs, folder / name, SILENT)
    return path, folder / "source", folder / "prune"


def shared_of(loaded: recipe.Recipe) -> dict[str, object]:
    return {"model": loaded.model_spec(), "data": loaded.data_spec()}


def stage_of(path: Path, *overrides: str) -> Stage:
    loaded = recipe.load(path, [f"stages.finetune.{text}" for text in overrides])
    return loaded.stage("finetune", shared_of(loaded))


def run(pruned: tuple[Path, Path, Path], out: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """Run the stage; return the weights it wrote."""
    path, source, prune = pruned
    stage = stage_of(path, *overrides)
    inputs = {"previous": Artifact(prune, ""), "source": Artifact(source, "")}
    out.mkdir()
    stage.run({name: inputs[name] for name in stage.reads()}, out, SILENT)
    shared = shared_of(recipe.load(path))
    return checkpoint.load(out, shared["model"], shared["data"])[0].state_dict()


def figures(folder: Path) -> dict[str, object]:
    return json.loads((folder / "info.json").read_text())["figures"]


def test_distillation_reads_the_source_and_nothing_else_does(pruned: tuple[Path, Path, Path]) -> None:
    path = pruned[0]
    assert stage_of(path).reads() == ("previous",)
    assert stage_of(path, "distill={response: 1}").reads() == ("previous", "source")
    done = {name: Artifact(path.parent, name) for name in ("source", "previous", "prune")}
    read = core.inputs_of(stage_of(path, "distill={}"), done)
    assert read == {"previous": done["previous"], "source": done["source"]}


def test_a_pruned_model_learns_from_its_source(pruned: tuple[Path, Path, Path], tmp_path: Path) -> None:
    plain = run(pruned, tmp_path / "plain")
    mixed = "{response: 0.5, hard: 0.5, feature: 1, relation_distance: 1, relation_angle: 1}"
    taught = run(pruned, tmp_path / "taught", f"distill={mixed}")
    assert plain.keys() == taught.keys()
    assert not all(torch.equal(plain[name], taught[name]) for name in plain)
    assert figures(tmp_path / "taught")["taps"] == ["2", "5"]
    assert "taps" not in figures(tmp_path / "plain")
    assert figures(tmp_path / "plain")["devices"] == 1
    assert sorted(p.name for p in (tmp_path / "taught").iterdir()) == sorted(
        p.name for p in (tmp_path / "plain").iterdir()
    )


def test_a_teacher_with_all_the_weight_on_labels_but_a_hair_changes_next_to_nothing(
    pruned: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    plain = run(pruned, tmp_path / "plain", "precision=f32", "epochs=1")
    taught = run(pruned, tmp_path / "taught", "distill={response: 1.0e-7, hard: 1}", "precision=f32", "epochs=1")
    for name, tensor in plain.items():
        torch.testing.assert_close(taught[name], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{temprature: 3}", "stages.finetune.distill: unknown key 'temprature'; did you mean 'temperature'?"),
        ("{temperature: 0}", "stages.finetune.distill.temperature: input should be greater than 0, got 0"),
        ("{response: -1}", "stages.finetune.distill.response: input should be greater than or equal to 0"),
        ("{response: much}", "stages.finetune.distill.response: input should be a valid number"),
        ("{response: 0}", "stages.finetune.distill: nothing is learned from the teacher; give a weight"),
        ("{taps: []}", "stages.finetune.distill.taps: "),
        ("yes", "stages.finetune.distill: "),
    ],
)
def test_wrong_distillation_is_one_line(pruned: tuple[Path, Path, Path], given: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe.load(pruned[0], [f"stages.finetune.distill={given}"])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_devices_without_lightning_are_refused_before_any_work(
    pruned: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    command = r"devices: 3 needs lightning_fabric: pip install 'edgesmith\[fabric\]'"
    with pytest.raises(UserError, match=rf"stages\.finetune: {command}"):
        recipe.load(pruned[0], ["stages.finetune.devices=3"])
    with pytest.raises(UserError, match=rf"stages\.prune: schedule\.finetune: {command}"):
        recipe.load(pruned[0], ["stages.prune.schedule={finetune: {epochs: 1, devices: 3}}"])
    assert recipe.load(pruned[0], ["stages.finetune.devices=auto"]).options("finetune")["devices"] == "auto"


def test_the_verb_finds_the_teacher_without_being_told(pruned: tuple[Path, Path, Path]) -> None:
    path, _, prune = pruned
    done = run_cli(
        *("finetune", path.name, "--from", prune, "--out", "tuned"),
        *("--set", "stages.finetune.distill={feature: 1, taps: ['2']}", "--set", "stages.finetune.epochs=1"),
        cwd=path.parent,
    )
    assert done.returncode == 0, done.stderr
    assert figures(path.parent / "tuned")["taps"] == ["2"]


def test_from_scratch_keeps_the_architecture_and_nothing_that_was_learned(
    pruned: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    path, _, prune = pruned
    shared = shared_of(recipe.load(path))
    start = checkpoint.load(prune, shared["model"], shared["data"])[0].state_dict()
    drawn = run(pruned, tmp_path / "drawn", "from_scratch=true", "epochs=0", "seed=3")
    again = run(pruned, tmp_path / "again", "from_scratch=true", "epochs=0", "seed=3")
    trained = run(pruned, tmp_path / "trained", "from_scratch=true", "distill={}")
    assert {n: t.shape for n, t in drawn.items()} == {n: t.shape for n, t in start.items()}
    for name, tensor in drawn.items():
        assert torch.equal(tensor, again[name])
        if name.endswith("weight") and tensor.ndim > 1:
            assert not torch.isclose(tensor, start[name]).any()
            assert not torch.equal(tensor, trained[name])
    assert figures(tmp_path / "trained")["from_scratch"] is True
    assert "from_scratch" not in figures(prune)


def test_weights_at_zero_stay_there_from_scratch_too(project: Path, tmp_path: Path) -> None:
    loaded = recipe.load(project, ["stages.prune={granularity: [weight], ratio: 0.5, dead: false}"])
    shared = shared_of(loaded)
    for name in ("source", "prune"):
        (tmp_path / name).mkdir()
        loaded.stage(name, shared).run({"previous": Artifact(tmp_path / "source", "")}, tmp_path / name, SILENT)
    start = checkpoint.load(tmp_path / "prune", shared["model"], shared["data"])[0].state_dict()
    trained = run((project, tmp_path / "source", tmp_path / "prune"), tmp_path / "out", "from_scratch=true")
    for name in ("0.weight", "3.weight", "8.weight"):
        assert (start[name] == 0).any()
        assert torch.equal(start[name] == 0, trained[name] == 0)
        assert not torch.isclose(start[name], trained[name])[start[name] != 0].any()


def test_a_network_cut_as_a_graph_is_compared_at_its_batchnorms(project: Path, tmp_path: Path) -> None:
    loaded = recipe.load(project, ["stages.prune.form=graph"])
    shared = shared_of(loaded)
    for name in ("source", "prune"):
        (tmp_path / name).mkdir()
        loaded.stage(name, shared).run({"previous": Artifact(tmp_path / "source", "")}, tmp_path / name, SILENT)
    folders = project, tmp_path / "source", tmp_path / "prune"
    run(folders, tmp_path / "out", "distill={feature: 1, relation_distance: 1}", "epochs=1")
    assert figures(tmp_path / "out")["taps"] == ["1", "4"]
