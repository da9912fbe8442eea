"""The ops of a graph that multiply by a stored weight: what int8 weights, their rounding and biases are chosen for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from calibration.graph import Index, Names, attributes, index

Array = NDArray[Any]

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """One op, its stored float32 weight, and the bias that it adds per output channel."""

    node: NodeProto
    weight: NDArray[np.float32]
    axis: int | None  # of the output channels in the weight; None where one scale must do for all
    bias: NDArray[np.float32] | None  # (channels,), stored
    takes_bias: bool  # whether `(channels,)` numbers can stand as its bias

    @property
    def data(self) -> str:
        """The tensor it reads."""
        return str(self.node.input[0])

    @property
    def name(self) -> str:
        """The initializer that holds its weight."""
        return str(self.node.input[1])

    @property
    def output(self) -> str:
        """The tensor it computes."""
        return str(self.node.output[0])

    @property
    def options(self) -> Mapping[str, Any]:
        """Its attributes."""
        return attributes(self.node)

    @property
    def channels(self) -> int:
        """Number of output channels. For layers with an `axis` only."""
        return int(self.weight.shape[self.axis or 0])


def layers(model: ModelProto) -> list[Layer]:
    """The layers of the main graph with a stored float32 weight, in graph order."""
    found = index(model.graph)
    return [layer for node in model.graph.node if (layer := layer_of(node, found)) is not None]


def channel_axis(node: NodeProto, weight: Array) -> int | None:
    """Axis of the output channels in the weight of `node`, None where one scale must do for all."""
    given = attributes(node)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if given.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if given.get("transB", 0) else 1
    return 1 if weight.ndim == 2 else None


def plain_product(node: NodeProto) -> bool:
    """Whether `node` scales neither its product nor its bias, as a Gemm may."""
    given = attributes(node)
    return bool(given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0)


def along(values: Array, axis: int | None, ndim: int) -> Array:
    """Shape numbers per channel, `(channels,)`, so that they broadcast along `axis`; one number, along all."""
    return values.reshape([-1 if i == axis else 1 for i in range(ndim)] if values.ndim else [1] * ndim)


def channels_first(weight: Array, axis: int | None) -> Array:
    """The weight as `(channels, rest)`; `(1, all)` without an axis."""
    return weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def layer_of(node: NodeProto, found: Index) -> Layer | None:
    """What `node` multiplies by a stored float32 weight; None where it does not."""
    tensor = found.constants.get(node.input[1]) if node.op_type in WEIGHTED else None
    if tensor is None or tensor.data_type != TensorProto.FLOAT or node.input[0] in found.constants:
        return None
    weight = numpy_helper.to_array(tensor)
    axis = channel_axis(node, weight)
    name = node.input[2] if len(node.input) > 2 else ""
    stored = numpy_helper.to_array(found.constants[name]) if name in found.constants else None
    fits = stored is not None and axis is not None and stored.shape == (weight.shape[axis],)
    free = node.op_type != "MatMul" and axis is not None and plain_product(node) and (fits or not name)
    return Layer(node, weight, axis, stored if free and stored is not None else None, free)


def with_values(model: ModelProto, weights: Mapping[str, Array], biases: Mapping[str, Array]) -> ModelProto:
    """Return a copy with other float32 values in the initializers `weights` names, and other biases.

    `biases` go by the tensor that their op computes. An op without a bias gets one; one that others read too
    is left to them.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    found, names = index(copy.graph), Names(copy.graph)
    for name, value in weights.items():
        _set(found.constants[name], value)
    for output, value in biases.items():
        node = found.producer[output]
        name = node.input[2] if len(node.input) > 2 else ""
        if name and found.only_reader(name) is not None:
            _set(found.constants[name], value)
            continue
        name = names.fresh(f"{output}_bias")
        _set(copy.graph.initializer.add(name=name), value)
        inputs = [*node.input[:2], name]
        del node.input[:]
        node.input.extend(inputs)
    return copy


def _set(tensor: TensorProto, value: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), tensor.name))
