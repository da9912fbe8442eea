"""Run a captured graph op by op, with other weights or other ops where a subclass says so."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pipeline.pruning.trace import Captured, copied


class GraphRunner(fx.Interpreter):
    """Runs a captured graph. `state` holds parameters and buffers by their first name in the model.

    Neither they nor the inputs change, though the graph may write in place: it gets copies of what it writes to.
    """

    def __init__(self, captured: Captured, state: Mapping[str, Tensor]) -> None:
        super().__init__(captured.program.graph_module)
        self._captured, self._state = captured, state
        self._written = _written(self.graph)

    def double(self) -> "GraphRunner":
        """Return the same runner in double precision; results that the graph itself casts stay as it casts them."""
        other = copy.copy(self)
        other._state = {name: _double(tensor) for name, tensor in self._state.items()}
        constants = {name: _double(tensor) for name, tensor in self._captured.constants.items()}
        other._captured = replace(self._captured, constants=constants)
        return other

    def outputs(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Run on the flattened inputs of the model; return its output tensors, flattened."""
        return self._tensors(self.run(*self._feeds(leaves).values()))

    def returned(self, leaves: Sequence[Any]) -> Any:
        """Run on the flattened inputs of the model; return what the model returns, nested as it is."""
        shown = self._captured.shown(self.run(*self._feeds(leaves).values()))
        return pytree.tree_unflatten(shown, self._captured.program.call_spec.out_spec)

    def _feeds(self, leaves: Sequence[Any]) -> dict[fx.Node, Any]:
        """Return the value of every placeholder."""
        rest = iter(leaves)
        constants, names = self._captured.constants, self._captured.tensors

        def fed(name: str) -> Any:
            return self._state[names[name]] if name in names else constants[name] if name in constants else next(rest)

        feeds = {n: fed(n.name) for n in self.graph.nodes if n.op == "placeholder"}
        held = names.keys() | constants.keys()
        # an op far from an input may write to a view of it; to what a model holds, it does so at once
        fresh = {n for n in feeds if n in self._written or (self._written and n.name not in held)}
        return {n: copied(value) if n in fresh else value for n, value in feeds.items()}

    def _tensors(self, results: Sequence[Any]) -> list[Tensor]:
        """Return the tensors among what the model itself gives."""
        return [r for r in self._captured.shown(results) if isinstance(r, Tensor)]


def in_place(node: fx.Node) -> bool:
    """Return whether an op writes to what it is given."""
    return isinstance(node.target, torch._ops.OpOverload) and bool(node.target._schema.is_mutable)


def _written(graph: fx.Graph) -> set[fx.Node]:
    """Return what ops in place are given."""
    return {source for node in graph.nodes if in_place(node) for source in node.all_input_nodes}


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
