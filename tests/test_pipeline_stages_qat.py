"""Quantization-aware training as a stage, on folders as the stages before it write them."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import one_line, run_cli, write_project

from calibration.placement import place
from calibration.ranges import Ranges
from pipeline import checkpoint, recipe
from pipeline.assess import verdict_on_the_same
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.report.schema import StageReport, Verdict
from pipeline.store import Artifact
from targets.plugins import make

BEFORE = ("source", "prune", "finetune", "calibrate")
SCHEME = make("cpu", {}).scheme


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project's recipe with a stage qat, and the folder with those of the stages before it."""
    folder = tmp_path_factory.mktemp("project")
    path = write_project(folder)
    model = (folder / "my_model.py").read_text()  # with a pool that leaves where the square is, it can be learned
    model = model.replace("    return nn.Seq", "    torch.manual_seed(0)\n    return nn.Seq")
    model = model.replace("AdaptiveAvgPool2d(1)", "AdaptiveAvgPool2d(3)").replace("Linear(width", "Linear(9 * width")
    (folder / "my_model.py").write_text(model)
    # a percentile this low clips so much that int8 fails: there is something to train back
    text = path.read_text().replace("calibrate: {samples: 16}", "calibrate: {samples: 16, options: {percentile: 60}}")
    text = text.replace(
        "finetune: {epochs: 2, batch_size: 32, lr: 0.05}", "finetune: {epochs: 15, batch_size: 16, lr: 0.05}"
    )
    path.write_text(text.replace("  export:", "  qat: {epochs: 2, batch_size: 16, lr: 0.02}\n  export:"))
    loaded = recipe.load(path)
    previous = ""
    for name in BEFORE:
        (folder / name).mkdir()
        inputs = {"previous": Artifact(folder / previous, "")} if previous else {}
        loaded.stage(name, shared_of(loaded)).run(inputs, folder / name, SILENT)
        previous = name
    return path, folder


def shared_of(loaded: recipe.Recipe) -> dict[str, object]:
    return {"model": loaded.model_spec(), "data": loaded.data_spec(), "scheme": asdict(SCHEME), "align": 1}


def run(calibrated: tuple[Path, Path], out: Path, *overrides: str) -> Path:
    path, folder = calibrated
    loaded = recipe.load(path, [f"stages.qat.{text}" for text in overrides])
    stage = loaded.stage("qat", shared_of(loaded))
    out.mkdir(exist_ok=True)
    stage.run({name: Artifact(folder / name, "") for name in stage.reads()}, out, SILENT)
    return out


def loss(folder: Path, split: tuple[np.ndarray, np.ndarray]) -> float:
    """The cross entropy of the int8 model that would ship."""
    placed = place(onnx.load(folder / "model.onnx"), Ranges.load(folder / "ranges.json"), SCHEME).model
    session = ort.InferenceSession(placed.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(None, {"input": x[None]})[0] for x in split[0]]).astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(logits)), split[1]]))


