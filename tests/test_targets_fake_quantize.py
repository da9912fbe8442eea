"""Q/DQ pairs that OpenVINO read from ONNX, as FakeQuantize."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.observers import make
from calibration.placement import place
from targets.backends._fake_quantize import fold_pairs
from targets.backends.cpu import Cpu


def projection() -> ModelProto:
    """Two strided 1 × 1 convolutions that read one tensor, as where a ResNet-50 of Caffe halves its maps."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(0, 1 / np.sqrt(shape[1]), shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], "stem"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "short"], ["c"], "short", strides=[2, 2]),
        helper.make_node("Conv", ["b", "body"], ["d"], "body", strides=[2, 2]),
        helper.make_node("Relu", ["d"], ["e"], "relu_2"),
        helper.make_node("Conv", ["e", "last"], ["f"], "last"),
        helper.make_node("Add", ["c", "f"], ["y"], "add"),
    ]
    weights = [weight("stem", 16, 8, 1, 1), weight("short", 32, 16, 1, 1), weight("body", 16, 16, 1, 1)]
    weights.append(weight("last", 32, 16, 1, 1))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 16, 16))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 32, 8, 8))
    graph = helper.make_graph(nodes, "projection", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sample(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, 8, 16, 16), dtype=np.float32)


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """The network in int8 for OpenVINO, as a file."""
    model = projection()
    onnx.save(model, tmp_path / "float.onnx")
    ranges = collect(tmp_path / "float.onnx", [{"x": sample(i)} for i in range(4)], make("minmax"))
    onnx.save(place(model, ranges, Cpu().scheme).model, tmp_path / "int8.onnx")
    return tmp_path / "int8.onnx"


def outputs(model: Any) -> NDArray[Any]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled([sample(9)])[0])


def test_a_folded_pair_computes_what_it_did(quantized: Path):
    pairs = sum(node.op_type == "QuantizeLinear" for node in onnx.load(quantized).graph.node)
    model = openvino.Core().read_model(quantized)
    as_read = outputs(model)
    assert fold_pairs(model) == pairs > 2
    # the order of roundings may differ: by a step of the last activation at most
    np.testing.assert_allclose(outputs(model), as_read, atol=0.02 * np.abs(as_read).max())
    assert fold_pairs(model) == 0


def test_strided_convolutions_that_share_an_input_run_in_int8(quantized: Path, tmp_path: Path):
    (tmp_path / "built").mkdir()
    Cpu().build(quantized, tmp_path / "built")
    with Cpu().open(tmp_path / "built") as runner:
        found = {name: kernel.precision for kernel in runner.kernels() for name in kernel.names}
    assert {found[name] for name in ("stem", "short", "body", "last")} == {"i8"}


def test_a_float_model_is_left_alone(tmp_path: Path):
    onnx.save(projection(), tmp_path / "float.onnx")
    model = openvino.Core().read_model(tmp_path / "float.onnx")
    before = [op.get_friendly_name() for op in model.get_ordered_ops()]
    assert fold_pairs(model) == 0
    assert [op.get_friendly_name() for op in model.get_ordered_ops()] == before
