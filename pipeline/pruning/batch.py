"""Which numbers of a captured graph count samples: found by capturing once more with one sample more.

A graph has the size of its example's batch written into views and expands. Where two graphs are the same but
for numbers that grew as the batch did, those numbers follow the batch and the rest does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pipeline.errors import UserError
from pipeline.pruning.trace import Captured, Inputs, arguments, shapes_of

Place = tuple[str, str, int | None]  # node, argument by its schema's name, entry of it if it is a list


@dataclass(frozen=True)
class Batch:
    """The batch that a graph was captured with: its size, an input that has it, and the numbers that follow it."""

    size: int
    source: str  # name of the input's placeholder
    places: frozenset[Place]


def find_batch(captured: Captured, recapture: Callable[[Inputs], Captured], inputs: Inputs) -> Batch | None:
    """Return what follows the batch, the first dimension of the first tensor among the inputs.

    `recapture` gives the graph of other inputs, made as `captured` was of `inputs`. None where the model does
    not take another batch, or does other things with it.
    """
    source = _first_input(captured)
    if source is None:
        return None
    size = shapes_of(source)[0][0]

    def longer(value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.ndim and value.shape[0] == size
        return torch.cat((value, value[:1])) if fits else value

    try:
        other = recapture(tuple(pytree.tree_map(longer, inputs)))
    except UserError:
        return None
    places = _compare(captured, other, size)
    return None if places is None else Batch(size, source.name, frozenset(places))


def batch_of(captured: Captured) -> int | None:
    """Return the first dimension of the first tensor among the inputs; None where there is none."""
    source = _first_input(captured)
    return None if source is None else shapes_of(source)[0][0]


def _first_input(captured: Captured) -> fx.Node | None:
    held = {*captured.tensors, *captured.constants}
    inputs = [n for n in captured.graph.nodes if n.op == "placeholder" and n.name not in held]
    return next((n for n in inputs if any(shapes_of(n))), None)


def _compare(one: Captured, other: Captured, size: int) -> list[Place] | None:
    """Return the numbers that are `size` + 1 to `size` in two graphs; None if anything else differs."""
    nodes, others = list(one.graph.nodes), list(other.graph.nodes)
    if [(n.op, n.name) for n in nodes] != [(n.op, n.name) for n in others]:
        return None
    if any(not torch.equal(tensor, other.constants[name]) for name, tensor in one.constants.items()):
        return None
    places: list[Place] = []
    for a, b in zip(nodes, others, strict=True):
        if a.op == "get_attr" or a.target != b.target:
            return None  # an op that holds a graph of its own, or another op
        if a.op != "call_function":
            continue
        found = _differing(a, b, size)
        if found is None:
            return None
        places += found
    return places


def _differing(a: fx.Node, b: fx.Node, size: int) -> list[Place] | None:
    places: list[Place] = []
    given, others = arguments(a), arguments(b)
    for name, value in given.items():
        several = isinstance(value, list | tuple)
        pairs = zip(value, others[name], strict=True) if several else [(value, others[name])]
        for index, (x, y) in enumerate(pairs):
            if _same(x, y):
                continue
            scales = type(x) is int and type(y) is int and x * (size + 1) == y * size
            if not scales or not isinstance(a.target, torch._ops.OpOverload):
                return None
            places.append((a.name, name, index if several else None))
    return places


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, fx.Node) and isinstance(y, fx.Node):
        return x.name == y.name
    return bool(x == y)
