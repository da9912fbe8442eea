"""The reference that a pruned network must equal: the original, in full size, with the same channels at zero.

Zeroed weights do that everywhere but where an op runs over channels: the mean of a layer norm counts zeros,
the pruned network has none to count. Such ops see only the channels that stay here too, and their results
are put back to where they belong. Everything else runs untouched, on the graph of the unpruned model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from pipeline.pruning.channels import Alive, Ids, kept, stays
from pipeline.pruning.interpret import GraphRunner
from pipeline.pruning.rules.base import Flow, Labels, Literal
from pipeline.pruning.trace import Captured, arguments, op_name, split_by_schema

_OPS = """layer_norm rms_norm group_norm batch_norm mean sum amax amin max min logsumexp var std linalg_vector_norm norm
    prod matmul bmm mm mv dot addmm baddbmm einsum scaled_dot_product_attention"""
OVER_CHANNELS = frozenset(_OPS.split())


class Reference(GraphRunner):
    """Runs a captured graph with the channels that are not `alive` at zero."""

    def __init__(self, captured: Captured, flow: Flow, alive: Alive, state: Mapping[str, Tensor]) -> None:
        self._flow, self._alive = flow, alive
        super().__init__(captured, {n: self._zeroed(n, tensor) for n, tensor in state.items() if n in flow.tensors})
        self._literals: dict[fx.Node, list[Literal]] = {}
        for literal in flow.literals:
            self._literals.setdefault(literal.node, []).append(literal)

    def run_node(self, n: fx.Node) -> Any:
        """Run one op; on the channels that stay alone if it runs over channels and some are gone."""
        if n.op == "call_function" and op_name(n) in OVER_CHANNELS:
            sources = {v: self._kept(v) for v in n.all_input_nodes}
            if any(sources.values()):
                return self._run_smaller(n, sources)
        return super().run_node(n)

    def _zeroed(self, name: str, tensor: Tensor) -> Tensor:
        dims = self._flow.tensors[name].dims
        gone = {d: np.flatnonzero(~stays(ids, self._alive)) for d, ids in enumerate(dims) if ids is not None}
        if not any(len(positions) for positions in gone.values()):
            return tensor.detach()
        result = tensor.detach().clone()
        for dim, positions in gone.items():
            result.index_fill_(dim, torch.from_numpy(positions).to(result.device), 0)
        return result

    def _kept(self, node: fx.Node) -> dict[int, Ids]:
        labels = self._flow.values.get(node)
        return kept(labels.dims, self._alive) if isinstance(labels, Labels) else {}

    def _run_smaller(self, node: fx.Node, sources: Mapping[fx.Node, dict[int, Ids]]) -> Any:
        def small(source: fx.Node) -> Any:
            value = self.env[source]
            for dim, positions in sources[source].items():
                value = value.index_select(dim, torch.from_numpy(positions).to(value.device))
            return value

        given = dict(fx.node.map_arg(arguments(node), small))
        for literal in self._literals.get(node, ()):
            length = int(np.count_nonzero(stays(literal.ids, self._alive)))
            if literal.index is None:
                given[literal.name] = length
            else:
                given[literal.name] = [*given[literal.name]]
                given[literal.name][literal.index] = length
        labels = self._flow.values[node]
        positional, keyword = split_by_schema(node, given)
        result = node.target(*positional, **keyword)  # type: ignore[operator]
        if isinstance(labels, tuple):
            return tuple(self._spread(r, item) for r, item in zip(result, labels, strict=True))
        return self._spread(result, labels)

    def _spread(self, small: Any, labels: Any) -> Any:
        """Put a result's positions back to their places, zeros between them."""
        if not isinstance(labels, Labels):
            return small
        for dim, positions in kept(labels.dims, self._alive).items():
            full = small.new_zeros((*small.shape[:dim], labels.shape[dim], *small.shape[dim + 1 :]))
            small = full.index_copy_(dim, torch.from_numpy(positions).to(small.device), small)
        return small
