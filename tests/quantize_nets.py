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


def speech() -> onnx.ModelProto:
    """Voice activity: a scalar rate, an If whose branches differ in shape, convolutions, an LSTM, a head."""
    rng = np.random.default_rng(0)
    wide = {"cw": (8, 4, 3), "dw": (8, 8, 3), "lw": (1, 16, 8), "lr": (1, 16, 4), "gw": (4, 3)}
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in wide.items()}
    weights |= {"cb": np.zeros(8, np.float32), "gb": np.zeros(3, np.float32), "two": np.array(2, np.float32)}
    whole = {"zero": np.array([0]), "four": np.array([4]), "axis": np.array([2]), "fast": np.array(16)}
    untyped = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("doubled", "cut")]
    same = helper.make_graph([node("Mul", ["feat", "two"], "doubled")], "then", [], untyped[:1])
    less = helper.make_graph([node("Slice", ["feat", "zero", "four", "axis"], "cut")], "else", [], untyped[1:])
    nodes = [
        node("Conv", ["x", "cw", "cb"], "feat", pads=[1, 1]),
        node("Equal", ["sr", "fast"], "is_fast"),
        node("If", ["is_fast"], "either", then_branch=same, else_branch=less),
        node("Conv", ["either", "dw", "cb"], "conv", pads=[1, 1]),
        node("Transpose", ["conv"], "steps", perm=[2, 0, 1]),
        helper.make_node("LSTM", ["steps", "lw", "lr", "", "", "h", "c"], ["", "hn", "cn"], name="lstm", hidden_size=4),
        node("Squeeze", ["hn", "zero"], "last"),
        node("Gemm", ["last", "gw", "gb"], "y"),
    ]
    shapes = {"x": (1, 4, "T"), "h": (1, 1, 4), "c": (1, 1, 4)}
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("y", (1, 3)), ("cn", (1, 1, 4)))
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("sr", TensorProto.INT64, ()), *floats],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in (weights | whole).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
