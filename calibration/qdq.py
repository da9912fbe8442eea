"""Writes quantize/dequantize pairs and int8 weights into a graph, once it is decided where."""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from calibration.graph import Names, drop_unread_initializers, index, label
from calibration.layers import channel_axis, plain_product
from calibration.qparams import (
    Array,
    QParams,
    activation_params,
    quantize_bias,
    quantize_weight,
    scale_for_bias,
    weight_limit,
    weight_scale,
)
from calibration.ranges import TensorRange
from calibration.scheme import Scheme
from calibration.weights import Weights

# Their outputs hold no value that their input does not: with the scale of the input, runtimes move the pair
# through them and run them on the integers.
_SAME_VALUES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split"}
    | {"DepthToSpace", "SpaceToDepth"}
)

# int8 weight, its scale, and the bias where it changes
_Weight: TypeAlias = tuple[NDArray[np.int8], NDArray[np.float32], Array | None]


def write_pairs(
    graph: GraphProto,
    tensors: Mapping[str, TensorRange],
    with_weights: frozenset[str],
    scheme: Scheme,
    weights: Weights | None = None,
) -> dict[str, str]:
    """Put a pair behind each of `tensors` for all of its readers, and int8 weights where they are wanted.

    In place. `with_weights` names the first outputs of the nodes whose second input becomes int8, as `weights`
    have it or else rounded to nearest. Graph outputs keep the float tensor; float weights that nobody reads
    any more are removed. Returns the nodes that `weights` do not fit, and why.
    """
    params = _params(graph, tensors, scheme)
    writer = _Writer(graph, params, scheme, weights)
    for value in graph.input:
        writer.pair(value.name)
    for node in graph.node:
        if node.output[0] in with_weights:
            writer.weight(node)
        for i, name in enumerate(node.input):
            node.input[i] = writer.real.get(name, name)
        writer.nodes.append(node)
        for name in node.output:
            writer.pair(name)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in writer.nodes]
    del graph.node[:]
    graph.node.extend(copies)
    drop_unread_initializers(graph)
    return writer.misfits


def origins(graph: GraphProto, tensors: Collection[str]) -> dict[str, str]:
    """Return the tensor whose scale each of `tensors` has: one that only rearranges another shares its own."""
    producer = index(graph).producer

    def origin(name: str) -> str:
        node = producer.get(name)
        while node is not None and node.op_type in _SAME_VALUES and node.input[0] in tensors:
            name = node.input[0]
            node = producer.get(name)
        return name

    return {name: origin(name) for name in tensors}


def _params(graph: GraphProto, tensors: Mapping[str, TensorRange], scheme: Scheme) -> dict[str, QParams]:
    """Scale and zero point per tensor."""
    found = {name: tensors[origin] for name, origin in origins(graph, tensors).items()}
    return {name: activation_params(*seen.bounds(scheme.symmetric), scheme) for name, seen in found.items()}


