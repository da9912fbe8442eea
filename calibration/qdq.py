"""Writes quantize/dequantize pairs and int8 weights into a graph, once it is decided where."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from calibration.graph import Names, attributes, drop_unread_initializers, index
from calibration.qparams import (
    Array,
    QParams,
    activation_params,
    quantize_bias,
    quantize_weight,
    scale_for_bias,
    weight_scale,
)
from calibration.ranges import TensorRange
from calibration.scheme import Scheme

# Their outputs hold no value that their input does not: with the scale of the input, runtimes move the pair
# through them and run them on the integers.
_SAME_VALUES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split"}
    | {"DepthToSpace", "SpaceToDepth"}
)


def write_pairs(
    graph: GraphProto, tensors: Mapping[str, TensorRange], with_weights: frozenset[str], scheme: Scheme
) -> None:
    """Put a pair behind each of `tensors` for all of its readers, and int8 weights where they are wanted.

    In place. `with_weights` names the first outputs of the nodes whose second input becomes int8. Graph
    outputs keep the float tensor; float weights that nobody reads any more are removed.
    """
    params = _params(graph, tensors, scheme)
    writer = _Writer(graph, params, scheme)
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
    return {
        name: activation_params(seen.low, seen.high, scheme.activation, scheme.symmetric)
        for name, seen in found.items()
    }


class _Writer:
    """Collects the nodes of the new graph, and adds their constants to it."""

    def __init__(self, graph: GraphProto, params: Mapping[str, QParams], scheme: Scheme) -> None:
        self.nodes: list[NodeProto] = []
        self.real: dict[str, str] = {}  # tensor -> what its readers read instead
        self._graph = graph
        self._params = params
        self._scheme = scheme
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
        """Give `node` an int8 weight, and an int32 bias if the scheme wants one."""
        weight = self._array(node.input[1])
        data_scale = float(self._params[node.input[0]].scale)
        axis = _channel_axis(node, weight) if self._scheme.per_channel else None
        scale = weight_scale(weight, axis)
        bias = self._bias(node, weight, axis) if self._scheme.quantize_bias else None
        if bias is not None:
            scale = scale_for_bias(scale, bias, data_scale)
        self._store(node, 1, quantize_weight(weight, scale, axis), scale, axis)
        if bias is not None:
            steps = np.asarray(scale * np.float32(data_scale), np.float32)
            self._store(node, 2, quantize_bias(bias, steps), steps, 0)

    def _bias(self, node: NodeProto, weight: Array, axis: int | None) -> Array | None:
        """The constant bias of `node`, if one int32 per output channel can stand for it."""
        if len(node.input) < 3 or node.input[2] not in self._found.constants:
            return None
        bias, given = self._array(node.input[2]), attributes(node)
        plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
        fits = bias.ndim == 1 and (axis is None or len(bias) == weight.shape[axis])
        return bias if plain and fits else None

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


def _channel_axis(node: NodeProto, weight: Array) -> int | None:
    """Axis of the output channels in the weight of `node`, None where one scale must do for all."""
    given = attributes(node)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if given.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if given.get("transB", 0) else 1
    return 1 if weight.ndim == 2 else None
