"""What int8 is decided by: a layer with weights and what its kernel computes along with it, or a lone op."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from calibration.graph import Index, activations, attributes, index, inferred, label
from calibration.placement import FUSED, Placement
from calibration.scheme import Scheme


@dataclass(frozen=True)
class Layer:
    """Ops that are in int8 or in float together, by `graph.label`; named after the first."""

    ops: tuple[str, ...]
    kind: str  # op type of the first
    macs: int  # of one call with the shapes the model states, a dynamic dimension counted as 1; 0 if unknown

    @property
    def name(self) -> str:
        """The op that the layer is called by."""
        return self.ops[0]

    @property
    def work(self) -> int:
        """Its multiply-accumulates; 1 where they are none, or unknown."""
        return max(self.macs, 1)


@dataclass(frozen=True)
class WeightedOp:
    """An op that a scheme has int8 weights for, or would have."""

    name: str  # `graph.label`
    kind: str
    writes: tuple[str, ...]  # its output, and those of the activations that kernels fuse behind it


def weighted_ops(model: ModelProto, kinds: Collection[str]) -> tuple[WeightedOp, ...]:
    """Return the ops of `model` of these kinds that read an activation, in graph order."""
    found = index(model.graph)
    live = set(activations(model.graph))
    return tuple(
        WeightedOp(label(node), node.op_type, _chain(node, found))
        for node in model.graph.node
        if node.op_type in kinds and live.intersection(node.input)
    )


def _chain(node: NodeProto, found: Index) -> tuple[str, ...]:
    names = [node.output[0]]
    while (reader := found.only_reader(names[-1])) is not None and reader.op_type in (*FUSED, "Add"):
        names.append(reader.output[0])
    return tuple(names)


def layers(model: ModelProto, placed: Placement, scheme: Scheme) -> tuple[Layer, ...]:
    """Return what of `model` is in int8 in `placed`, as layers in graph order.

    A residual add belongs to the layer whose kernel adds it on the accumulator: the one with weights that is
    computed last. The ops of a layer without weights (pools, concats, other adds) stand by themselves.
    """
    found = index(model.graph)
    shapes = _shapes(model)
    nodes = {label(node): node for node in model.graph.node if label(node) in set(placed.quantized)}
    carried = _carried(nodes, found, scheme)
    fused = {add for adds in carried.values() for add in adds}
    return tuple(
        Layer((name, *carried.get(name, ())), node.op_type, _macs(node, shapes))
        for name, node in nodes.items()
        if name not in fused
    )


def _carried(nodes: Mapping[str, NodeProto], found: Index, scheme: Scheme) -> dict[str, tuple[str, ...]]:
    """The adds that ride on the kernel of each layer with weights."""
    owner: dict[str, str] = {}  # add -> layer; a later one displaces an earlier one
    for name, node in nodes.items():
        if node.op_type in scheme.weighted:
            add = _following_add(node, found)
            if add is not None and label(add) in nodes:
                owner[label(add)] = name
    carried: dict[str, tuple[str, ...]] = {}
    for add_name, name in owner.items():
        carried[name] = (*carried.get(name, ()), add_name)
    return carried


def _following_add(node: NodeProto, found: Index) -> NodeProto | None:
    reader = found.only_reader(node.output[0])
    while reader is not None and reader.op_type in FUSED:
        reader = found.only_reader(reader.output[0])
    return reader if reader is not None and reader.op_type == "Add" else None


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    graph = inferred(model)
    shapes = {
        value.name: tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _macs(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of a convolution or a matrix product."""
    output, data = shapes.get(node.output[0]), shapes.get(node.input[0])
    weight = shapes.get(node.input[1]) if len(node.input) > 1 else None
    if output is None or data is None or weight is None:
        return 0
    if node.op_type == "Conv":
        return int(np.prod(output, dtype=np.int64) * np.prod(weight[1:], dtype=np.int64))
    if node.op_type == "ConvTranspose":
        return int(np.prod(data, dtype=np.int64) * np.prod(weight[1:], dtype=np.int64))
    if node.op_type in ("Gemm", "MatMul"):
        inner = data[0] if attributes(node).get("transA", 0) else data[-1] if data else 1
        return int(np.prod(output, dtype=np.int64) * inner)
    return 0
