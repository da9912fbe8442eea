"""Run a captured graph op by op, with other weights or other ops where a subclass says so."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx
from torch.export.graph_signature import OutputKind

from pipeline.pruning.trace import Captured


class GraphRunner(fx.Interpreter):
    """Runs a captured graph. `state` holds parameters and buffers by their first name in the model."""

    def __init__(self, captured: Captured, state: Mapping[str, Tensor]) -> None:
        super().__init__(captured.program.graph_module)
        self._captured, self._state = captured, state

    def double(self) -> "GraphRunner":
        """Return the same runner in double precision; results that the graph itself casts stay as it casts them."""
        other = copy.copy(self)
        other._state = {name: _double(tensor) for name, tensor in self._state.items()}
        constants = {name: _double(tensor) for name, tensor in self._captured.constants.items()}
        other._captured = replace(self._captured, constants=constants)
        return other

    def outputs(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Run on the flattened inputs of the model; return its output tensors, flattened."""
        return self._shown(self.run(*self._feeds(leaves).values()))

    def _feeds(self, leaves: Sequence[Any]) -> dict[fx.Node, Any]:
        """Return the value of every placeholder."""
        rest = iter(leaves)
        constants, names = self._captured.constants, self._captured.tensors
        return {
            n: self._state[names[n.name]] if n.name in names else constants[n.name] if n.name in constants else next(rest)
            for n in self.graph.nodes
            if n.op == "placeholder"
        }

    def _shown(self, results: Sequence[Any]) -> list[Tensor]:
        """Return what the model itself gives, of what the graph gives."""
        specs = self._captured.program.graph_signature.output_specs
        shown = [r for r, spec in zip(results, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
        return [r for r in shown if isinstance(r, Tensor)]


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
