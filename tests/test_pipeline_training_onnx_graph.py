"""Training with quantization: what is trained computes what the placed model does, to the rounding of a float."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from calibration_nets import SYMMETRIC, WRITING, node
from calibration_nets import model as onnx_model
from pruning_nets import built
from torch import Tensor, nn

from calibration.collect import collect
from calibration.observers.minmax import Minmax
from calibration.observers.percentile import Percentile
from calibration.placement import place
from calibration.qparams import activation_params, quantize_weight, weight_scale
from calibration.ranges import Ranges
from pipeline.errors import UserError
from pipeline.exporting import to_onnx
from pipeline.training.fake_quant import FakeQuant, quantized_weight, weight_steps
from pipeline.training.onnx_graph import QuantizedGraph
from targets.base import Int8Scheme

REDUCED = Int8Scheme(quantize_bias=True, reduced_range=True)
SCHEMES = pytest.mark.parametrize("scheme", [Int8Scheme(), WRITING, SYMMETRIC, REDUCED])
NETS = ("resnet_b", "mobilenetv2", "densenet", "vgg", "lenet")


def exported(name: str, folder: Path) -> tuple[onnx.ModelProto, Ranges, np.ndarray, nn.Module]:
    torch.manual_seed(0)
    model, x = built(name)
    images = np.random.default_rng(0).standard_normal((6, *x.shape[1:])).astype(np.float32)
    path = folder / "model.onnx"
    to_onnx(model, images, path)
    return onnx.load(path), collect(path, [{"input": images}], Percentile(99.0)), images, model


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": x[None]})[0] for x in images])


@SCHEMES
@pytest.mark.parametrize("name", NETS)
def test_it_computes_what_the_placed_model_does(name: str, scheme: Int8Scheme, tmp_path: Path) -> None:
    model, ranges, images, _ = exported(name, tmp_path)
    wanted = run(place(model, ranges, scheme).model, images)
    off = np.abs(wanted - run(model, images)).max()
    graph = QuantizedGraph(model, ranges, scheme)
    with torch.no_grad():
        found = graph(torch.from_numpy(images)).numpy()
    # sums in another order tip some values over the edge of a step, each of which is a part of what int8 costs
    assert np.abs(found - wanted).max() < 0.35 * off
    assert np.median(np.abs(found - wanted)) < 0.05 * off


@SCHEMES
def test_what_was_trained_is_what_is_placed(scheme: Int8Scheme, tmp_path: Path) -> None:
    model, ranges, images, _ = exported("resnet_b", tmp_path)
    graph = QuantizedGraph(model, ranges, scheme)
    optimizer = torch.optim.SGD(graph.parameters(), 0.05)
    x = torch.from_numpy(images)
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(graph(x).square().mean())
        optimizer.step()
    trained, found = graph.trained()
    found.save(tmp_path / "ranges.json")
    again = Ranges.load(tmp_path / "ranges.json")
    fresh = QuantizedGraph(trained, again, scheme)
    with torch.no_grad():
        assert torch.equal(fresh(x), graph(x))
    before, after = (run(place(*one, scheme).model, images) for one in ((model, ranges), (trained, again)))
    assert np.square(after).mean() < np.square(before).mean()
    changed = [n for n in ranges.tensors if ranges.tensors[n] != again.tensors[n]]
    assert changed
    assert {t.name for t in trained.graph.initializer} == {t.name for t in model.graph.initializer}


def test_ranges_that_are_not_trained_stay(tmp_path: Path) -> None:
    model, ranges, images, _ = exported("vgg", tmp_path)
    graph = QuantizedGraph(model, ranges, WRITING, learned=False)
    torch.autograd.backward(graph(torch.from_numpy(images)).square().mean())
    assert not [n for n, p in graph.named_parameters() if n.startswith("range") and p.grad is not None]
    assert graph.trained()[1].tensors == ranges.tensors


def test_every_weight_gets_a_gradient(tmp_path: Path) -> None:
    model, ranges, images, module = exported("mobilenetv2", tmp_path)
    graph = QuantizedGraph(model, ranges, SYMMETRIC)
    torch.autograd.backward(graph(torch.from_numpy(images)).square().sum())
    missing = [n for n, p in graph.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not [n for n in missing if n.startswith("constant")]
    assert sum(1 for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)) <= len(list(graph.parameters()))


def test_zeros_that_are_held_stay_zero(tmp_path: Path) -> None:
    model, ranges, images, _ = exported("vgg", tmp_path)
    weight = next(t for t in model.graph.initializer if t.name == "features.4.weight")
    values = np.array(onnx.numpy_helper.to_array(weight))
    values[::2] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    graph = QuantizedGraph(model, ranges.adopted_by(model), WRITING)
    graph.hold_zeros({"features.4.weight"})
    optimizer = torch.optim.SGD(graph.parameters(), 0.1)
    torch.autograd.backward(graph(torch.from_numpy(images)).square().sum())
    optimizer.step()
    after = {t.name: onnx.numpy_helper.to_array(t) for t in graph.trained()[0].graph.initializer}
    assert not after["features.4.weight"][::2].any()
    assert not np.array_equal(after["features.4.weight"], values)


def test_an_operator_that_cannot_be_trained_is_named(tmp_path: Path) -> None:
    made = onnx_model([node("Relu", ["x"], "r"), node("CumSum", ["r", "axis"], "y")], {"axis": np.array(1)}, (1, 4))
    onnx.save(made, tmp_path / "odd.onnx")
    ranges = collect(tmp_path / "odd.onnx", [{"x": np.ones((1, 4), np.float32)}], Minmax())
    with pytest.raises(UserError, match="CumSum_y: the operator CumSum cannot be trained"):
        QuantizedGraph(made, ranges, WRITING)


@pytest.mark.parametrize(
    ("scheme", "low", "high"),
    [
        (Int8Scheme(), -0.7, 1.9),
        (Int8Scheme(), 0.0, 6.0),
        (Int8Scheme(), 0.4, 2.0),
        (Int8Scheme(symmetric=True), -0.7, 1.9),
        (Int8Scheme(activation="int8", symmetric=True), -2.5, 1.0),
        (Int8Scheme(activation="int8"), -3.0, 0.0),
        (Int8Scheme(), 0.0, 0.0),
        (Int8Scheme(centred=1.3), -1.7, 1.9),
        (Int8Scheme(activation="int8", centred=1.3), -1.9, 1.7),
        (Int8Scheme(centred=1.3), -0.7, 1.9),
    ],
)
def test_fake_quantization_rounds_as_the_pair_does(scheme: Int8Scheme, low: float, high: float) -> None:
    x = np.concatenate([np.linspace(-4, 7, 2000), [0.0]]).astype(np.float32)
    wanted = activation_params(low, high, scheme)
    limits = np.iinfo(scheme.activation)
    integers = np.clip(np.rint(x / wanted.scale) + int(wanted.zero_point), limits.min, limits.max)
    quant = FakeQuant(low, high, scheme, learned=True)
    found = quant(torch.from_numpy(x))
    expected = (integers - int(wanted.zero_point)) * wanted.scale
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6, atol=1e-7)
    assert float(found[-1].detach()) == 0


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weights_round_as_stored_ones_do(axis: int | None) -> None:
    weight = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
    weight[2] = 0
    scale = weight_scale(weight, axis)
    assert np.array_equal(weight_steps(torch.from_numpy(weight), axis).numpy(), scale)
    shape = [-1 if i == axis else 1 for i in range(3)]
    stored = quantize_weight(weight, scale, axis) * scale.reshape(shape if scale.ndim else [])
    found = quantized_weight(torch.from_numpy(weight), torch.from_numpy(scale), axis)
    assert np.allclose(found.numpy(), stored, rtol=1e-6)


def gradient(quant: FakeQuant, x: Tensor) -> tuple[Tensor, float, float]:
    x = x.clone().requires_grad_()
    torch.autograd.backward(quant(x).sum())
    assert x.grad is not None
    assert quant.low.grad is not None
    assert quant.high.grad is not None
    return x.grad, float(quant.low.grad), float(quant.high.grad)


def test_gradients_pass_within_the_range_and_pull_its_end_outside() -> None:
    """Beyond the range a value is the end of it, so its gradient is the end's (Esser et al., equation 3)."""
    inside, low, high = gradient(FakeQuant(-1.0, 3.0, Int8Scheme(), learned=True), torch.tensor([0.5, 5.0, 9.0]))
    assert inside.tolist() == [1.0, 0.0, 0.0]
    assert high == pytest.approx(2.0, abs=0.02)
    _, low, _ = gradient(FakeQuant(-1.0, 3.0, Int8Scheme(), learned=True), torch.tensor([-7.0, -2.0, -1.5]))
    assert low == pytest.approx(3.0, abs=0.02)
    _, low, high = gradient(
        FakeQuant(-1.0, 3.0, Int8Scheme(activation="int8", symmetric=True), learned=True), torch.tensor([8.0, -8.0])
    )
    assert (low, high) == (0.0, pytest.approx(-1 / 127))  # 127 steps up and 128 down: the one more is left
