"""The weight methods and the preparation inside `edgesmith quantize`, on models of every kind."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibration_nets import model, node, resnet, samples
from onnx import ModelProto, helper
from quantize_nets import speech, stateful, two_inputs

from calibration.errors import CalibrationError
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.quantized import quantize
from pipeline.quantizing import Job, Settings
from pipeline.report.quantized import Quantized
from pipeline.weight_options import WeightOptions
from targets.backends.cpu import Cpu

DEFAULT = WeightOptions()
NONE = WeightOptions(bias="none")
METHODS = {
    "empirical": WeightOptions(),
    "analytic": WeightOptions(bias="analytic", scale="mse"),
    "adaround": WeightOptions(rounding="adaround", iterations=5, equalize=True),
}


class Full(Cpu):
    """The target cpu with all 8 bits of its weights, whatever the processor of this machine."""

    def __post_init__(self) -> None:
        pass


def made(folder: Path, float_model: ModelProto, weights: WeightOptions = DEFAULT, **settings: Any) -> Quantized:
    """The report of quantizing it on `folder/data`, built and timed nowhere."""
    onnx.save(float_model, folder / "net.onnx")
    data = next(folder.glob("data*"))
    chosen = Settings(weights=weights, **settings)
    return quantize(Job(folder / "net.onnx", data, Full(), None, chosen, SILENT), folder / "int8.onnx")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def write_calls(folder: Path, calls: list[dict[str, np.ndarray]]) -> None:
    (folder / "data").mkdir()
    for i, call in enumerate(calls):
        np.savez(folder / "data" / f"{i}.npz", **call)


def any_size(folder: Path) -> ModelProto:
    """A detector's kind: every image of another size; depthwise, transposed, a MatMul."""
    write_calls(folder, [{"x": normal(1, 3, 8 + 2 * i, 20 - i, seed=i)} for i in range(4)])
    weights = {"a": normal(8, 3, 3, 3), "d": normal(8, 1, 3, 3), "t": normal(8, 4, 2, 2), "m": normal(4, 4)}
    nodes = [
        node("Conv", ["x", "a"], "c1", pads=[1] * 4),
        node("Relu", ["c1"], "r1"),
        node("Conv", ["r1", "d"], "c2", pads=[1] * 4, group=8),
        node("ConvTranspose", ["c2", "t"], "up", strides=[2, 2]),
        node("Transpose", ["up"], "last", perm=[0, 2, 3, 1]),
        node("MatMul", ["last", "m"], "y"),
    ]
    return model(nodes, weights, ("N", 3, "H", "W"))


def adds(folder: Path) -> ModelProto:
    """No weights at all."""
    np.savez(folder / "data.npz", x=samples(4, (3, 8, 8)))
    nodes = [node("Sigmoid", ["x"], "s"), node("Tanh", ["x"], "t"), node("Add", ["s", "t"], "q")]
    return model([*nodes, node("MaxPool", ["q"], "y", kernel_shape=[2, 2])], {}, ("N", 3, 8, 8))


def state(folder: Path) -> ModelProto:
    write_calls(folder, [{"x": normal(1, 16), "state": normal(2, 1, 4), "rate": np.int64(2)} for _ in range(4)])
    return stateful()


def voice(folder: Path) -> ModelProto:
    """A scalar first, calls of different length, an If whose shape is unknown, an LSTM."""
    calls = [
        {"sr": np.int64(8 * (i % 2 + 1)), "x": normal(1, 4, 16 + i, seed=i), "h": normal(1, 1, 4), "c": normal(1, 1, 4)}
        for i in range(4)
    ]
    write_calls(folder, calls)
    return speech()


def fixed_batch(folder: Path) -> ModelProto:
    np.savez(folder / "data.npz", image=normal(9, 3, 8, 8), which=np.arange(9) % 5)
    return two_inputs()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [any_size, adds, state, voice, fixed_batch])
