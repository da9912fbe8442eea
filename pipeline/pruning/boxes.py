"""Dimensions seen as several: which of the several carries the channels, decided when the graph is known.

A linear layer's 3 × heads × width rows, viewed as three dimensions, can lose whole heads or the same places of
every head; not both at once, because the ids of the rows stand for single rows. What is decided in one view
has to fit every other that the same channels pass, so that forced decisions come first.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Box, Flow
from pipeline.pruning.rules.shape import constant_but


def settle(flow: Flow, *, heads: bool = True) -> None:
    """Decide every box, uniting or freezing its ids. With `heads`, attention loses heads before widths."""
    pending = list(flow.boxes)
    flow.boxes.clear()
    while pending:
        roots, frozen = flow.channels.roots(), flow.channels.frozen()
        found = [_candidates(box, roots, frozen) for box in pending]
        clear = [len(dims) < 2 for dims in found]
        if not any(clear):
            found, clear = _choose(pending, found, roots[flow.marked("head")], roots, heads)
        for box, dims, decided in zip(pending, found, clear, strict=True):
            if decided:
                _decide(flow, box, dims[0] if dims else None)
        pending = [box for box, decided in zip(pending, clear, strict=True) if not decided]


def _candidates(box: Box, roots: Ids, frozen: NDArray[np.bool_]) -> list[int]:
    """Return the dimensions that can still carry channels; one alone where the ids already say which."""
    whole = np.where(box.whole < 0, -1, roots[box.whole])
    if (box.whole >= 0).any() and frozen[whole[whole >= 0]].all():
        return []
    live = [d for d, ids in enumerate(box.parts) if ids is not None and not frozen[roots[ids[ids >= 0]]].all()]
    told = [d for d in live if constant_but(whole, d)]
    return told[:1] or live


def _choose(
    boxes: Sequence[Box], found: Sequence[list[int]], heads: Ids, roots: Ids, prefer: bool
) -> tuple[list[list[int]], list[bool]]:
    """Decide all boxes of attention heads together, or else the first box: its longest dimension."""
    chosen, decided = [list(dims) for dims in found], [False] * len(boxes)
    for i, (box, dims) in enumerate(zip(boxes, found, strict=True)):
        of_heads = [d for d in dims if np.isin(roots[box.parts[d]], heads).any()]
        if of_heads:
            others = [d for d in dims if d not in of_heads]
            chosen[i], decided[i] = (of_heads if prefer or not others else others)[:1], True
    if not any(decided):
        dims = found[0]
        chosen[0] = [max(dims, key=lambda d: (boxes[0].whole.shape[d], d))]
        decided[0] = True
    return chosen, decided


def _decide(flow: Flow, box: Box, carrier: int | None) -> None:
    """Unite the whole's ids with the carrier's, along all other dimensions, and keep those."""
    flow.keep(*(ids for d, ids in enumerate(box.parts) if d != carrier))
    ids = None if carrier is None else box.parts[carrier]
    if carrier is None or ids is None:
        flow.keep(box.whole.ravel())
    else:
        flow.unite_all(ids[:, None], np.moveaxis(box.whole, carrier, 0).reshape(len(ids), -1))
