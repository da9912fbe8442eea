"""Float ONNX models that are no plain image classifiers, for the tests of quantizing any model."""

import numpy as np
import onnx
from calibration_nets import node
from onnx import TensorProto, helper, numpy_helper


def two_inputs() -> onnx.ModelProto:
    """An image beside an integer, without node names, opset 13, a static batch of 2, and a second output."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.3, (16, 3, 3, 3)).astype(np.float32),
        "table": rng.normal(0, 1, (5, 16)).astype(np.float32),
        "fc": rng.normal(0, 0.3, (16, 16)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["image", "w"], "c", pads=[1] * 4),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "p"),
        node("Flatten", ["p"], "f"),
        node("Gather", ["table", "which"], "e"),
        node("Add", ["f", "e"], "s"),
        node("MatMul", ["s", "fc"], "scores"),
        node("Relu", ["s"], "features"),
    ]
    for made in nodes:
        made.name = ""
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, (2, 3, 8, 8)),
            helper.make_tensor_value_info("which", TensorProto.INT64, (2,)),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 16)) for name in ("scores", "features")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def stateful() -> onnx.ModelProto:
    """A scalar input and a state whose first dimension is no batch, as in models of speech."""
    weights = {"w": np.random.default_rng(0).normal(0, 0.3, (16, 16)).astype(np.float32)}
    nodes = [
        node("ReduceSum", ["state"], "summed", keepdims=1),
        node("Squeeze", ["summed"], "one"),
        node("Cast", ["rate"], "rate.f", to=TensorProto.FLOAT),
        node("Mul", ["one", "rate.f"], "gain"),
        node("MatMul", ["x", "w"], "m"),
        node("Add", ["m", "gain"], "y"),
        node("Identity", ["state"], "next"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 16)),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, (2, 1, 4)),
            helper.make_tensor_value_info("rate", TensorProto.INT64, ()),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 16)),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, (2, 1, 4)),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
