"""Pairs of convolutions that a channel can be rescaled between without a change of the function."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from calibration.graph import Index, attributes, index, label
from calibration.layers import Layer, layers

# f(s · x) = s · f(x) for each s > 0 and each channel by itself.
HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
)


@dataclass(frozen=True)
class Pair:
    """Two convolutions; between them, only ops that act on each channel by itself."""

    first: Layer
    second: Layer
    between: tuple[NodeProto, ...]
    bound: float  # where a Clip between them cuts off; infinite without one

    @property
    def name(self) -> str:
        """What to call it in a report."""
        return f"{label(self.first.node)} → {label(self.second.node)}"

    @property
    def groups(self) -> int:
        """Of the second convolution."""
        return int(self.second.options.get("group", 1))


def pairs(model: ModelProto) -> tuple[list[Pair], dict[str, str]]:
    """Find the pairs in graph order, and say why each other convolution begins none, by its name."""
    found = index(model.graph)
    convolutions = {layer.output: layer for layer in layers(model) if layer.node.op_type == "Conv"}
    made: list[Pair] = []
    refused: dict[str, str] = {}
    for layer in convolutions.values():
        pair = _pair(layer, convolutions, found)
        if isinstance(pair, str):
            refused[label(layer.node)] = pair
        else:
            made.append(pair)
    return made, refused


def _pair(first: Layer, convolutions: Mapping[str, Layer], found: Index) -> Pair | str:
    """The pair that `first` begins, or why it begins none."""
    own = _not_own(first, found)
    if own is not None:
        return own
    between: list[NodeProto] = []
    bound, name = np.inf, first.output
    while True:
        node = found.only_reader(name)
        if node is None:
            return "its output is the model's" if name in found.outputs else "its output has several readers, or none"
        if node.output[0] in convolutions and node.input[0] == name:
            second = convolutions[node.output[0]]
            return _not_own(second, found) or Pair(first, second, tuple(between), bound)
        limit = _limit(node, found)
        if limit is None or node.input[0] != name:
            return f"{label(node)} ({node.op_type}) stands between it and the next convolution"
        between.append(node)
        bound, name = min(bound, limit), node.output[0]


def _not_own(layer: Layer, found: Index) -> str | None:
    if found.only_reader(layer.name) is None:
        return f"the weight {layer.name!r} is used more than once"
    if not layer.takes_bias:
        return f"the bias of {label(layer.node)} is computed, not stored"
    return None


def _limit(node: NodeProto, found: Index) -> float | None:
    """Where an op cuts off, infinite if nowhere; None if it does not scale along with its channels."""
    if node.op_type in HOMOGENEOUS:
        positive = node.op_type != "PRelu" or node.input[1] in found.constants
        return np.inf if positive else None
    if node.op_type != "Clip":
        return None
    low, high = clip_bounds(node, found.constants)
    return high if low in (0.0, -np.inf) and high > 0 else None


def clip_bounds(node: NodeProto, constants: Mapping[str, TensorProto]) -> tuple[float, float]:
    """The bounds of a Clip; NaN for one that is computed."""
    given = attributes(node)
    bounds = [float(given.get("min", -np.inf)), float(given.get("max", np.inf))]
    for i, name in enumerate(node.input[1:3]):
        if name:
            bounds[i] = float(numpy_helper.to_array(constants[name])) if name in constants else np.nan
    return bounds[0], bounds[1]


def input_ranges(layer: Layer, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Greatest magnitude of the weights that read each input channel of a convolution."""
    ranges = np.abs(_by_input(layer, weight)).max(axis=(1, 3))
    return np.asarray(ranges.reshape(-1))


def scale_inputs(layer: Layer, weight: NDArray[np.float64], gain: NDArray[np.float64]) -> None:
    """Multiply, in place, the weights that read each input channel."""
    view = _by_input(layer, weight)
    view *= gain.reshape(view.shape[0], 1, view.shape[2], 1)


def read_constant(layer: Layer, weight: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a convolution makes of an input whose channels are constant, away from the border, without its bias."""
    view = _by_input(layer, weight)
    return np.asarray(np.einsum("gmck,gc->gm", view, level.reshape(view.shape[0], -1)).reshape(-1))


def _by_input(layer: Layer, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """A view `(groups, outputs of a group, inputs of a group, positions)`."""
    groups = int(layer.options.get("group", 1))
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
