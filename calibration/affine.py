"""Normalizations, and sums and products with constants, made part of the convolutions around them.

Left where they are, each is a pass over a tensor in float, and between two int8 convolutions such passes are most of
what there is to wait for. Runtimes fold the commonest spellings themselves, but not once a Q/DQ pair stands between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from calibration.graph import (
    Index,
    Names,
    attributes,
    copy_with_constants_lifted,
    drop_unread_initializers,
    index,
    label,
)
from calibration.layers import Layer, along, layer_of
from calibration.pairs import read_constant

Array = NDArray[np.float64]

CONVOLUTIONS = ("Conv", "ConvTranspose")
SCALED = frozenset({"Mul", "Div", "Add", "Sub"})
# The last product of a GELU or a swish looks like any other: runtimes that know the whole must find all of it.
ARITHMETIC = SCALED | {"Pow", "Sqrt"}
# What they write reaches zero or lies on it, so that a range that must hold zero has nothing to add.
AT_ZERO = frozenset({"Relu", "Sigmoid", "HardSigmoid", "HardSwish"})

Fold = Callable[[GraphProto, Index, NodeProto], bool]


@dataclass(frozen=True)
class Affine:
    """`gain · data + shift`, each one number `()` or one per channel `(channels,)`."""

    data: str
    gain: Array
    shift: Array

    @property
    def uniform(self) -> bool:
        """Whether every channel has the same."""
        return self.gain.ndim == self.shift.ndim == 0


def fold_affine(model: ModelProto) -> ModelProto:
    """Return a copy, the same function up to rounding, in which affine ops are part of convolutions where they can be.

    BatchNormalization, and Mul, Div, Add and Sub with a constant, one number or one per channel. Behind a convolution
    that nothing else reads, its weights become `w · gain` and its bias `b · gain + shift`. Before convolutions alone,
    one number for all channels is multiplied into their weights, and a sum behind an activation function into their
    biases; but padding adds zeros after the sum, and a sum may bring values around 300 to zero, which an int8 range
    has to hold: there `gain · x + shift` becomes `x + shift / gain`. Numbers per channel stay: they are what evens out
    the channels of a tensor that has one scale. Float32 alone, computed in float64; transposed convolutions in groups
    are left alone. Weights that others read too are copied, not changed.
    """
    folded = copy_with_constants_lifted(model)
    graph = folded.graph
    _each(graph, list(graph.node), SCALED | {"BatchNormalization"}, _fold_behind)
    _each(graph, list(graph.node)[::-1], SCALED, _fold_before)
    drop_unread_initializers(graph)
    return folded


def _each(graph: GraphProto, nodes: Sequence[NodeProto], kinds: Collection[str], fold: Fold) -> None:
    """Try every node of these kinds; the graph is indexed anew where one was folded, which takes as long as it is."""
    found = index(graph)
    for node in nodes:
        if node.op_type in kinds and fold(graph, found, node):
            found = index(graph)


def _fold_behind(graph: GraphProto, found: Index, node: NodeProto) -> bool:
    """Make an affine op part of the convolution that it alone reads; whether it is."""
    conv = next((found.producer[name] for name in node.input[:2] if name in found.producer), None)
    if conv is None or conv.op_type not in CONVOLUTIONS or found.only_reader(conv.output[0]) is None:
        return False
    layer = layer_of(conv, found)
    affine = _affine(node, found, layer.weight.ndim) if layer is not None else None
    if layer is None or affine is None or not layer.takes_bias:
        return False
    if {affine.gain.size, affine.shift.size} - {1, layer.channels}:
        return False  # it makes many channels of one
    weight = layer.weight.astype(np.float64) * along(affine.gain, layer.axis, layer.weight.ndim)
    bias = _bias(layer) * affine.gain + affine.shift
    if not _are_finite(weight, bias):
        return False
    _set(graph, found, layer, weight, bias)
    conv.output[0] = node.output[0]
    graph.node.remove(node)
    return True


def _fold_before(graph: GraphProto, found: Index, last: NodeProto) -> bool:
    """Make the chain of affine ops that `last` ends part of the convolutions that alone read it; whether it is."""
    readers = _convolutions(last.output[0], found)
    chain, affine = _chain(last, found, readers[0].weight.ndim) if readers else ([], None)
    if affine is None or not affine.gain:
        return False
    maker = found.producer.get(affine.data)
    keep = any(_is_padded(layer) for layer in readers) or maker is None or maker.op_type not in AT_ZERO
    kept = np.asarray(affine.shift / affine.gain if keep else 0.0)
    if kept and affine.gain == 1:
        return False
    weights = [layer.weight.astype(np.float64) for layer in readers]
    constants = [np.full(_inputs(layer), 0.0 if keep else float(affine.shift)) for layer in readers]
    biases = [_bias(a) + read_constant(a, w, c) for a, w, c in zip(readers, weights, constants, strict=True)]
    weights = [weight * affine.gain for weight in weights]
    if not _are_finite(kept, *weights, *biases):
        return False
    source = _sum(graph, last, affine.data, np.float32(kept)) if kept else affine.data
    for layer, weight, bias in zip(readers, weights, biases, strict=True):
        _set(graph, found, layer, weight, bias)
        layer.node.input[0] = source
    for node in chain:
        graph.node.remove(node)
    return True


def _convolutions(tensor: str, found: Index) -> list[Layer]:
    """The readers of a tensor, if they are all convolutions that can take it scaled."""
    if tensor in found.outputs or tensor in found.inner:
        return []
    nodes = found.readers.get(tensor, ())
    layers = [layer_of(node, found) for node in nodes if node.op_type == "Conv" and tensor not in node.input[1:]]
    fit = [layer for layer in layers if layer is not None and layer.takes_bias]
    return fit if len(fit) == len(nodes) else []


def _chain(last: NodeProto, found: Index, rank: int) -> tuple[list[NodeProto], Affine | None]:
    """The uniform affine ops that end in `last`, and what they come to; nothing where they may end something else."""
    chain: list[NodeProto] = []
    whole: Affine | None = None
    node: NodeProto | None = last
    while node is not None:
        step = _affine(node, found, rank - 1)  # a constant of full rank may be what gives the data that rank
        if step is None or not step.uniform:
            break
        gain, shift = (whole.gain, whole.shift) if whole else (np.float64(1), np.float64(0))
        whole = Affine(step.data, np.asarray(gain * step.gain), np.asarray(gain * step.shift + shift))
        chain.append(node)
        node = found.producer.get(step.data)
        if node is not None and found.only_reader(step.data) is None:
            break
    return ([], None) if node is not None and node.op_type in ARITHMETIC else (chain, whole)


def _affine(node: NodeProto, found: Index, rank: int) -> Affine | None:
    """What an op does to a tensor of `rank` dimensions, channels second; None where it is no such op."""
    if node.op_type == "BatchNormalization":
        return _normalization(node, found)
    if node.op_type not in SCALED or sum(name in found.constants for name in node.input) != 1:
        return None
    first = node.input[0] in found.constants
    value = _by_channel(found.constants[node.input[0 if first else 1]], rank)
    if value is None or (node.op_type == "Div" and (first or not value.all())):
        return None
    one, zero = np.asarray(1.0), np.asarray(0.0)
    data = node.input[1 if first else 0]
    if node.op_type in ("Mul", "Div"):
        return Affine(data, value if node.op_type == "Mul" else 1 / value, zero)
    if node.op_type == "Add":
        return Affine(data, one, value)
    return Affine(data, -one, value) if first else Affine(data, one, -value)


def _normalization(node: NodeProto, found: Index) -> Affine | None:
    given = attributes(node)
    trains = given.get("training_mode", 0) or any(node.output[1:])
    if trains or not all(name in found.constants for name in node.input[1:]):
        return None
    arrays = [numpy_helper.to_array(found.constants[name]).astype(np.float64) for name in node.input[1:]]
    gamma, beta, mean, variance = arrays
    gain = gamma / np.sqrt(variance + given.get("epsilon", 1e-5))
    return Affine(node.input[0], gain, beta - mean * gain)


def _by_channel(tensor: TensorProto, rank: int) -> Array | None:
    """A float32 constant that broadcasts as one number `()`, or as one per channel `(channels,)`."""
    value = numpy_helper.to_array(tensor)
    if tensor.data_type != TensorProto.FLOAT or value.ndim > rank:
        return None
    whole = value.astype(np.float64).reshape((1,) * (rank - value.ndim) + value.shape)
    if whole.size == 1:
        return whole.reshape(())
    return whole.reshape(-1) if whole.size == whole.shape[1] else None


def _are_finite(*arrays: Array) -> bool:
    """Whether they are finite in float32."""
    with np.errstate(over="ignore"):
        return all(bool(np.isfinite(array.astype(np.float32)).all()) for array in arrays)


def _is_padded(layer: Layer) -> bool:
    return any(layer.options.get("pads", ())) or layer.options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


def _inputs(layer: Layer) -> int:
    return int(layer.weight.shape[1] * layer.options.get("group", 1))


def _bias(layer: Layer) -> Array:
    return np.zeros(layer.channels) if layer.bias is None else layer.bias.astype(np.float64)


def _sum(graph: GraphProto, before: NodeProto, data: str, value: np.float32) -> str:
    """Add a constant to a tensor, in a node that stands where `before` does; returns the sum's name."""
    names = Names(graph)
    constant, total = names.fresh(f"{before.output[0]}_shift"), names.fresh(f"{before.output[0]}_shifted")
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), constant))
    node = NodeProto(op_type="Add", name=names.fresh(f"{label(before)}_shifted"), input=[data, constant])
    node.output.append(total)
    graph.node.insert(list(graph.node).index(before), node)
    return total


def _set(graph: GraphProto, found: Index, layer: Layer, weight: Array, bias: Array) -> None:
    """Give a convolution another weight and bias of its own."""
    given = list(layer.node.input)
    stored = [
        _own(graph, found, given[1], weight),
        _own(graph, found, given[2] if len(given) > 2 else "", bias, f"{layer.output}_bias"),
    ]
    del layer.node.input[:]
    layer.node.input.extend([given[0], *stored])


def _own(graph: GraphProto, found: Index, name: str, value: Any, wanted: str = "") -> str:
    """Store `value` under `name`, or under a new name if there is none or more than one node reads that constant."""
    if name and found.only_reader(name) is not None:
        tensor = found.constants[name]
    else:
        name = Names(graph).fresh(f"{name}_folded" if name else wanted)
        tensor = graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return name
