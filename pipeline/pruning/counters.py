"""Parameters and multiply-accumulates, counted exactly on the captured graph.

One multiply-accumulate is a product and its sum. Convolutions, linear layers, matrix products, attention and
recurrent layers count; biases, norms, activations and pooling do not.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import fx, nn

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Labels, Value
from pipeline.pruning.trace import Captured, arguments, capture, module_of, op_name, shapes_of


@dataclass(frozen=True)
class Extent:
    """The length of one dimension, and its channel ids where it has some."""

    length: int
    ids: Ids | None = None


@dataclass(frozen=True)
class Work:
    """An op that multiplies, under the name of its layer: `times` × the lengths of all `extents`."""

    name: str
    times: int
    extents: tuple[Extent, ...]
    node: str = ""  # of the graph

    @property
    def macs(self) -> int:
        """Multiply-accumulates before anything is cut."""
        return self.times * prod(e.length for e in self.extents)


@dataclass(frozen=True)
class Counts:
    """`macs` are those of one run on the example inputs: give a batch of one for the figure per sample."""

    params: int
    macs: int
    per_layer: Mapping[str, int]  # multiply-accumulates by module name; calls of one module are summed


def count(model: nn.Module, example_inputs: Any) -> Counts:
    """Count parameters, each tensor once, and multiply-accumulates. Raises UserError as `capture` does."""
    layers: dict[str, int] = {}
    for item in work(capture(model, example_inputs)):
        layers[item.name] = layers.get(item.name, 0) + item.macs
    return Counts(sum(p.numel() for p in model.parameters()), sum(layers.values()), layers)


def work(captured: Captured, values: Mapping[fx.Node, Value] | None = None) -> tuple[Work, ...]:
    """Return every op of the graph that multiplies, in order; with ids where `values` has labels of the nodes."""
    reader = _Reader(captured, values or {})
    return tuple(
        replace(item, node=node.name)
        for node in captured.graph.nodes
        if node.op == "call_function" and op_name(node) in _WORK
        for item in _WORK[op_name(node)](node, reader)
    )


@dataclass(frozen=True)
class _Reader:
    """Reads extents off nodes."""

    captured: Captured
    values: Mapping[fx.Node, Value]

    def extents(self, node: fx.Node) -> tuple[Extent, ...]:
        """Return the dimensions of a node's only result."""
        (shape,) = shapes_of(node)
        labels = self.values.get(node)
        dims = labels.dims if isinstance(labels, Labels) else (None,) * len(shape)
        return tuple(Extent(n, ids) for n, ids in zip(shape, dims, strict=True))

    def name(self, node: fx.Node, weight: fx.Node | None = None) -> str:
        """Return the layer that an op belongs to: of its parameter, else the innermost module, else the node's name."""
        tensor = self.captured.tensors.get(weight.name, "") if weight is not None else ""
        return tensor.rpartition(".")[0] or tensor or module_of(node) or node.name


def _conv(node: fx.Node, reader: _Reader) -> Iterator[Work]:
    """Each element of the weight is used once per position of the result, whatever the groups."""
    yield _per_position(node, node, reader)


def _conv_transpose(node: fx.Node, reader: _Reader) -> Iterator[Work]:
    """Each element of the weight is used once per position of the input."""
    yield _per_position(node, arguments(node)["input"], reader)


def _per_position(node: fx.Node, places: fx.Node, reader: _Reader) -> Work:
    """Return the work of a kernel at all places of a tensor, whose batch and space may carry channels and shrink."""
    weight = arguments(node)["weight"]
    first, second, *kernel = reader.extents(weight)
    extents = list(reader.extents(places))
    del extents[-len(kernel) - 1]  # its channels are the weight's
    return Work(reader.name(node, weight), prod(e.length for e in kernel), (first, second, *extents))


def _linear(node: fx.Node, reader: _Reader) -> Iterator[Work]:
    weight = arguments(node)["weight"]
    yield Work(reader.name(node, weight), 1, (*reader.extents(node)[:-1], *reader.extents(weight)))


def _matmul(node: fx.Node, reader: _Reader) -> Iterator[Work]:
    """The last dimension of the left factor is summed over, for every element of the result."""
    left = next(v for k, v in arguments(node).items() if isinstance(v, fx.Node) and (k != "self" or not _adds(node)))
    yield Work(reader.name(node), 1, (*reader.extents(node), reader.extents(left)[-1]))


def _adds(node: fx.Node) -> bool:
    return op_name(node) in ("addmm", "baddbmm")


def _einsum(node: fx.Node, reader: _Reader) -> Iterator[Work]:
    """Every combination of all letters is one product."""
    given = arguments(node)
    letters = given["equation"].replace(" ", "").replace(".", "").split("->")[0].split(",")
    found: dict[str, Extent] = {}
    for names, operand in zip(letters, given["tensors"], strict=True):
        extents = reader.extents(operand)
        spare = "".join(chr(0x100 + i) for i in range(len(extents) - len(names)))  # dimensions of an ellipsis
        for letter, extent in zip(spare + names, extents, strict=True):
            if extent.length > 1 or letter not in found:
                found[letter] = extent
    yield Work(reader.name(node), 1, tuple(found.values()))


def _attention(node: fx.Node, reader: _Reader) -> Iterator[Work]:
    """Scores of every query with every key, then the weighted sum of values."""
    given = arguments(node)
    query, key, value = (reader.extents(given[name]) for name in ("query", "key", "value"))
    yield Work(reader.name(node), 1, (*query, key[-2]))
    yield Work(reader.name(node), 1, (*query[:-1], key[-2], value[-1]))


def _recurrent(node: fx.Node, reader: _Reader) -> Iterator[Work]:
    """Every weight matrix is used once per step and sample."""
    given = arguments(node)
    (shape,) = shapes_of(given["input"])
    for parameter in given["params"]:
        extents = reader.extents(parameter)
        if len(extents) == 2:
            yield Work(reader.name(node, parameter), prod(shape[:-1]), extents)


_WORK: Mapping[str, Callable[[fx.Node, _Reader], Iterator[Work]]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "addmm", "baddbmm"), _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
}
