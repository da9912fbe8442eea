"""Where a pruned network goes its own way: the first op that is not what the plan says it is."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import fx, nn

from pipeline.errors import UserError
from pipeline.pruning.channels import Alive, stays
from pipeline.pruning.rules.base import Flow, Labels, Shape
from pipeline.pruning.trace import Captured, Inputs, arguments, capture, op_name, shapes_of, stack_of


def divergence(captured: Captured, flow: Flow, alive: Alive, pruned: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Return the modules, innermost first, in which a pruned model that runs first differs from the plan.

    Compared are its ops, their results' shapes and the numbers written into them, on a graph captured anew.
    Empty where it does not differ, or cannot be captured.
    """
    try:
        other = capture(pruned, inputs)
    except UserError:
        return ()
    written = {(x.node, x.name) for x in flow.literals}
    for planned, found in zip(_ops(captured), _ops(other), strict=False):
        if op_name(planned) != op_name(found):
            return _modules(planned)
        wanted = tuple(_smaller(shape, alive, flow, planned, i) for i, shape in enumerate(shapes_of(planned)))
        if wanted != shapes_of(found) or _numbers(planned, written) != _numbers(found, written, planned):
            return _modules(planned)
    return ()


def _ops(captured: Captured) -> Iterator[fx.Node]:
    return (node for node in captured.graph.nodes if node.op == "call_function")


def _modules(node: fx.Node) -> tuple[str, ...]:
    return tuple(name.partition("@")[0] for name in reversed(stack_of(node)))


def _smaller(shape: Shape, alive: Alive, flow: Flow, node: fx.Node, index: int) -> Shape:
    """Return the shape that a result has once channels are gone."""
    value = flow.values.get(node)
    labels = value[index] if isinstance(value, tuple) and index < len(value) else value
    if not isinstance(labels, Labels):
        return shape
    return tuple(
        n if ids is None else int(np.count_nonzero(stays(ids, alive)))
        for n, ids in zip(shape, labels.dims, strict=True)
    )


def _numbers(node: fx.Node, written: set[tuple[fx.Node, str]], planned: fx.Node | None = None) -> dict[str, Any]:
    """Return the whole numbers of an op, without those that may change."""
    given = {name: value for name, value in arguments(node).items() if (planned or node, name) not in written}
    return {name: value for name, value in given.items() if _whole(value)}


def _whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list | tuple) and all(isinstance(v, int) for v in value))
