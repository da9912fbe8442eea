"""Reading and rewriting ONNX graphs: who makes and who reads a tensor, constants, batch-norm folding."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
    shape_inference,
)

from calibration.errors import CalibrationError

_POOLED = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)  # what a pool takes
_SMALL = 1024  # bytes of a tensor that may be a shape, which shape inference reads


@dataclass(frozen=True)
class Index:
    """Who makes and who reads each tensor of a graph, as it was when indexed."""

    constants: Mapping[str, TensorProto]  # initializers
    producer: Mapping[str, NodeProto]
    readers: Mapping[str, tuple[NodeProto, ...]]  # one entry per node, in graph order
    outputs: frozenset[str]
    inner: frozenset[str]  # names that the bodies of If, Loop and Scan mention

    def only_reader(self, tensor: str) -> NodeProto | None:
        """Return the node that alone reads `tensor`; None if others do, or the caller of the model."""
        nodes = self.readers.get(tensor, ())
        seen_outside = tensor in self.outputs or tensor in self.inner
        return nodes[0] if len(nodes) == 1 and not seen_outside else None


class Names:
    """Hands out names that no tensor or node of a graph has yet."""

    def __init__(self, graph: GraphProto) -> None:
        self._taken = set(_inner_names(graph)) | {t.name for t in graph.initializer}
        self._taken |= {value.name for value in (*graph.input, *graph.output)}
        for node in graph.node:
            self._taken.update((node.name, *node.input, *node.output))

    def fresh(self, wanted: str) -> str:
        """Return `wanted`, numbered if it is taken; it is taken from now on."""
        name, n = wanted, 1
        while name in self._taken:
            name, n = f"{wanted}_{n}", n + 1
        self._taken.add(name)
        return name


def index(graph: GraphProto) -> Index:
    """Index `graph`. Later edits of the graph do not show."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return Index(
        constants={tensor.name: tensor for tensor in graph.initializer},
        producer={name: node for node in graph.node for name in node.output if name},
        readers={name: tuple(nodes) for name, nodes in readers.items()},
        outputs=frozenset(value.name for value in graph.output),
        inner=frozenset(_inner_names(graph)),
    )


def load_model(path: Path, weights: bool = True) -> ModelProto:
    """Read an ONNX file; without `weights`, external data stays where it is.

    Raises CalibrationError if it is missing or not ONNX.
    """
    try:
        model = onnx.load(path, load_external_data=weights)
    except FileNotFoundError as error:
        raise CalibrationError(f"{path}: no such model, or its external data is missing: {error}") from None
    except DecodeError:
        raise CalibrationError(f"{path}: not an ONNX file; export the model with torch.onnx.export") from None
    if not model.graph.node:
        raise CalibrationError(f"{path}: the ONNX graph has no nodes; export the model again")
    return model


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attribute values of `node` by name; absent ones are absent."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def label(node: NodeProto) -> str:
    """What to call `node` in a report: its name, or its first output's where it has none."""
    return str(node.name or node.output[0])


def activations(graph: GraphProto) -> list[str]:
    """Tensors that depend on the graph's inputs, in the order they are computed, inputs first."""
    constants = {tensor.name for tensor in graph.initializer}
    found = [value.name for value in graph.input if value.name not in constants]
    live = set(found)
    for node in graph.node:
        if live.intersection(node.input) or live.intersection(_mentioned(node)):
            made = [name for name in node.output if name]
            live.update(made)
            found.extend(made)
    return found


def digest(model: ModelProto) -> str:
    """Sha256 over what the model computes: nodes, attributes, weights, input and output names.

    Metadata, doc strings, node names and recorded shapes do not count.
    """
    h = hashlib.sha256()
    for value in (*model.graph.input, *model.graph.output):
        h.update(f"value {value.name}\n".encode())
    for opset in sorted(model.opset_import, key=lambda o: o.domain):
        h.update(f"opset {opset.domain} {opset.version}\n".encode())
    for node in model.graph.node:
        h.update(repr((node.domain, node.op_type, list(node.input), list(node.output))).encode())
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            h.update(attribute.SerializeToString(deterministic=True))
    for tensor in sorted(model.graph.initializer, key=lambda t: t.name):
        h.update(repr((tensor.name, tensor.data_type, list(tensor.dims))).encode())
        h.update(tensor.raw_data or numpy_helper.to_array(tensor).tobytes())
    return h.hexdigest()


