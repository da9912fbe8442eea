"""VGG, MobileNetV2 and LeNet as a user writes them, brought in by import path: prune → export."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pruning_nets
import pytest
import torch
from conftest import ROOT

from pipeline import checkpoint, recipe
from pipeline.core import PREVIOUS
from pipeline.progress import SILENT
from pipeline.store import Artifact
from targets.backends.cpu import Cpu

NETS = {"LeNet": 1, "VGG": 3, "MobileNetV2": 3}
SIZE = {"LeNet": 28, "VGG": 32, "MobileNetV2": 32}


@pytest.mark.parametrize("name", list(NETS))
def test_prune_to_export(name: str, tmp_path: Path) -> None:
    channels, size = NETS[name], SIZE[name]
    (tmp_path / "nets.py").write_text((ROOT / "tests" / "pruning_nets.py").read_text())
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "validation", "calibration", "test"):
        arrays[f"x_{split}"] = rng.normal(size=(20, channels, size, size)).astype(np.float32)
        arrays[f"y_{split}"] = np.arange(20) % 10
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "recipe.yaml").write_text(
        f"""
model: {{factory: "nets.py:{name}"}}
data: {{factory: "pipeline.data.arrays:from_npz", args: {{path: ./data.npz}}}}
stages:
  source:
  prune: {{ratio: 0.5, round_to: 2, min_width: 2, recalibrate: 0}}
  calibrate: {{samples: 8, observer: minmax}}
  export:
  compile:
"""
    )
    loaded = recipe.load(tmp_path / "recipe.yaml")
    shared = {
        "model": loaded.model_spec(),
        "data": loaded.data_spec(),
        "scheme": recipe.scheme_of(Cpu()),
    }
    torch.manual_seed(0)
    folders, previous = {}, {}
    for stage in ("source", "prune", "calibrate", "export"):
        torch.manual_seed(0)
        folders[stage] = tmp_path / stage
        folders[stage].mkdir()
        loaded.stage(stage, shared).run(previous, folders[stage], SILENT)
        previous = {PREVIOUS: Artifact(folders[stage], "")}

    figures = json.loads((folders["prune"] / "info.json").read_text())["figures"]
    assert figures["proof_max_rel_error"] < 1e-4
    assert figures["achieved_ratio"] > 0.4
    assert figures["onnx_max_abs_delta"] < 1e-4

    # the exported pruned network equals the original with the same channels zeroed
    torch.manual_seed(0)
    original = shared["model"].build()
    checkpoint.load_weights(original, folders["source"] / "weights.safetensors")
    (plan,) = checkpoint.plans_in(folders["prune"])
    x = arrays["x_test"][:1]
    with torch.no_grad():
        expected = pruning_nets.reading_only(original.eval(), plan)(torch.from_numpy(x)).numpy()
    (got,) = onnxruntime.InferenceSession(folders["prune"] / "model.onnx").run(None, {"input": x})
    assert np.abs(got - expected).max() <= 1e-4 * max(1, np.abs(expected).max())

    (int8,) = onnxruntime.InferenceSession(folders["export"] / "model.onnx").run(None, {"input": x})
    assert np.isfinite(int8).all()