def test_int8_gets_back_what_calibration_lost(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    path, folder = calibrated
    data = recipe.load(path).data_spec().load()
    split = data.test[:60]
    out = run(calibrated, tmp_path / "qat", "distill=null")  # the source of this project knows nothing
    assert loss(out, split) < 0.8 * loss(folder / "calibrate", split)
    info = checkpoint.Info.load(out)
    assert info is not None
    assert info.figures["epochs"] == 2
    chosen = {"int8.safetensors"}  # for the weights as they were
    assert {p.name for p in out.iterdir()} == {p.name for p in (folder / "calibrate").iterdir()} - chosen


def test_trained_again_it_gives_the_same_bytes_and_a_teacher_changes_them(
    calibrated: tuple[Path, Path], tmp_path: Path
) -> None:
    one, other = (run(calibrated, tmp_path / name, "epochs=1") for name in ("one", "other"))
    assert (one / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()
    assert (one / "ranges.json").read_bytes() == (other / "ranges.json").read_bytes()
    alone = run(calibrated, tmp_path / "alone", "epochs=1", "distill=null")
    assert (one / "model.onnx").read_bytes() != (alone / "model.onnx").read_bytes()


def test_where_training_makes_it_worse_it_stays_as_calibrated(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    path, folder = calibrated
    # a decay that leaves nothing of the weights, under ranges that stay
    options = ("calibrate.options.percentile=100", "qat.lr=0.5", "qat.weight_decay=1.9", "qat.ranges=false")
    loaded = recipe.load(path, [f"stages.{option}" for option in options])
    (tmp_path / "calibrate").mkdir()
    before = Artifact(folder / "finetune", "")
    loaded.stage("calibrate", shared_of(loaded)).run({"previous": before}, tmp_path / "calibrate", SILENT)
    stage = loaded.stage("qat", shared_of(loaded))
    (tmp_path / "qat").mkdir()
    inputs = {"calibrate": Artifact(tmp_path / "calibrate", ""), "source": Artifact(folder / "source", "")}
    stage.run(inputs, tmp_path / "qat", SILENT)
    for name in ("model.onnx", "ranges.json", "int8.safetensors"):
        assert (tmp_path / "qat" / name).read_bytes() == (tmp_path / "calibrate" / name).read_bytes()
    info = checkpoint.Info.load(tmp_path / "qat")
    assert info is not None
    assert info.figures["best_epoch"] == 0
    assert info.figures["validation_top1"] == info.figures["calibrated_top1"] > 0.5


def test_what_was_rejected_is_rejected_under_another_stages_name_too() -> None:
    bad = Verdict(kind="inaccurate", text="validation accuracy -3 points, more than 1", rejected=True)
    found = verdict_on_the_same(StageReport.model_construct(stage="calibrate", same_as=None, verdict=bad))
    assert found.rejected
    assert found.text == "same files as calibrate: validation accuracy -3 points, more than 1"
    good = Verdict(kind="pays", text="2.00× faster than finetune")
    found = verdict_on_the_same(StageReport.model_construct(stage="export", same_as="calibrate", verdict=good))
    assert (found.kind, found.text, found.rejected) == ("same", "same files as calibrate", False)


def test_it_comes_after_calibrate(calibrated: tuple[Path, Path]) -> None:
    path, folder = calibrated
    late = folder / "late.yaml"
    late.write_text(path.read_text().replace("  calibrate: {samples: 16, options: {percentile: 60}}\n", ""))
    with pytest.raises(UserError, match=r"stages\.qat: goes on from calibrate; name that stage before it"):
        recipe.load(late)


@pytest.mark.parametrize("batch", ["2", "dynamic"])
def test_another_batch_ships_the_trained_weights(calibrated: tuple[Path, Path], tmp_path: Path, batch: str) -> None:
    path, _ = calibrated
    trained = run(calibrated, tmp_path / "qat", "epochs=1", "lr=0.05")
    loaded = recipe.load(path, [f"stages.export.batch={batch}"])
    images = loaded.data_spec().load().test[:2][0]
    outputs = []
    for which, stage in (("as it is", recipe.load(path)), ("batched", loaded)):
        (tmp_path / which).mkdir()
        exported = stage.stage("export", shared_of(stage))
        exported.run({"previous": Artifact(trained, "")}, tmp_path / which, SILENT)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(tmp_path / which / "model.onnx", options, providers=["CPUExecutionProvider"])
        pieces = [images] if which == "batched" else [images[:1], images[1:]]
        outputs.append(np.concatenate([session.run(None, {"input": x})[0] for x in pieces]))
    assert np.allclose(*outputs, atol=1e-5)


def test_a_deployed_recipe_reports_it_also_where_calibration_was_rejected(calibrated: tuple[Path, Path]) -> None:
    path, folder = calibrated
    done = run_cli("deploy", path.name, "--set", "stages.qat.epochs=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "qat" in done.stdout
    wrong = run_cli("deploy", path.name, "--set", "stages.qat.ranges=3", cwd=folder)
    assert wrong.returncode == 2
    assert "stages.qat.ranges" in one_line(wrong.stderr)
