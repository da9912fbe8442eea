"""Parameters and multiply-accumulates, counted exactly on the captured graph.

One multiply-accumulate is a product and its sum. Convolutions, linear layers and matrix products count;
biases, norms, activations and pooling do not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx, nn

from pipeline.pruning.rules.base import Shape
from pipeline.pruning.trace import Captured, arguments, capture, op_name, shapes_of


@dataclass(frozen=True)
class Work:
    """One op that multiplies: the weight it reads, or "" for a product of activations, and how often.

    An op with a weight does `positions` × elements of the weight; one without does `positions`.
    """

    name: str
    weight: str
    positions: int


@dataclass(frozen=True)
class Counts:
    """`macs` are those of one run on the example inputs: give a batch of one for the figure per sample."""

    params: int
    macs: int
    per_layer: Mapping[str, int]  # multiply-accumulates by module name; calls of one module are summed


def count(model: nn.Module, example_inputs: Any) -> Counts:
    """Count parameters, each tensor once, and multiply-accumulates. Raises UserError as `capture` does."""
    captured = capture(model, example_inputs)
    layers: dict[str, int] = {}
    for item in work(captured):
        layers[item.name] = layers.get(item.name, 0) + macs((item,), captured.shapes)
    return Counts(sum(p.numel() for p in model.parameters()), sum(layers.values()), layers)


def macs(items: tuple[Work, ...], shapes: Mapping[str, Shape]) -> int:
    """Return the multiply-accumulates of ops whose weights have the given shapes."""
    return sum(i.positions * (prod(shapes[i.weight]) if i.weight else 1) for i in items)


def work(captured: Captured) -> tuple[Work, ...]:
    """Return every op of the graph that multiplies, in order."""
    return tuple(
        _WORK[op_name(node)](node, captured)
        for node in captured.graph.nodes
        if node.op == "call_function" and op_name(node) in _WORK
    )


def _shape(node: fx.Node) -> Shape:
    (shape,) = shapes_of(node)
    return shape


def _per_weight(node: fx.Node, captured: Captured, positions: int) -> Work:
    """Each element of the weight is used once per position, whatever the groups."""
    weight = arguments(node)["weight"]
    name = captured.tensors.get(weight.name, "")
    if not name:
        return Work(node.name, "", positions * prod(_shape(weight)))
    return Work(name.rpartition(".")[0] or name, name, positions)


def _conv(node: fx.Node, captured: Captured) -> Work:
    return _per_weight(node, captured, prod(_shape(node)) // _shape(arguments(node)["weight"])[0])


def _conv_transpose(node: fx.Node, captured: Captured) -> Work:
    given = arguments(node)
    return _per_weight(node, captured, prod(_shape(given["input"])) // _shape(given["weight"])[0])


def _linear(node: fx.Node, captured: Captured) -> Work:
    return _per_weight(node, captured, prod(_shape(node)[:-1]))


def _matmul(node: fx.Node, _: Captured) -> Work:
    left = next(v for v in arguments(node).values() if isinstance(v, fx.Node))
    return Work(node.name, "", prod(_shape(node)) * _shape(left)[-1])


_WORK: Mapping[str, Callable[[fx.Node, Captured], Work]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
}
