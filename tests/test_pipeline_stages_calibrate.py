"""The stage's weights: what it writes, and what lowering and a new export make of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import run_cli

from calibration.weights import FILE, Weights
from pipeline import checkpoint, lowering, recipe
from pipeline.progress import SILENT
from pipeline.store import Artifact
from targets.backends.cpu import Cpu
from targets.base import Int8Scheme

OTHERS = {"equalize": True, "scale": "mse", "rounding": "adaround", "iterations": 5, "samples": 8}


def staged(path: Path, out: Path, **weights: Any) -> Path:
    """Run the stages source and calibrate; return the folder of the latter."""
    sets = (f"stages.calibrate.weights={json.dumps(weights)}",) if weights else ()
    loaded = recipe.load(path, sets)
    shared = {"model": loaded.model_spec(), "data": loaded.data_spec()}
    artifact = Artifact(out / "source", "")
    for name in ("source", "calibrate"):
        (out / name).mkdir(parents=True)
        loaded.stage(name, shared).run({"previous": artifact}, out / name, SILENT)
    return out / "calibrate"


def answers(model: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": x[i : i + 1]})[0] for i in range(len(x))])


def test_biases_are_corrected_unless_told_otherwise(project: Path, tmp_path: Path) -> None:
    folder = staged(project, tmp_path)
    chosen = Weights.load(folder / FILE)
    assert chosen.methods == {"scale": "max", "rounding": "nearest", "bias": "empirical"}
    assert len(chosen.biases) == 3
    info = checkpoint.Info.load(folder)
    assert info is not None
    assert info.figures["int8_weights"] == chosen.methods
    assert lowering.lowered_files(folder) == (folder / "model.onnx", folder / "ranges.json", folder / FILE)
    assert (folder / "model.onnx").read_bytes() == (tmp_path / "source" / "model.onnx").read_bytes()

    plain = staged(project, tmp_path / "plain", bias="none")
    assert lowering.lowered_files(plain) == (plain / "model.onnx", plain / "ranges.json", None)


def test_all_methods_at_once_ship(project: Path, tmp_path: Path) -> None:
    folder = staged(project, tmp_path, **OTHERS)
    info = checkpoint.Info.load(folder)
    assert info is not None
    assert info.figures["equalized"]["pairs"] == 1
    chosen = Weights.load(folder / FILE)
    assert all(weight.integers is not None for weight in chosen.tensors.values())
    x = recipe.load(project).data_spec().load().calibration[:16][0]
    exact = answers(tmp_path / "source" / "model.onnx", x)
    np.testing.assert_allclose(answers(folder / "model.onnx", x), exact, rtol=1e-3, atol=1e-4)
    lowered = lowering.lower(*lowering.lowered_files(folder)[:2], Cpu.scheme, tmp_path / "out.onnx", folder / FILE)
    assert lowered.nearest == ()
    assert np.abs(answers(tmp_path / "out.onnx", x) - exact).max() < 0.1 * np.abs(exact).max()

    coarse = Int8Scheme(per_channel=False)
    lowered = lowering.lower(*lowering.lowered_files(folder)[:2], coarse, tmp_path / "out.onnx", folder / FILE)
    assert set(lowered.figures()["rounded_anew"].values()) == {"the scheme has one scale for all"}


@pytest.mark.parametrize("batch", [4, "dynamic"])
def test_a_new_export_has_the_equalized_values_and_the_chosen_weights(
    project: Path, tmp_path: Path, batch: int | str
) -> None:
    folder = staged(project, tmp_path, **OTHERS)
    loaded = recipe.load(project, (f"stages.export.batch={batch}",))
    shared = {"model": loaded.model_spec(), "data": loaded.data_spec(), "scheme": recipe.scheme_of(Cpu())}
    out = tmp_path / "export"
    out.mkdir()
    loaded.stage("export", shared).run({"previous": Artifact(folder, "")}, out, SILENT)
    assert {path.name for path in out.iterdir()} == {"model.onnx", "info.json"}
    info = checkpoint.Info.load(out)
    assert info is not None
    assert "rounded_anew" not in info.figures
    lowering.lower(*lowering.lowered_files(folder)[:2], Cpu.scheme, tmp_path / "one.onnx", folder / FILE)
    x = loaded.data_spec().load().calibration[:4][0]
    (many,) = onnxruntime.InferenceSession(out / "model.onnx").run(None, {"input": x})
    np.testing.assert_allclose(many, answers(tmp_path / "one.onnx", x), rtol=1e-3, atol=1e-3)


def test_the_command_line_chooses_weights(project: Path, tmp_path: Path) -> None:
    folder = staged(project, tmp_path, bias="none")
    with np.load(project.parent / "data.npz") as data:
        np.savez(folder / "samples.npz", input=data["x_calibration"])

    def ok(*args: object) -> str:
        done = run_cli(*args, cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = ok(
        "calibrate", "model.onnx", "--data", "samples.npz", "--equalized", "equal.onnx", "--rounding", "adaround",
        "--iterations", "5", "--bias", "none",
    )  # fmt: skip
    assert "equal.onnx: 1 pairs of convolutions equalized; export this one" in told
    assert f"{FILE}: int8 weights of 3 ops, 0 biases" in told
    ok("export", "equal.onnx", "--ranges", "ranges.json", "--weights", FILE, "--target", "cpu", "--out", "int8.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(folder / "int8.onnx").graph.node)
    wrong = run_cli("export", "model.onnx", "--ranges", "ranges.json", "--weights", FILE, "--out", "x.onnx", cwd=folder)
    assert "collected on another model" in wrong.stderr