def test_weight_methods_take_models_of_every_kind(tmp_path: Path, kind: Any, method: str) -> None:
    options = METHODS[method]
    report = made(tmp_path, kind(tmp_path), options)
    assert min(output.sqnr_db or 999 for output in report.outputs.values()) > 20
    assert report.weights is not None
    assert (report.weights.scale, report.weights.bias, report.weights.rounding) == (
        options.scale,
        options.bias,
        options.rounding,
    )
    assert (report.weights.equalized is None) != options.equalize
    for reasons in report.weights.not_applied.values():
        assert reasons
        assert all(reasons.values())


def test_correcting_biases_is_the_default_and_pays(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=samples(40))
    found = {}
    for options in (NONE, WeightOptions()):
        report = made(tmp_path, resnet(batch="N", width=32), options, samples=20)
        assert report.weights is not None
        assert not report.weights.rounded_anew
        found[report.weights.bias] = report.outputs["y"].sqnr_db
    assert found["empirical"] > found["none"] + 2
    with_floor = made(tmp_path, resnet(batch="N", width=32), samples=20, min_sqnr=found["empirical"] - 0.01)
    assert with_floor.accuracy is not None
    assert not with_floor.kept_float  # judged with the weights that ship


def test_nodes_are_named_for_exclusion_as_far_as_they_survive(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=samples(4, (3, 8, 8)))
    weights = {"w": normal(4, 3, 3, 3), "g": np.float32(2), "v": normal(4, 4, 1, 1), **bn(4)}
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("BatchNormalization", ["c", *bn(4)], "n"),
        node("Relu", ["n"], "r"),
        node("Identity", ["r"], "i"),
        node("Mul", ["g", "g"], "gg"),
        node("Conv", ["i", "v"], "d"),
        node("Mul", ["d", "gg"], "y"),
    ]
    nodes[5].name = ""
    net = model(nodes, weights, (1, 3, 8, 8), opset=11)
    assert made(tmp_path, net, exclude=("Conv_c",)).coverage.floats == {"Conv_c": "left in float by request"}
    for name, says in (
        ("BatchNormalization_n", "it is part of 'Conv_c': exclude that"),
        ("Mul_gg", "no such node any more"),
        ("Conv_e", "no op of the model is named 'Conv_e'; did you mean Conv_c?"),
    ):
        with pytest.raises(UserError, match=says):
            made(tmp_path, net, exclude=(name,))


def bn(channels: int) -> dict[str, np.ndarray]:
    ones = np.ones(channels, np.float32)
    return {"gamma": ones * 2, "beta": ones, "mean": ones * 0, "var": ones}


def test_contrib_ops_work_and_unknown_ones_are_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=samples(4, (3, 8, 8)))
    net = model([node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "y")], {"w": normal(4, 3, 3, 3)}, (1, 3, 8, 8))
    net.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    net.graph.node[1].op_type, net.graph.node[1].domain = "Gelu", "com.microsoft"
    report = made(tmp_path, net)
    assert report.coverage.ops == {"Conv": 1}
    assert not report.kept_float
    assert report.outputs["y"].sqnr_db > 30
    assert {n.op_type for n in onnx.load(tmp_path / "int8.onnx").graph.node} >= {"Conv", "Gelu"}
    net.opset_import[-1].domain = net.graph.node[1].domain = "my.own"
    with pytest.raises(CalibrationError, match="onnxruntime cannot load the model"):
        made(tmp_path, net)


def test_few_scalars_are_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0.1, 0.2, 0.3, 0.4, 1.0, 9.0]], np.float32)
    np.save(tmp_path / "data.npy", values)
    net = model([node("MatMul", ["x", "w"], "y")], {"w": normal(6, 16)}, (1, 6))
    few, all_ = (made(tmp_path, net, observer=name).outputs["y"].sqnr_db for name in ("percentile", "minmax"))
    assert few == all_


def test_a_weight_method_with_a_converter_of_its_own_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=samples(4))
    with pytest.raises(UserError, match="go with --method static"):
        made(tmp_path, resnet(), WeightOptions(rounding="adaround"), method="f16")
