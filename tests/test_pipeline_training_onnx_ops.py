"""Every operator that can be trained against onnxruntime, on the forms that exporters write."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import UserError
from pipeline.training.onnx_ops import OPS, supported

RNG = np.random.default_rng(0)
MAP, ROW = (2, 4, 7, 6), (2, 3, 8)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CASES: list[tuple[str, dict[str, Any], list[np.ndarray | None]]] = [
    *[(op, {}, [floats(*MAP)]) for op in ("Abs", "Erf", "Exp", "Identity", "Neg", "Relu", "Sigmoid", "Tanh")],
    *[(op, {}, [floats(*MAP)]) for op in ("HardSwish", "Mish", "Softplus", "Elu", "LeakyRelu", "HardSigmoid", "Gelu")],
    *[(op, {}, [floats(*MAP), floats(4, 1, 1)]) for op in ("Add", "Sub", "Mul", "Div")],
    ("Sqrt", {}, [np.abs(floats(*MAP))]),
    ("Pow", {}, [np.abs(floats(*MAP)), np.array(1.5, np.float32)]),
    ("Dropout", {}, [floats(*MAP)]),
    ("Elu", {"alpha": 0.3}, [floats(*MAP)]),
    ("LeakyRelu", {"alpha": 0.2}, [floats(*MAP)]),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, [floats(*MAP)]),
    ("Gelu", {"approximate": "tanh"}, [floats(*MAP)]),
    ("Clip", {}, [floats(*MAP), np.array(0, np.float32), np.array(0.5, np.float32)]),
    ("Clip", {}, [floats(*MAP), None, np.array(0.5, np.float32)]),
    ("PRelu", {}, [floats(*MAP), floats(4, 1, 1)]),
    ("Softmax", {"axis": 1}, [floats(*ROW)]),
    ("Softmax", {}, [floats(*ROW)]),
    ("MatMul", {}, [floats(*ROW), floats(8, 5)]),
    ("Gemm", {"transB": 1, "alpha": 0.5, "beta": 2.0}, [floats(3, 8), floats(5, 8), floats(5)]),
    ("Gemm", {"transA": 1}, [floats(8, 3), floats(8, 5)]),
    ("Conv", {"pads": [1, 1, 1, 1]}, [floats(*MAP), floats(6, 4, 3, 3), floats(6)]),
    ("Conv", {"pads": [0, 1, 1, 0], "strides": [2, 1], "group": 2}, [floats(*MAP), floats(6, 2, 3, 3)]),
    ("Conv", {"dilations": [2, 2], "group": 4}, [floats(*MAP), floats(4, 1, 2, 2)]),
    ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [floats(*MAP), floats(6, 4, 3, 2)]),
    ("Conv", {"auto_pad": "SAME_LOWER"}, [floats(*MAP), floats(6, 4, 2, 2)]),
    ("Conv", {"pads": [2, 2]}, [floats(*ROW), floats(4, 3, 5), floats(4)]),
    ("Conv", {}, [floats(1, 2, 4, 5, 6), floats(3, 2, 2, 2, 2)]),
    ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1]}, [floats(*MAP), floats(4, 5, 3, 3), floats(5)]),
    ("ConvTranspose", {"strides": [2, 2], "output_padding": [1, 1]}, [floats(*MAP), floats(4, 5, 3, 3)]),
    ("BatchNormalization", {}, [floats(*MAP), floats(4), floats(4), floats(4), np.abs(floats(4))]),
    ("LayerNormalization", {"axis": -1, "epsilon": 1e-3}, [floats(*ROW), floats(8), floats(8)]),
    ("LayerNormalization", {"axis": 1}, [floats(*ROW), floats(3, 8)]),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [floats(*MAP)]),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, [floats(*MAP)]),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, [floats(*MAP)]),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, [floats(*MAP)]),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "count_include_pad": 1}, [floats(*MAP)]),
    ("GlobalAveragePool", {}, [floats(*MAP)]),
    ("GlobalMaxPool", {}, [floats(*MAP)]),
    ("ReduceMean", {"keepdims": 0}, [floats(*MAP), ints(-1, -2)]),
    ("ReduceMean", {}, [floats(*MAP), ints(1)]),
    ("Concat", {"axis": 1}, [floats(*MAP), floats(2, 3, 7, 6)]),
    ("Flatten", {}, [floats(*MAP)]),
    ("Flatten", {"axis": 0}, [floats(*MAP)]),
    ("Flatten", {"axis": -2}, [floats(*MAP)]),
    ("Reshape", {}, [floats(*MAP), ints(2, -1)]),
    ("Reshape", {}, [floats(*MAP), ints(0, 2, -1, 6)]),
    ("Squeeze", {}, [floats(2, 4, 1, 1), ints(2, 3)]),
    ("Squeeze", {}, [floats(2, 4, 1, 1)]),
    ("Unsqueeze", {}, [floats(2, 4), ints(-1, 0)]),
    ("Transpose", {"perm": [0, 2, 3, 1]}, [floats(*MAP)]),
    ("Transpose", {}, [floats(*ROW)]),
    ("Pad", {}, [floats(*MAP), ints(0, 0, 1, 2, 0, 0, 0, 1), np.array(0.5, np.float32)]),
    ("Pad", {"mode": "reflect"}, [floats(*MAP), ints(0, 0, 1, 2, 0, 0, 2, 1)]),
    ("Slice", {}, [floats(*MAP), ints(1, 0), ints(4, 5), ints(1, -1), ints(2, 1)]),
    ("Slice", {}, [floats(*MAP), ints(0, -3), ints(1, 9223372036854775807)]),
    ("Split", {"axis": 1}, [floats(*MAP), ints(1, 3)]),
    ("Split", {"axis": 1, "num_outputs": 2}, [floats(*MAP)]),
]


def reference(op: str, given: Mapping[str, Any], inputs: list[np.ndarray | None]) -> list[np.ndarray]:
    names = [f"i{i}" if x is not None else "" for i, x in enumerate(inputs)]
    made = ["a", "b"] if op == "Split" else ["a"]
    first = inputs[0]
    assert first is not None
    graph = helper.make_graph(
        [helper.make_node(op, names, made, **given)],
        "one",
        [helper.make_tensor_value_info("i0", TensorProto.FLOAT, first.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made],
        [numpy_helper.from_array(x, n) for n, x in zip(names[1:], inputs[1:], strict=True) if x is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"i0": first})


@pytest.mark.parametrize(("op", "given", "inputs"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_an_operator_gives_what_onnxruntime_gives(
    op: str, given: Mapping[str, Any], inputs: list[np.ndarray | None]
) -> None:
    stored = {a.name: helper.get_attribute_value(a) for a in helper.make_node(op, [], [], **given).attribute}
    found = OPS[op](stored, *[None if x is None else torch.from_numpy(x) for x in inputs])
    outputs = found if isinstance(found, tuple) else (found,)
    for ours, theirs in zip(outputs, reference(op, given, inputs), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_every_operator_has_a_case() -> None:
    assert set(supported()) == {op for op, _, _ in CASES}
    assert {op for op, _, _ in CASES} <= {schema.name for schema in onnx.defs.get_all_schemas()}


def test_a_graph_of_batch_one_takes_more() -> None:
    x = torch.from_numpy(floats(*MAP))
    assert OPS["Reshape"]({}, x, torch.tensor([1, -1])).shape == (2, 4 * 7 * 6)


@pytest.mark.parametrize(
    ("op", "given", "inputs"),
    [
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, [floats(*MAP)]),
        ("MaxPool", {"kernel_shape": [2, 2], "auto_pad": b"SAME_UPPER"}, [floats(*MAP)]),
        ("ConvTranspose", {"output_shape": [14, 12]}, [floats(*MAP), floats(4, 5, 3, 3)]),
        ("Pad", {"mode": b"edge"}, [floats(*MAP), ints(0, 0, 1, 2, 0, 0, 2, 1)]),
        ("Slice", {}, [floats(*MAP), ints(3), ints(0), ints(1), ints(-1)]),
    ],
)
def test_forms_that_are_not_imitated_are_refused(op: str, given: Mapping[str, Any], inputs: list[np.ndarray]) -> None:
    with pytest.raises(UserError, match="cannot be trained"):
        OPS[op](given, *map(torch.from_numpy, inputs))
