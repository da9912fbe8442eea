"""Small float ONNX models for the calibration tests, built node by node, and schemes to quantise them by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.graph import index
from calibration.observers.minmax import Minmax
from calibration.ranges import Ranges
from targets.base import Int8Scheme

Array = NDArray[Any]
Shape = Sequence[int | str]

FUSING = Int8Scheme()
WRITING = Int8Scheme(quantize_outputs=True, quantize_bias=True)
SYMMETRIC = Int8Scheme(activation="int8", symmetric=True, min_gemm=16)
SCHEMES = pytest.mark.parametrize("scheme", [FUSING, WRITING, SYMMETRIC])


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes)


def model(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, Array],
    x: Shape,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> ModelProto:
    """A checked model with the float input `x` and float outputs of any shape."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(made)
    for out, value in zip(made.graph.output, inferred.graph.output, strict=True):
        out.CopyFrom(value)
    onnx.checker.check_model(made, full_check=True)
    return made


def single_conv(
    seed: int = 0, out: int = 4, activation: str = "", batch: int | str = 1, bias: bool = True
) -> ModelProto:
    """x (batch, 3, 8, 8) → 3×3 Conv with `out` channels → `activation` → y."""
    rng = np.random.default_rng(seed)
    weights = {"w": rng.normal(0, 0.3, (out, 3, 3, 3)).astype(np.float32)}
    if bias:
        weights["b"] = rng.normal(0, 0.5, out).astype(np.float32)
    nodes = [node("Conv", ["x", *weights], "c" if activation else "y", pads=[1, 1, 1, 1])]
    if activation:
        nodes.append(node(activation, ["c"], "y"))
    return model(nodes, weights, (batch, 3, 8, 8))


def resnet(batch: int | str = 1, width: int = 16, mean: str = "GlobalAveragePool") -> ModelProto:
    """Stem, an identity block, a projection block, a max pool and a linear head of 32 classes."""
    rng = np.random.default_rng(7)
    nodes: list[NodeProto] = []
    weights: dict[str, Array] = {}

    def conv(name: str, source: str, c: tuple[int, int], k: int, stride: int = 1) -> str:
        fan_in = c[0] * k * k
        weights[f"{name}.w"] = rng.normal(0, np.sqrt(2 / fan_in), (c[1], c[0], k, k)).astype(np.float32)
        weights[f"{name}.b"] = rng.normal(0, 0.1, c[1]).astype(np.float32)
        inputs = [source, f"{name}.w", f"{name}.b"]
        nodes.append(node("Conv", inputs, name, pads=[k // 2] * 4, strides=[stride] * 2))
        return name

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(node(op, inputs, output, **attributes))
        return output

    stem = add("Relu", [conv("stem", "x", (3, width), 3)], "stem.relu")
    one = add("Relu", [conv("a1", stem, (width, width), 3)], "a1.relu")
    first = add("Relu", [add("Add", [conv("a2", one, (width, width), 3), stem], "a.add")], "a.relu")
    pooled = add("MaxPool", [first], "pool", kernel_shape=[2, 2], strides=[2, 2])
    two = add("Relu", [conv("b1", pooled, (width, 2 * width), 3, 2)], "b1.relu")
    short = conv("short", pooled, (width, 2 * width), 1, 2)
    second = add("Relu", [add("Add", [conv("b2", two, (2 * width, 2 * width), 3), short], "b.add")], "b.relu")
    if mean == "ReduceMean":
        weights["axes"] = np.asarray([-2, -1])
        head = add("ReduceMean", [second, "axes"], "mean", keepdims=1)
    else:
        head = add("GlobalAveragePool", [second], "mean")
    weights["fc.w"] = rng.normal(0, 0.2, (32, 2 * width)).astype(np.float32)
    weights["fc.b"] = rng.normal(0, 0.1, 32).astype(np.float32)
    add("Gemm", [add("Flatten", [head], "flat"), "fc.w", "fc.b"], "y", transB=1)
    return model(nodes, weights, (batch, 3, 16, 16), opset=18 if mean == "ReduceMean" else 17)


def samples(n: int, shape: Sequence[int] = (3, 16, 16), seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (n, *shape)).astype(np.float32)


def saved(made: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(made, path)
    return path


def calibrated(made: ModelProto, n: int = 4) -> Ranges:
    """Collect the ranges of a model on `n` samples of noise."""
    shape = [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim][1:]
    with TemporaryDirectory() as folder:
        return collect(saved(made, Path(folder)), [{"x": samples(n, shape)}], Minmax())


def by_op(made: ModelProto, op: str) -> list[NodeProto]:
    return [n for n in made.graph.node if n.op_type == op]


def array(made: ModelProto, name: str) -> Array:
    return numpy_helper.to_array(index(made.graph).constants[name])


def run(made: ModelProto, x: Array, optimized: Path | None = None, fetch: str | None = None) -> Array:
    """The first output, or `fetch`, sample by sample; unoptimised unless `optimized` says where to save."""
    copy = ModelProto()
    copy.CopyFrom(made)
    if fetch:
        copy.graph.output.insert(0, onnx.ValueInfoProto(name=fetch))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if optimized:
        options.optimized_model_filepath = str(optimized)
    else:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in x])


def sqnr_db(exact: Array, approximate: Array) -> float:
    noise = np.square(exact.astype(np.float64) - approximate).sum()
    return float(10 * np.log10(np.square(exact.astype(np.float64)).sum() / noise))