class _Writer:
    """Collects the nodes of the new graph, and adds their constants to it."""

    def __init__(
        self, graph: GraphProto, params: Mapping[str, QParams], scheme: Scheme, weights: Weights | None
    ) -> None:
        self.nodes: list[NodeProto] = []
        self.misfits: dict[str, str] = {}  # node -> why its chosen weight does not fit the scheme
        self.real: dict[str, str] = {}  # tensor -> what its readers read instead
        self._graph = graph
        self._params = params
        self._scheme = scheme
        self._weights = weights
        self._found = index(graph)
        self._names = Names(graph)
        self._stored: dict[tuple[str, bytes], str] = {}  # a constant that nodes share is stored once

    def pair(self, name: str) -> None:
        """Put a pair behind tensor `name`, if it has parameters."""
        if name not in self._params:
            return
        params = self._params[name]
        constants = [
            self._constant(f"{name}_scale", params.scale),
            self._constant(f"{name}_zero_point", params.zero_point),
        ]
        integers, real = self._names.fresh(f"{name}_quantized"), self._names.fresh(f"{name}_dequantized")
        self._node("QuantizeLinear", [name, *constants], integers)
        self._node("DequantizeLinear", [integers, *constants], real)
        self.real[name] = real

    def weight(self, node: NodeProto) -> None:
        """Give `node` an int8 weight, an int32 bias if the scheme wants one, and a corrected one if there is."""
        data = self._params.get(node.input[0])
        # an int32 bias is in steps of the data's scale; of data in float there is none
        data_scale = float(data.scale) if data is not None and self._scheme.quantize_bias else None
        weight = self._array(node.input[1])
        axis = channel_axis(node, weight) if self._scheme.per_channel else None
        integers, scale, bias = self._chosen(node, axis, data_scale) or self._nearest(node, axis, data_scale)
        self._store(node, 1, integers, scale, axis)
        if bias is None:
            return
        if len(node.input) < 3:
            node.input.append("")
        node.input[2] = node.input[2] or self._names.fresh(f"{node.output[0]}_bias")
        if data_scale is not None:
            steps = np.asarray(scale * np.float32(data_scale), np.float32)
            self._store(node, 2, quantize_bias(bias, steps), steps, 0)
        else:
            node.input[2] = self._constant(f"{node.input[2]}_corrected", bias)

    def _nearest(self, node: NodeProto, axis: int | None, data_scale: float | None) -> _Weight:
        """The weight rounded to nearest; the bias, where it becomes int32."""
        weight = self._array(node.input[1])
        scale = weight_scale(weight, axis, weight_limit(self._scheme))
        bias = self._bias(node, weight, axis) if data_scale is not None else None
        if bias is not None and data_scale is not None:
            scale = scale_for_bias(scale, bias, data_scale)
        return quantize_weight(weight, scale, axis, weight_limit(self._scheme)), scale, bias

    def _chosen(self, node: NodeProto, axis: int | None, data_scale: float | None) -> _Weight | None:
        """The weight that was chosen for `node` and the bias that goes with it; None where they do not fit."""
        given = self._weights.tensors.get(node.input[1]) if self._weights else None
        if self._weights is None or given is None:
            return None
        weight = self._array(node.input[1])
        bias = self._weights.biases.get(node.output[0])
        if bias is None and data_scale is not None:
            bias = self._bias(node, weight, axis)
        why = given.misfit(axis, weight_limit(self._scheme))
        if why is None and data_scale is not None and bias is not None:
            wider = scale_for_bias(given.scale, bias, data_scale) > given.scale
            why = "its bias, in steps of its scale, would leave int32" if wider.any() else None
        if why is not None:
            self.misfits[label(node)] = why
            return None
        return given.rounded(weight), given.scale, bias

    def _bias(self, node: NodeProto, weight: Array, axis: int | None) -> Array | None:
        """The constant bias of `node`, if one int32 per output channel can stand for it."""
        if len(node.input) < 3 or node.input[2] not in self._found.constants:
            return None
        bias = self._array(node.input[2])
        fits = bias.ndim == 1 and (axis is None or len(bias) == weight.shape[axis])
        return bias if plain_product(node) and fits else None

    def _store(self, node: NodeProto, slot: int, integers: Array, scale: Array, axis: int | None) -> None:
        """Put `integers`, with what makes them real again, in place of the constant input `slot`."""
        name = node.input[slot]
        key = (name, integers.tobytes() + scale.tobytes())
        if key not in self._stored:
            real = self._names.fresh(f"{name}_dequantized")
            constants = [
                self._constant(f"{name}_{integers.dtype}", integers),
                self._constant(f"{name}_scale", scale),
                self._constant(f"{name}_zero_point", np.zeros(scale.shape, integers.dtype)),
            ]
            self._node("DequantizeLinear", constants, real, **({"axis": axis} if scale.ndim else {}))
            self._stored[key] = real
        node.input[slot] = self._stored[key]

    def _node(self, op_type: str, inputs: list[str], output: str, **options: Any) -> None:
        name = self._names.fresh(f"{inputs[0]}_{op_type}")
        self.nodes.append(helper.make_node(op_type, inputs, [output], name, **options))

    def _array(self, name: str) -> Array:
        return numpy_helper.to_array(self._found.constants[name])

    def _constant(self, wanted: str, value: Array) -> str:
        name = self._names.fresh(wanted)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name
