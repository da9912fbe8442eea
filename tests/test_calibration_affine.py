"""Normalizations, sums and products with constants become part of convolutions, and the function stays the same."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibration_nets import FUSING, model, node, run, samples, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto

from calibration.affine import fold_affine
from calibration.collect import collect
from calibration.observers.minmax import Minmax
from calibration.placement import place


def ops(made: ModelProto) -> list[str]:
    return [n.op_type for n in made.graph.node]


def assert_same_function(made: ModelProto, other: ModelProto, x: np.ndarray) -> None:
    expected = run(made, x)
    np.testing.assert_allclose(run(other, x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def norm_weights(seed: int, channels: int, name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"{name}.gamma": rng.uniform(-2, 2, channels).astype(np.float32),
        f"{name}.beta": rng.normal(0, 1, channels).astype(np.float32),
        f"{name}.mean": rng.normal(0, 1, channels).astype(np.float32),
        f"{name}.var": rng.uniform(0.1, 3, channels).astype(np.float32),
    }


def conv_weights(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_folding_is_exact(groups, bias):
    conv = {"w": conv_weights(0, (8, 4 // groups, 3, 3))} | ({"b": conv_weights(1, (8,))} if bias else {})
    norm = norm_weights(2, 8, "n")
    nodes = [
        node("Conv", ["x", *conv], "c", group=groups, pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", *norm], "n", epsilon=0.01),
        node("Relu", ["n"], "y"),
    ]
    made = model(nodes, conv | norm, (1, 4, 6, 6))
    folded = fold_affine(made)
    onnx.checker.check_model(folded, full_check=True)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Relu"]
    assert len(folded.graph.initializer) == 2
    x = samples(3, (4, 6, 6))
    np.testing.assert_allclose(run(folded, x), run(made, x), rtol=1e-5, atol=1e-5)
    assert made.graph.node[1].op_type == "BatchNormalization"


def test_a_weight_that_two_convolutions_share_is_copied_not_changed():
    weights = {"w": conv_weights(0, (4, 4, 1, 1))} | norm_weights(1, 4, "n")
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("BatchNormalization", ["c", *list(weights)[1:]], "n"),
        node("Conv", ["n", "w"], "y"),
    ]
    made = model(nodes, weights, (1, 4, 5, 5))
    folded = fold_affine(made)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Conv"]
    x = samples(2, (4, 5, 5))
    np.testing.assert_allclose(run(folded, x), run(made, x), rtol=1e-5, atol=1e-5)


def test_a_norm_whose_convolution_others_read_stays():
    weights = {"w": conv_weights(0, (4, 4, 1, 1))} | norm_weights(1, 4, "n")
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("BatchNormalization", ["c", *list(weights)[1:]], "n"),
        node("Add", ["n", "c"], "y"),
    ]
    folded = fold_affine(model(nodes, weights, (1, 4, 5, 5)))
    assert "BatchNormalization" in [n.op_type for n in folded.graph.node]


CONSTANTS = {
    "number": np.asarray(1.7, np.float32),
    "vector": np.asarray([-0.6], np.float32),
    "channels": np.asarray([0.5, -2, 1.5, 0.1], np.float32).reshape(4, 1, 1),
    "batched": np.asarray([0.5, -2, 1.5, 0.1], np.float32).reshape(1, 4, 1, 1),
}


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_behind_a_convolution(kind: str, op: str, first: bool, constant: str):
    inputs = [constant, "c"] if first else ["c", constant]
    nodes = [node(kind, ["x", "w", "b"], "c", pads=[1, 1, 1, 1]), node(op, inputs, "a"), node("Relu", ["a"], "y")]
    weights = {"w": conv_weights(0, (4, 4, 3, 3)), "b": conv_weights(1, (4,)), constant: CONSTANTS[constant]}
    made = model(nodes, weights, (1, 4, 6, 6))
    folded = fold_affine(made)
    onnx.checker.check_model(folded, full_check=True)
    stays = op == "Div" and first  # a constant over what the convolution gives is no affine op
    assert ops(folded) == ([kind, "Div", "Relu"] if stays else [kind, "Relu"])
    assert_same_function(made, folded, samples(2, (4, 6, 6)))


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_a_normalization_behind_a_convolution_without_a_bias(kind: str):
    norm = norm_weights(2, 4, "n")
    nodes = [node(kind, ["x", "w"], "c"), node("BatchNormalization", ["c", *norm], "y")]
    made = model(nodes, {"w": conv_weights(0, (4, 4, 2, 2))} | norm, (1, 4, 6, 6))
    folded = fold_affine(made)
    assert ops(folded) == [kind]
    assert_same_function(made, folded, samples(2, (4, 6, 6)))


@pytest.mark.parametrize(
    ("op", "value"),
    [
        ("Mul", np.ones(6)),  # along the width
        ("Mul", np.ones((1, 1, 6, 6))),
        ("Mul", np.ones((2, 1, 1, 1))),  # makes two samples of one
        ("Mul", np.ones((1, 1, 1, 1, 1))),  # adds a dimension
        ("Div", np.asarray(0.0)),
    ],
)
def test_other_constants_stay(op: str, value: np.ndarray):
    nodes = [node("Conv", ["x", "w"], "c"), node(op, ["c", "k"], "y")]
    made = model(nodes, {"w": conv_weights(0, (4, 4, 1, 1)), "k": value.astype(np.float32)}, (1, 4, 6, 6))
    assert ops(fold_affine(made)) == ["Conv", op]


def test_one_channel_that_a_sum_makes_many_of_stays():
    nodes = [node("Conv", ["x", "w"], "c"), node("Add", ["c", "channels"], "y")]
    weights = {"w": conv_weights(0, (1, 4, 1, 1)), "channels": CONSTANTS["channels"]}
    made = model(nodes, weights, (1, 4, 6, 6))
    assert ops(fold_affine(made)) == ["Conv", "Add"]


def between(reader: dict[str, Any], *more: NodeProto, **constants: Any) -> ModelProto:
    """sigmoid(x) · 0.5 - 0.25 + more, read by a convolution."""
    nodes = [
        node("Sigmoid", ["x"], "s"),
        node("Mul", ["half", "s"], "m"),
        node("Sub", ["m", "quarter"], "a"),
        *more,
        node("Conv", ["a", "w"], "c", **reader),
        node("Relu", ["c"], "y"),
    ]
    weights = {"half": np.float32(0.5), "quarter": np.float32([0.25]), "w": conv_weights(0, (4, 2, 3, 3)), **constants}
    return model(nodes, weights, (1, 4, 6, 6))


def test_before_a_convolution_without_a_border():
    made = between({"group": 2})
    folded = fold_affine(made)
    assert ops(folded) == ["Sigmoid", "Conv", "Relu"]
    assert_same_function(made, folded, samples(2, (4, 6, 6)))


@pytest.mark.parametrize("border", [{"pads": [1, 0, 0, 0]}, {"auto_pad": "SAME_UPPER"}])
def test_before_a_border_of_zeros_the_sum_stays(border: dict[str, Any]):
    made = between({"group": 2, **border})
    folded = fold_affine(made)
    assert ops(folded) == ["Sigmoid", "Add", "Conv", "Relu"]
    assert_same_function(made, folded, samples(2, (4, 6, 6)))
    assert ops(fold_affine(folded)) == ops(folded)


def test_before_several_convolutions_one_of_which_has_a_border():
    nodes = [
        node("Sigmoid", ["x"], "s"),
        node("Mul", ["s", "number"], "m"),
        node("Add", ["m", "vector"], "a"),
        node("Conv", ["a", "w"], "c", pads=[1, 1, 1, 1]),
        node("Conv", ["a", "v"], "d"),
        node("Concat", ["c", "d"], "y", axis=1),
    ]
    weights = {"w": conv_weights(0, (4, 4, 3, 3)), "v": conv_weights(1, (3, 4, 1, 1)), **CONSTANTS}
    made = model(nodes, weights, (1, 4, 6, 6))
    folded = fold_affine(made)
    assert ops(folded) == ["Sigmoid", "Add", "Conv", "Conv", "Concat"]
    assert_same_function(made, folded, samples(2, (4, 6, 6)))


def test_what_others_read_too_stays():
    made = between({"group": 2}, node("Neg", ["a"], "n"))
    made.graph.output.append(onnx.ValueInfoProto(name="n"))
    assert ops(fold_affine(made)) == ops(made)


def test_numbers_per_channel_before_a_convolution_stay():
    nodes = [node("Relu", ["x"], "r"), node("Mul", ["r", "channels"], "m"), node("Conv", ["m", "w"], "y")]
    weights = {"channels": CONSTANTS["channels"], "w": conv_weights(0, (4, 4, 1, 1))}
    assert ops(fold_affine(model(nodes, weights, (1, 4, 6, 6)))) == ["Relu", "Mul", "Conv"]


def test_the_last_product_of_an_activation_that_runtimes_know_stays():
    gelu = [
        node("Div", ["x", "root"], "d"),
        node("Erf", ["d"], "e"),
        node("Add", ["e", "one"], "p"),
        node("Mul", ["x", "p"], "m"),
        node("Mul", ["m", "half"], "g"),
        node("Conv", ["g", "w"], "y"),
    ]
    weights = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    made = model(gelu, {**weights, "w": conv_weights(0, (4, 4, 1, 1))}, (1, 4, 6, 6))
    assert ops(fold_affine(made)) == ops(made)


def test_values_far_from_zero_keep_the_sum_that_brings_them_there(tmp_path: Path):
    """A range must hold zero: of values around 300 without their sum, int8 would tell next to nothing."""
    nodes = [
        node("Sub", ["x", "level"], "a"),
        node("Mul", ["a", "half"], "m"),
        node("Conv", ["m", "w"], "c"),
        node("Relu", ["c"], "r"),
        node("Conv", ["r", "v"], "y"),
    ]
    weights = {"level": np.float32(300), "half": np.float32(0.5), "w": conv_weights(0, (4, 4, 3, 3))}
    made = model(nodes, {**weights, "v": conv_weights(1, (4, 4, 1, 1))}, (1, 4, 8, 8))
    folded = fold_affine(made)
    assert ops(folded) == ["Add", "Conv", "Relu", "Conv"]
    x = (300 + 2 * samples(8, (4, 8, 8))).astype(np.float32)
    assert_same_function(made, folded, x)
    ranges = collect(saved(folded, tmp_path), [{"x": x}], Minmax())
    exact, given = run(made, x), run(place(folded, ranges, FUSING).model, x)
    assert np.square(exact).sum() > 1000 * np.square(given - exact).sum()  # 30 dB


def test_a_constant_that_gives_the_data_its_rank_stays():
    nodes = [node("Relu", ["x"], "r"), node("Mul", ["r", "k"], "m"), node("Conv", ["m", "w"], "y")]
    weights = {"k": np.full((1, 1, 1, 1), 2, np.float32), "w": conv_weights(0, (3, 4, 2, 2))}
    made = model(nodes, weights, (4, 5, 5))
    assert ops(fold_affine(made)) == ops(made)


@pytest.mark.parametrize("order", ["behind", "before"])
def test_what_float32_cannot_hold_stays(order: str):
    conv, scale = node("Conv", ["x", "w"], "c"), node("Div", ["c", "tiny"], "y")
    if order == "before":
        conv, scale = node("Div", ["x", "tiny"], "c"), node("Conv", ["c", "w"], "y")
    weights = {"tiny": np.float32(1e-38), "w": 1000 * conv_weights(0, (4, 4, 1, 1))}
    made = model([conv, scale], weights, (1, 4, 5, 5))
    assert ops(fold_affine(made)) == ops(made)


@given(
    chain=st.lists(
        st.tuples(st.sampled_from(["Mul", "Div", "Add", "Sub"]), st.booleans(), st.sampled_from(list(CONSTANTS))),
        max_size=5,
    ),
    groups=st.sampled_from([1, 2, 4]),
    pad=st.sampled_from([0, 1]),
)
@settings(max_examples=60, deadline=None)
def test_any_chain_between_two_convolutions(chain: list[tuple[str, bool, str]], groups: int, pad: int):
    nodes, last = [node("Conv", ["x", "w0"], "c"), node("Tanh", ["c"], "t0")], "t0"
    for i, (op, first, constant) in enumerate(chain):
        swapped = first and op != "Div"  # a constant over a value near zero has no figures to compare
        nodes.append(node(op, [constant, last] if swapped else [last, constant], f"t{i + 1}"))
        last = f"t{i + 1}"
    nodes.append(node("Conv", [last, "w"], "y", group=groups, pads=[pad] * 4))
    weights = {"w0": conv_weights(0, (4, 4, 1, 1)), "w": conv_weights(1, (4, 4 // groups, 3, 3)), **CONSTANTS}
    made = model(nodes, weights, (1, 4, 5, 5))
    folded = fold_affine(made)
    assert len(folded.graph.node) <= len(made.graph.node)
    assert_same_function(made, folded, samples(2, (4, 5, 5)))
