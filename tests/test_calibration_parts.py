"""Which parts of a network are tried apart: together all of it, few enough, and cut where blocks end."""

import numpy as np
import pytest
from calibration_nets import FUSING, SCHEMES, calibrated, model, node, resnet, single_conv
from onnx import ModelProto

from calibration.kernels import layers
from calibration.parts import Part, parts
from calibration.placement import place
from targets.base import Int8Scheme


def parts_of(net: ModelProto, scheme: Int8Scheme = FUSING, most: int = 12) -> tuple[Part, ...]:
    return parts(net, place(net, calibrated(net), scheme), scheme, most)


def deep(blocks: int, residual: bool = True) -> ModelProto:
    """A stem, blocks of two convolutions with a sum each, and a last convolution."""
    weight = {"w": np.random.default_rng(0).normal(0, 0.1, (4, 4, 3, 3)).astype(np.float32)}
    nodes = [node("Conv", ["x", "w"], "t0", pads=[1] * 4)]
    for i in range(blocks):
        nodes += [
            node("Conv", [f"t{i}", "w"], f"a{i}", pads=[1] * 4),
            node("Relu", [f"a{i}"], f"r{i}"),
            node("Conv", [f"r{i}", "w"], f"b{i}" if residual else f"t{i + 1}", pads=[1] * 4),
        ]
        nodes += [node("Add", [f"b{i}", f"t{i}"], f"t{i + 1}")] if residual else []
    return model([*nodes, node("Conv", [f"t{blocks}", "w"], "y", pads=[1] * 4)], weight, (1, 4, 8, 8))


@SCHEMES
@pytest.mark.parametrize("net", [resnet(), deep(3), deep(40), deep(40, residual=False), single_conv()])
def test_layers_are_each_in_one_part_and_parts_are_few(scheme: Int8Scheme, net: ModelProto) -> None:
    placed = place(net, calibrated(net), scheme)
    found = parts(net, placed, scheme)
    runs = [part for part in found if part.layers]
    together = [op for part in runs for op in part.ops]
    assert sorted(together) == sorted(placed.quantized)
    assert [layer for part in runs for layer in part.layers] == list(layers(net, placed, scheme))
    assert len(runs) <= 12 + 2
    assert len({part.ops for part in found}) == len({part.name for part in found}) == len(found)


def test_a_short_network_is_cut_layer_by_layer() -> None:
    names = [part.name for part in parts_of(deep(1))]
    assert names == ["the first layer", "Conv_a0", "Conv_b0", "the last layer", "residual adds"]


def test_a_deep_network_is_cut_behind_residual_adds() -> None:
    inner = [part for part in parts_of(deep(40)) if part.layers][1:-1]
    assert len(inner) <= 12
    for part in inner:
        last = part.layers[-1]
        assert any(op.startswith("Add_") for op in last.ops)
    sizes = [len(part.layers) for part in inner]
    assert max(sizes) <= 2 * min(sizes[:-1])


def test_ops_of_one_kind_are_a_part_of_their_own() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "pw": rng.normal(0, 0.3, (4, 4, 1, 1)).astype(np.float32),
        "dw": rng.normal(0, 0.3, (4, 1, 3, 3)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "pw"], "a"),
        node("Conv", ["a", "dw"], "b", pads=[1] * 4, group=4),
        node("Conv", ["b", "pw"], "c"),
        node("Add", ["c", "x"], "d"),
        node("MaxPool", ["d"], "e", kernel_shape=[2, 2]),
        node("MatMul", ["e", "e"], "f"),
        node("Conv", ["f", "pw"], "y"),
    ]
    net = model(nodes, weights, (1, 4, 8, 8))
    found = {part.name: part.ops for part in parts_of(net, Int8Scheme(joined=("Add", "MaxPool")))}
    assert found["residual adds"] == {"Add_d"}
    assert "Conv_b" in found["Conv_b"]  # alone already, as a layer: not twice
    assert "depthwise convolutions" not in found
    assert found["MatMul_f"] == {"MatMul_f"}
    two = model(
        [*nodes[:-1], node("Conv", ["f", "dw"], "g", pads=[1] * 4, group=4), node("Conv", ["g", "pw"], "y")],
        weights,
        (1, 4, 8, 8),
    )
    assert {part.name: part.ops for part in parts_of(two)}["depthwise convolutions"] == {"Conv_b", "Conv_g"}


def test_nothing_in_int8_has_no_parts() -> None:
    assert parts_of(single_conv(), Int8Scheme(weighted=())) == ()
