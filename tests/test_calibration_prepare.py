from collections import Counter

import numpy as np
import onnx
import pytest
from calibration_nets import SCHEMES, model, node, resnet, run, samples, saved
from onnx import ModelProto, TensorProto, helper, numpy_helper

from calibration import saving
from calibration.collect import collect
from calibration.errors import CalibrationError
from calibration.graph import load_model
from calibration.observers.minmax import Minmax
from calibration.placement import place
from calibration.prepare import prepare
from calibration.saving import save_model


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def ops(made: ModelProto) -> list[str]:
    return [n.op_type for n in made.graph.node]


def scattered() -> ModelProto:
    """A convolution in many pieces, a computed constant, a computed shape and transposes that cancel out."""
    nodes = [
        node("Identity", ["x"], "same"),
        node("Conv", ["same", "w"], "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], "bn"),
        node("Mul", ["bn", "s"], "m"),
        node("Add", ["m", "t"], "a"),
        node("Dropout", ["a"], "d"),
        node("Relu", ["d"], "r"),
        node("Add", ["k1", "k2"], "k"),
        node("Mul", ["r", "k"], "rk"),
        node("Shape", ["rk"], "shape"),
        node("Gather", ["shape", "i0"], "n", axis=0),
        node("Unsqueeze", ["n", "i1"], "n1"),
        node("Concat", ["n1", "rest"], "flat_shape", axis=0),
        node("Reshape", ["rk", "flat_shape"], "flat"),
        node("MatMul", ["flat", "mw"], "mm"),
        node("Add", ["mm", "mb"], "logits"),
        node("Transpose", ["logits"], "turned", perm=[1, 0]),
        node("Transpose", ["turned"], "y", perm=[1, 0]),
    ]
    weights = {
        "w": normal(4, 3, 3, 3),
        "gamma": 1 + normal(4),
        "beta": normal(4),
        "mean": normal(4),
        "var": 1 + normal(4) ** 2,
        "s": 1 + normal(1, 4, 1, 1),
        "t": normal(4, 1, 1, seed=1),
        "k1": normal(1),
        "k2": normal(1, seed=1),
        "i0": np.asarray(0),
        "i1": np.asarray([0]),
        "rest": np.asarray([-1]),
        "mw": normal(256, 8),
        "mb": normal(8),
    }
    return model(nodes, weights, ("N", 3, 8, 8))


def attention(opset: int) -> ModelProto:
    """A normalization and a GELU written out, as exporters do."""
    f = np.float32
    nodes = [
        node("MatMul", ["x", "w"], "m"),
        node("Add", ["m", "b"], "a"),
        node("Sub", ["a", "shift"], "d"),
        node("Mul", ["d", "d"], "p"),
        node("Sqrt", ["p"], "root"),
        node("Div", ["a", "r2"], "e0"),
        node("Erf", ["e0"], "e1"),
        node("Add", ["e1", "one"], "e2"),
        node("Mul", ["a", "e2"], "e3"),
        node("Mul", ["e3", "half"], "gelu"),
        node("Add", ["gelu", "root"], "y"),
    ]
    weights = {"w": normal(8, 16), "b": normal(16), "shift": normal(16, seed=1)}
    weights |= {"r2": f(2**0.5), "one": f(1), "half": f(0.5)}
    return model(nodes, weights, ("N", 5, 8), opset=opset)


MODELS = {
    "scattered": (scattered, (3, 8, 8)),
    "resnet": (lambda: resnet("N"), (3, 16, 16)),
    "mean": (lambda: resnet(mean="ReduceMean"), (3, 16, 16)),
    "attention": (lambda: attention(20), (5, 8)),
}


def assert_same_function(made: ModelProto, other: ModelProto, x: np.ndarray) -> None:
    expected = run(made, x)
    np.testing.assert_allclose(run(other, x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_function_and_interface_are_preserved(name):
    build, shape = MODELS[name]
    made = build()
    given = made.SerializeToString()
    ready = prepare(made)
    assert made.SerializeToString() == given
    onnx.checker.check_model(ready, full_check=True)
    assert list(ready.graph.input) == list(made.graph.input)
    assert list(ready.graph.output) == list(made.graph.output)
    assert_same_function(made, ready, samples(3, shape))


def test_what_stood_between_is_gone():
    ready = prepare(scattered())
    assert Counter(ops(ready)) == {"Conv": 1, "Relu": 1, "Mul": 1, "Reshape": 1, "Gemm": 1}
    (shape,) = [v.type.tensor_type.shape.dim for v in ready.graph.value_info if v.name == "rk"]
    assert [d.dim_value or d.dim_param for d in shape] == ["N", 4, 8, 8]
    assert {o.domain for o in ready.opset_import} == {""}


@SCHEMES
def test_what_is_ready_calibrates_and_takes_pairs(tmp_path, scheme):
    ready = prepare(scattered())
    ranges = collect(saved(ready, tmp_path), [{"x": samples(4, (3, 8, 8))}], Minmax())
    assert "Conv_c" in place(ready, ranges, scheme).quantized


def test_several_ops_are_not_rewritten_as_one_that_some_runtimes_lack():
    ready = prepare(attention(20))
    assert {"Gelu", "LayerNormalization"}.isdisjoint(ops(ready))
    assert {n.domain for n in ready.graph.node} == {""}


@pytest.mark.parametrize("opset", range(13, 22))
def test_opsets_from_13_stay_as_they_are(opset):
    nodes = [node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "r"), node("Identity", ["r"], "y")]
    made = model(nodes, {"w": normal(4, 3, 3, 3)}, ("N", 3, 8, 8), opset=opset)
    ready = prepare(made)
    assert [o.version for o in ready.opset_import] == [opset]
    assert ops(ready) == ["Conv", "Relu"]
    assert_same_function(made, ready, samples(2, (3, 8, 8)))


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_older_opsets_are_brought_to_13(opset):
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("Relu", ["c"], "r"),
        node("Dropout", ["r"], "d"),
        node("Squeeze", ["d"], "q", axes=[2, 3]),
        node("Softmax", ["q"], "y", axis=1),
    ]
    made = model(nodes, {"w": normal(16, 3, 8, 8)}, ("N", 3, 8, 8), opset=opset)
    ready = prepare(made)
    assert [o.version for o in ready.opset_import] == [13]
    assert ops(ready) == ["Conv", "Relu", "Squeeze", "Softmax"]
    assert_same_function(made, ready, samples(3, (3, 8, 8)))


def test_an_opset_that_cannot_be_converted():
    made = model([node("Relu", ["x"], "y")], {}, (1, 2), opset=12)
    made.graph.node[0].op_type = "Nonsense"
    with pytest.raises(CalibrationError, match="opset 12") as caught:
        prepare(made)
    assert "\n" not in str(caught.value)


def test_weights_listed_as_inputs_are_weights():
    nodes = [node("Conv", ["x", "w"], "c"), node("Mul", ["c", "s"], "y")]
    made = model(nodes, {"w": normal(4, 3, 1, 1), "s": normal(1, 4, 1, 1)}, ("N", 3, 2, 2))
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    made.ir_version = 3
    ready = prepare(made)
    assert [v.name for v in ready.graph.input] == ["x"]
    assert ops(ready) == ["Conv"]


def test_metadata_stays():
    made = scattered()
    helper.set_model_props(made, {"labels": "a,b"})
    made.producer_name, made.doc_string, made.graph.doc_string = "me", "words", "more words"
    ready = prepare(made)
    assert {p.key: p.value for p in ready.metadata_props} == {"labels": "a,b"}
    assert (ready.producer_name, ready.doc_string, ready.graph.doc_string) == ("me", "words", "more words")


def test_several_inputs_of_any_type():
    nodes = [node("Gather", ["table", "ids"], "rows"), node("Mul", ["rows", "two"], "m"), node("Add", ["m", "x"], "y")]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", 4])],
        [numpy_helper.from_array(normal(9, 4), "table"), numpy_helper.from_array(np.float32(2), "two")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    ready = prepare(made)
    assert list(ready.graph.input) == list(made.graph.input)
    assert list(ready.graph.output) == list(made.graph.output)


@pytest.mark.parametrize("name", ["scattered", "resnet", "mean"])
def test_large_models_go_through_external_data(tmp_path, monkeypatch, name):
    build, shape = MODELS[name]
    expected = prepare(build())
    monkeypatch.setattr(saving, "_MOST_IN_MESSAGE", 100)
    ready = prepare(build())
    assert {t.name: numpy_helper.to_array(t).tobytes() for t in ready.graph.initializer} == {
        t.name: numpy_helper.to_array(t).tobytes() for t in expected.graph.initializer
    }
    assert {(n.op_type, *n.input, *n.output) for n in ready.graph.node} == {
        (n.op_type, *n.input, *n.output) for n in expected.graph.node
    }
    save_model(ready, tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").exists()
    loaded = load_model(tmp_path / "big.onnx")
    assert_same_function(expected, loaded, samples(2, shape))
    collect(tmp_path / "big.onnx", [{"x": samples(1, shape)}], Minmax()).require(loaded)


def test_what_int8_cannot_be_made_of():
    quantized = model(
        [node("QuantizeLinear", ["x", "s", "z"], "q"), node("DequantizeLinear", ["q", "s", "z"], "y")],
        {"s": np.float32(1), "z": np.uint8(0)},
        (1, 2),
    )
    with pytest.raises(CalibrationError, match="nodes already: give the float model"):
        prepare(quantized)
    refused = model([node("Relu", ["x"], "y")], {}, (1, 2))
    refused.graph.node[0].op_type = "Nonsense"
    with pytest.raises(CalibrationError, match=r"onnxruntime cannot load the model: .*Nonsense") as caught:
        prepare(refused)
    assert "\n" not in str(caught.value)
