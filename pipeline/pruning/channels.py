"""Channel ids: integers that every dimension of every tensor carries, and the classes they are united into.

Ids live in numpy arrays, one entry per position of a dimension, so a concat is a concatenate, a flatten a
repeat and a permute a reordering. Uniting collects edges; classes are solved for all of them at once.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Alive = NDArray[np.bool_]  # per id, whether it stays

FIXED = -1  # a position that carries no id because it can never be pruned: zero padding, a model input


def stays(ids: Ids, alive: Alive) -> NDArray[np.bool_]:
    """Return which positions of a dimension with `ids` stay: those that carry no id do."""
    result: NDArray[np.bool_] = ids == FIXED
    result[~result] = alive[ids[~result]]
    return result


def kept(dims: Sequence[Ids | None], alive: Alive) -> dict[int, Ids]:
    """Return the positions that stay, of every dimension that loses some."""
    masks = {d: stays(ids, alive) for d, ids in enumerate(dims) if ids is not None}
    return {d: np.flatnonzero(mask) for d, mask in masks.items() if not mask.all()}


def components(size: int, left: Ids, right: Ids) -> Ids:
    """Return, for each of `size` nodes, the smallest node of its connected component.

    `left[i]` and `right[i]` are the ends of edge i. Each round hooks every root onto its smallest neighbour
    and then flattens the trees, which at least halves the roots that still have edges between them.
    """
    root = np.arange(size, dtype=np.int64)
    while True:
        a, b = root[left], root[right]
        low, high = np.minimum(a, b), np.maximum(a, b)
        if np.array_equal(low, high):
            return root
        np.minimum.at(root, high, low)
        while not np.array_equal(flat := root[root], root):
            root = flat


class Channels:
    """The ids handed out so far, which of them belong together, and which must stay."""

    def __init__(self) -> None:
        self._size = 0
        self._edges: list[tuple[Ids, Ids]] = []
        self._frozen: list[tuple[Ids, str]] = []
        self._roots: Ids | None = None

    @property
    def size(self) -> int:
        """How many ids there are."""
        return self._size

    def fresh(self, count: int) -> Ids:
        """Return `count` new ids, consecutive."""
        self._roots = None
        self._size += count
        return np.arange(self._size - count, self._size, dtype=np.int64)

    def unite(self, a: Ids, b: Ids) -> None:
        """Make `a[i]` and `b[i]` one channel; where one of them is FIXED the other one is frozen."""
        self._roots = None
        both = (a != FIXED) & (b != FIXED)
        self._edges.append((a[both], b[both]))
        self.freeze(np.concatenate((a[~both], b[~both])))

    def freeze(self, ids: Ids, reason: str = "") -> None:
        """Keep `ids` whatever happens. A reason is reported; none is for what nobody expects to be pruned."""
        ids = ids[ids != FIXED]
        if ids.size:
            self._frozen.append((ids, reason))

    def roots(self) -> Ids:
        """Return the class of every id, shape (ids,): the smallest id in it."""
        if self._roots is None:
            none = np.empty(0, np.int64)
            left = np.concatenate([a for a, _ in self._edges] or [none])
            right = np.concatenate([b for _, b in self._edges] or [none])
            self._roots = components(self._size, left, right)
        return self._roots

    def frozen(self) -> NDArray[np.bool_]:
        """Return which classes are frozen, shape (ids,), indexed by root."""
        mask = np.zeros(self._size, bool)
        for ids, _ in self._frozen:
            mask[self.roots()[ids]] = True
        return mask

    def reasons(self) -> Mapping[str, Ids]:
        """Return the roots that each named reason froze, in the order the reasons came up."""
        named: dict[str, list[Ids]] = {}
        for ids, reason in self._frozen:
            if reason:
                named.setdefault(reason, []).append(self.roots()[ids])
        return {reason: np.unique(np.concatenate(parts)) for reason, parts in named.items()}