def without_weights(model: ModelProto) -> ModelProto:
    """Return a copy of `model` with the types and shapes of its greater weights, but not their values.

    For onnx's own tools, which pass models on as messages: those hold 2 GiB at most.
    """
    copy = ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    for field in ("node", "input", "output", "value_info"):
        getattr(copy.graph, field).extend(getattr(model.graph, field))
    copy.graph.name = model.graph.name
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _SMALL:
            copy.graph.initializer.append(tensor)
        else:
            bare = copy.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            bare.data_location = TensorProto.EXTERNAL
            bare.external_data.add(key="location", value="left-out")
    return copy


def inferred(model: ModelProto) -> GraphProto:
    """Return the graph with the types and shapes that can be inferred, and without its greater weights."""
    return shape_inference.infer_shapes(without_weights(model), data_prop=True).graph


def copy_with_constants_lifted(model: ModelProto) -> ModelProto:
    """Return a copy of `model` whose `Constant` nodes are initializers, so that weights are in one place."""
    copy = ModelProto()
    copy.CopyFrom(model)
    lifted = [(node, _constant_value(node)) for node in copy.graph.node if node.op_type == "Constant"]
    for node, value in lifted:
        if value is not None:
            value.name = node.output[0]
            copy.graph.initializer.append(value)
            copy.graph.node.remove(node)
    return copy


def drop_unread_initializers(graph: GraphProto) -> None:
    """Remove, in place, initializers that nothing reads any more."""
    found = index(graph)
    read = found.readers.keys() | found.inner | found.outputs
    for field in (graph.initializer, graph.input):
        for i in reversed(range(len(field))):
            if field[i].name in found.constants and field[i].name not in read:
                del field[i]


def pool_spatial_means(model: ModelProto) -> ModelProto:
    """Return a copy in which a ReduceMean over all of H and W, kept as 1 × 1, is a GlobalAveragePool.

    torch exports adaptive average pooling as the former; int8 kernels exist for the latter. A mean over one
    position, as small images come to, is that position: it goes, unless the model gives it to its caller.
    """
    pooled = copy_with_constants_lifted(model)
    graph = inferred(pooled)
    values = (*graph.input, *graph.value_info, *graph.output)
    sizes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in values}
    floats = {v.name for v in values if v.type.tensor_type.elem_type in _POOLED}
    found = index(pooled.graph)
    same: dict[str, str] = {}
    for node in pooled.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        spatial = sizes.get(node.input[0], [])[2:] if node.input else []
        if node.op_type == "ReduceMean" and node.input[0] in floats and _is_spatial(node, len(spatial) + 2, found):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
        seen = found.outputs | found.inner
        if node.op_type == "GlobalAveragePool" and spatial and set(spatial) == {1} and node.output[0] not in seen:
            same[node.output[0]] = node.input[0]
    kept = [node for node in pooled.graph.node if node.output[0] not in same]
    del pooled.graph.node[:]
    pooled.graph.node.extend(kept)
    drop_unread_initializers(pooled.graph)
    return pooled


def _is_spatial(mean: NodeProto, rank: int, found: Index) -> bool:
    """Whether a ReduceMean is over all dimensions but the first two of `rank`, and keeps them."""
    given = attributes(mean)
    stored = found.constants.get(mean.input[1]) if len(mean.input) > 1 else None
    axes = given.get("axes", []) if stored is None else numpy_helper.to_array(stored).tolist()
    return rank > 2 and bool(given.get("keepdims", 1)) and {axis % rank for axis in axes} == set(range(2, rank))


def _constant_value(node: NodeProto) -> TensorProto | None:
    (attribute,) = node.attribute
    if attribute.type == AttributeProto.TENSOR:
        copy = TensorProto()
        copy.CopyFrom(attribute.t)
        return copy
    value = helper.get_attribute_value(attribute)
    if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        return numpy_helper.from_array(np.asarray(value, np.float32))
    if attribute.type in (AttributeProto.INT, AttributeProto.INTS):
        return numpy_helper.from_array(np.asarray(value, np.int64))
    return None


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _mentioned(node: NodeProto) -> Iterator[str]:
    for graph in _subgraphs(node):
        for inner in graph.node:
            yield from inner.input
            yield from _mentioned(inner)
        yield from (value.name for value in graph.output)


def _inner_names(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from _mentioned(node)
