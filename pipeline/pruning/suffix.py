"""Rerun the end of a captured graph: what a change somewhere does to the outputs, without running what is before."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from pipeline.pruning.interpret import GraphRunner, in_place
from pipeline.pruning.trace import Captured


class Suffixes(GraphRunner):
    """Runs a graph once, and from chosen ops on as often as needed.

    Memory holds the values that are live at one op, and those of one rerun.
    """

    def __init__(self, captured: Captured, state: Mapping[str, Tensor]) -> None:
        super().__init__(captured, state)
        self._nodes: list[fx.Node] = list(self.graph.nodes)
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self._weights = {n for n in self._nodes if n.name in captured.tensors or n.name in captured.constants}
        written = [place for place, node in enumerate(self._nodes) if in_place(node)]
        self._last_write = written[-1] if written else -1
        self.kept: dict[fx.Node, Any] = {}

    def first(self, tensors: Collection[str]) -> fx.Node | None:
        """Return the first op that any of these parameters and buffers goes into, if one does."""
        held = [n for n in self._weights if self._captured.tensors.get(n.name) in tensors]
        return min((user for node in held for user in node.users), key=self._place.__getitem__, default=None)

    def after(self, node: fx.Node) -> fx.Node:
        """Return the op that runs next."""
        return self._nodes[self._place[node] + 1]

    def stops(
        self, leaves: Sequence[Any], at: Collection[fx.Node], keep: Collection[fx.Node] = ()
    ) -> Iterator[fx.Node]:
        """Run on the flattened inputs as far as the last op of `at`, and stop before each of them.

        Of the values in `keep`, `kept` has copies.
        """
        self.env = self._feeds(leaves)
        self.kept = {n: copy.deepcopy(self.env[n]) for n in keep if n in self.env}
        left = set(at)
        for node in self._nodes:
            if node in left:
                yield node
                left.remove(node)
            if not left:
                return
            self._step(node)
            if node in keep and node not in self.kept:
                self.kept[node] = copy.deepcopy(self.env[node])

    def rest(self, node: fx.Node, instead: Mapping[fx.Node, Any] | None = None) -> list[Tensor]:
        """Return the outputs of the model when what follows the stop at `node` runs, with some values replaced."""
        place = self._place[node]
        values = {**self.env, **(instead or {})}
        if place <= self._last_write:  # one copy of all, in which views stay views of the same values
            values |= _copied(values, self._weights - self._written)
        rerun = copy.copy(self)
        rerun.env = values
        for later in self._nodes[place:]:
            rerun._step(later)
        return self._tensors(rerun.env[self._nodes[-1]])

    def _step(self, node: fx.Node) -> None:
        """Run one op, and drop what no later one needs."""
        if node.op != "placeholder":
            self.env[node] = self.run_node(node)
        for dead in self.user_to_last_uses.get(node, ()):
            self.env.pop(dead, None)


def _copied(values: Mapping[fx.Node, Any], without: Collection[fx.Node]) -> dict[fx.Node, Any]:
    """Copy values together, so that views stay views of the same memory."""
    nodes = [n for n in values if n not in without]
    return dict(zip(nodes, copy.deepcopy([values[n] for n in nodes]), strict=True))
