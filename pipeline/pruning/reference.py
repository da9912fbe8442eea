"""The reference that a pruned network must equal: the original, in full size, with the same channels at zero.

Zeroed weights do that everywhere but where an op runs over channels: the mean of a layer norm counts zeros,
the pruned network has none to count. Such ops see only the channels that stay here too, and their results
are put back to where they belong. Everything else runs untouched, on the graph of the unpruned model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.export.graph_signature import OutputKind

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Flow, Labels
from pipeline.pruning.trace import Captured, arguments, op_name

_OPS = """layer_norm rms_norm group_norm batch_norm mean sum amax amin max min logsumexp var std linalg_vector_norm norm
    prod matmul bmm mm mv dot addmm baddbmm einsum scaled_dot_product_attention"""
OVER_CHANNELS = frozenset(_OPS.split())


class Reference(fx.Interpreter):
    """Runs a captured graph with the channels that are not `alive` at zero."""

    def __init__(self, captured: Captured, flow: Flow, alive: NDArray[np.bool_], state: Mapping[str, Tensor]) -> None:
        super().__init__(captured.program.graph_module)
        self._captured, self._flow, self._alive = captured, flow, alive
        self._state = {name: self._zeroed(name, tensor) for name, tensor in state.items() if name in flow.tensors}
        self._literals: dict[fx.Node, list[Any]] = {}
        for literal in flow.literals:
            self._literals.setdefault(literal.node, []).append(literal)

    def outputs(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Run on the flattened inputs of the model; return its output tensors, flattened."""
        rest = iter(leaves)
        constants, names = self._captured.constants, self._captured.tensors
        feeds = [
            self._state[names[n.name]] if n.name in names else constants[n.name] if n.name in constants else next(rest)
            for n in self.graph.nodes
            if n.op == "placeholder"
        ]
        results = self.run(*feeds)
        specs = self._captured.program.graph_signature.output_specs
        shown = [r for r, spec in zip(results, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
        return [r for r in shown if isinstance(r, Tensor)]

    def run_node(self, n: fx.Node) -> Any:
        """Run one op; on the channels that stay alone if it runs over channels and some are gone."""
        if n.op == "call_function" and op_name(n) in OVER_CHANNELS:
            sources = {v: self._stays(v) for v in n.all_input_nodes}
            if any(sources.values()):
                return self._run_smaller(n, sources)
        return super().run_node(n)

    def _zeroed(self, name: str, tensor: Tensor) -> Tensor:
        result = tensor.detach()
        for dim, ids in enumerate(self._flow.tensors[name].dims):
            if ids is not None and not (stays := self._alive[ids]).all():
                gone = torch.from_numpy(np.flatnonzero(~stays)).to(result.device)
                result = result.index_fill(dim, gone, 0)
        return result

    def _stays(self, node: fx.Node) -> dict[int, Tensor]:
        """Return the positions that stay, of every dimension that loses some."""
        labels = self._flow.values.get(node)
        return self._kept(labels.dims) if isinstance(labels, Labels) else {}

    def _kept(self, dims: Sequence[Ids | None]) -> dict[int, Tensor]:
        stays = {d: (ids < 0) | self._alive[ids] for d, ids in enumerate(dims) if ids is not None}
        return {d: torch.from_numpy(np.flatnonzero(mask)) for d, mask in stays.items() if not mask.all()}

    def _run_smaller(self, node: fx.Node, sources: Mapping[fx.Node, dict[int, Tensor]]) -> Any:
        def small(source: fx.Node) -> Any:
            value = self.env[source]
            for dim, positions in sources[source].items():
                value = value.index_select(dim, positions.to(value.device))
            return value

        given = dict(fx.node.map_arg(arguments(node), small))
        for literal in self._literals.get(node, ()):
            length = int(np.count_nonzero((literal.ids < 0) | self._alive[literal.ids]))
            if literal.index is None:
                given[literal.name] = length
            else:
                given[literal.name] = [*given[literal.name]]
                given[literal.name][literal.index] = length
        labels = self._flow.values[node]
        result = _call(node, given)
        if isinstance(labels, tuple):
            return tuple(self._spread(r, item) for r, item in zip(result, labels, strict=True))
        return self._spread(result, labels)

    def _spread(self, small: Any, labels: Any) -> Any:
        """Put a result's positions back to their places, zeros between them."""
        if not isinstance(labels, Labels):
            return small
        for dim, positions in self._kept(labels.dims).items():
            full = small.new_zeros((*small.shape[:dim], labels.shape[dim], *small.shape[dim + 1 :]))
            small = full.index_copy_(dim, positions.to(small.device), small)
        return small


def _call(node: fx.Node, given: Mapping[str, Any]) -> Any:
    """Call an op with arguments by name."""
    target: Any = node.target
    keyword = {a.name for a in target._schema.arguments if a.kwarg_only}
    positional = [v for k, v in given.items() if k not in keyword]
    return target(*positional, **{k: v for k, v in given.items() if k in keyword})
