"""A captured graph with a gate on every unit of some groups, wherever the group is read; gradients pass through."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pipeline.pruning.groups import Group
from pipeline.pruning.network import Network
from pipeline.pruning.suffix import Suffixes
from pipeline.pruning.taps import Tap, maps, readers

Coder = Callable[[str, Tensor], Tensor]  # group, its map (samples, units, n, …) -> gates, shape (units,)


@dataclass(frozen=True)
class Gated:
    """A group, the first feature map of it that is read, and every layer that reads it."""

    name: str
    units: int
    map: Tap
    readers: tuple[Tap, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Units, channels per unit, and the other dimensions of the map but the samples."""
        sizes = [int(n) for d, n in enumerate(self.map.node.meta["val"].shape) if d not in (0, self.map.dim)]
        return (*self.map.index.shape, *sizes)


def gated(network: Network, groups: Sequence[Group]) -> list[Gated]:
    """Return the groups that layers read, in the order that their maps are there."""
    order = {node: place for place, node in enumerate(network.captured.graph.nodes)}
    pairs = [(g, tuple(readers(network, g))) for g in groups]
    found = [Gated(g.name, g.units, maps(network, g)[0], taps) for g, taps in pairs if taps]
    return sorted(found, key=lambda one: order[one.map.node])


class Gates(Suffixes):
    """Runs the graph with values multiplied by gates where layers read them.

    A group's gates are what `code` returns when its map is there, and hold for all that reads it. With `training`
    batch norms take the statistics of the batch and update the running ones in `state`, as in training mode;
    all else stays as captured.
    """

    def __init__(
        self, network: Network, state: Mapping[str, Tensor], found: Sequence[Gated], code: Coder, *, training: bool
    ) -> None:
        super().__init__(network.captured, state)
        self._code, self._training = code, training
        self._maps: dict[fx.Node, list[Gated]] = {}
        self._reads: dict[fx.Node, list[tuple[str, Tap]]] = {}
        for one in found:
            self._maps.setdefault(one.map.node, []).append(one)
            for tap in one.readers:
                self._reads.setdefault(tap.at, []).append((one.name, tap))
        self.codes: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one op; a reader on gated values, and see what it gives if that is a group's map."""
        sources = {tap.node: self.env[tap.node] for _, tap in self._reads.get(n, ())}
        for source, value in sources.items():
            self.env[source] = self._gate(value, [r for r in self._reads[n] if r[1].node is source])
        result = super().run_node(n)
        self.env.update(sources)
        for one in self._maps.get(n, ()):
            self.codes[one.name] = self._code(one.name, one.map.units(result))
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an op, a batch norm as in training if so asked."""
        if self._training and target is torch.ops.aten.batch_norm.default:
            args = (*args[:5], True, *args[6:])
        return super().call_function(target, args, kwargs)

    def _gate(self, value: Tensor, reads: Sequence[tuple[str, Tap]]) -> Tensor:
        """Multiply a value by the gates of all groups that are on it, after a concat several."""
        for name, tap in reads:
            places = torch.from_numpy(tap.index.ravel()).to(value.device)
            gates = self.codes[name].to(value).repeat_interleave(tap.index.shape[1])
            scale = torch.ones(value.shape[tap.dim], dtype=value.dtype, device=value.device)
            shape = [-1 if d == tap.dim else 1 for d in range(value.ndim)]
            value = value * scale.index_put((places,), gates).reshape(shape)
        return value
