"""What a network costs once groups have shrunk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.counters import Extent, Work, work
from pipeline.pruning.groups import Group, Structure
from pipeline.pruning.rules.base import Flow
from pipeline.pruning.trace import Captured


@dataclass(frozen=True)
class Cost:
    """What a network costs once groups have shrunk: exact, in closed form, no trace.

    A cost is a sum of products of lengths. `lengths` has every length that occurs, `losses` how many of its
    positions go with each unit of each group, shape (lengths, groups). Length 0 is 1 and pads short products.
    """

    lengths: NDArray[np.int64]
    losses: NDArray[np.int64]
    columns: Mapping[str, int]  # group -> column of losses
    terms: Mapping[str, "Terms"]  # what is counted -> its products

    def after(self, groups: Sequence[Group], keep: Sequence[int]) -> dict[str, int]:
        """Return every cost when group i keeps `keep[i]` units, and groups that are not given keep all."""
        gone = np.zeros(len(self.columns), np.int64)
        for group, k in zip(groups, keep, strict=True):
            gone[self.columns[group.name]] = group.units - k
        lengths = self.lengths - self.losses @ gone
        return {what: terms.total(lengths) for what, terms in self.terms.items()}


@dataclass(frozen=True)
class Terms:
    """Products of lengths: `times[i]` × the lengths numbered in row i of `factors`."""

    times: NDArray[np.int64]
    factors: NDArray[np.int64]

    def total(self, lengths: NDArray[np.int64]) -> int:
        """Return the sum of all products."""
        return int((self.times * lengths[self.factors].prod(1)).sum())


def cost(structure: Structure, terms: Mapping[str, Sequence[Work]]) -> Cost:
    """Gather what is counted, e.g. {"macs": [...], "params": [...]}, over the groups of a network."""
    units = np.array([g.units for g in structure.groups], np.int64)
    lengths, losses = [1], [np.zeros(len(units), np.int64)]

    def number(extent: Extent) -> int:
        lengths.append(extent.length)
        ids = np.empty(0, np.int64) if extent.ids is None else extent.ids[extent.ids >= 0]
        owners = structure.owner[ids]
        losses.append(np.bincount(owners[owners >= 0], minlength=len(units)) // units)
        return len(lengths) - 1

    def gather(items: Sequence[Work]) -> Terms:
        rows = [[number(e) for e in item.extents] for item in items]
        widest = max((len(row) for row in rows), default=1)
        factors = np.array([row + [0] * (widest - len(row)) for row in rows], np.int64).reshape(len(rows), widest)
        return Terms(np.array([i.times for i in items], np.int64), factors)

    gathered = {what: gather(items) for what, items in terms.items()}
    columns = {group.name: column for column, group in enumerate(structure.groups)}
    return Cost(np.array(lengths, np.int64), np.stack(losses), columns, gathered)


def of_network(captured: Captured, flow: Flow, structure: Structure) -> Cost:
    """Return what counts: "macs", "params" (each tensor once) and "bytes" (parameters and buffers)."""
    return cost(structure, _counted(captured, flow))


def total(captured: Captured) -> dict[str, int]:
    """Return the same figures for a network as it is."""
    return {what: sum(item.macs for item in items) for what, items in _counted(captured, None).items()}


def _counted(captured: Captured, flow: Flow | None) -> dict[str, Sequence[Work]]:
    """Return the products that each figure is a sum of."""
    labelled = {name: labels.dims for name, labels in flow.tensors.items()} if flow else {}
    dims = {name: labelled.get(name, (None,) * len(shape)) for name, shape in captured.shapes.items()}
    held = {n: tuple(map(Extent, shape, dims[n])) for n, shape in captured.shapes.items()}
    return {
        "macs": work(captured, flow.values if flow else None),
        "params": [Work(name, 1, extents) for name, extents in held.items() if name in captured.parameters],
        "bytes": [Work(name, captured.itemsizes[name], extents) for name, extents in held.items()],
    }
