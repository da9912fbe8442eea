import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.exporting import agreement, metadata_of, shapes_of, to_onnx


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model.eval()


SAMPLES = np.random.default_rng(0).normal(size=(6, 2, 9, 9)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
def test_export_agrees_with_the_module_and_folds_batch_norm(tmp_path: Path, batch: int) -> None:
    model, path = net(), tmp_path / "m.onnx"
    delta = to_onnx(model, SAMPLES, path, batch, metadata_of({"scale": "1"}, ("a", "b", "c", "d")))
    assert 0 <= delta < 1e-5
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert [v.name for v in proto.graph.input] == ["input"]
    assert [v.name for v in proto.graph.output] == ["output"]
    props = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(props["edgesmith.classes"]) == ["a", "b", "c", "d"]
    assert json.loads(props["edgesmith.preprocessing"]) == {"scale": "1"}
    assert shapes_of(proto) == {"input": (1 if batch == "dynamic" else batch, 2, 9, 9)}
    session = onnxruntime.InferenceSession(path)
    n = 5 if batch == "dynamic" else batch
    (got,) = session.run(None, {"input": SAMPLES[:n]})
    np.testing.assert_allclose(got, model(torch.from_numpy(SAMPLES[:n])).detach(), atol=1e-5)


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "m.onnx"
    to_onnx(model, SAMPLES, path)
    with torch.no_grad():
        model[5].bias += 1
    with pytest.raises(UserError, match="differs from the model"):
        agreement(model, path, SAMPLES, 1)


def test_a_model_that_gives_nan_is_refused(tmp_path: Path) -> None:
    class Nan(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(-x.abs() - 1)

    with pytest.raises(UserError, match="NaN or infinity"):
        to_onnx(Nan(), SAMPLES, tmp_path / "m.onnx")


def test_a_forward_that_works_in_place_on_its_input_is_compared_on_the_same_samples(tmp_path: Path) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.mul_(2).sub_(0.5))

    samples = SAMPLES.copy()
    assert to_onnx(InPlace(), samples, tmp_path / "m.onnx") < 1e-5
    assert np.array_equal(samples, SAMPLES)


def test_a_batch_larger_than_the_samples_is_checked_all_the_same(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "m.onnx"
    assert to_onnx(model, SAMPLES, path, 16) > 0


def test_a_model_that_cannot_be_captured_is_one_line(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(UserError, match="cannot be exported to ONNX") as caught:
        to_onnx(Branches(), SAMPLES, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
