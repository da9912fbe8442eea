"""Views and permutations: ids are rearranged as the elements are."""

import numpy as np

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, Shape, rule


@rule("permute")
def permute(_: Flow, call: Call) -> Labels:
    """Reorder the dimensions."""
    x = call["self"]
    return Labels(call.shape, tuple(x.dims[d] for d in call["dims"]))


@rule("transpose", "swapaxes")
def transpose(_: Flow, call: Call) -> Labels:
    """Swap two dimensions."""
    x = call["self"]
    dims = list(x.dims)
    a, b = call["dim0"], call["dim1"]
    dims[a], dims[b] = dims[b], dims[a]
    return Labels(call.shape, tuple(dims))


@rule("view", "reshape", "_unsafe_view", "view_as", "flatten", "unflatten", "squeeze", "unsqueeze")
def reshape(flow: Flow, call: Call) -> Labels:
    """Merge and split dimensions, one smallest independent run of them at a time."""
    x = call["self"]
    dims: list[Ids | None] = []
    for old, new in _runs(x.shape, call.shape):
        dims += _split(flow, _merge(flow, call.op, x, old), tuple(call.shape[d] for d in new))
    return Labels(call.shape, tuple(dims))


def _runs(old: Shape, new: Shape) -> list[tuple[range, range]]:
    """Pair the shortest runs of old and new dimensions that hold the same elements."""
    runs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start, a, b = (i, j), 1, 1
        while True:
            if a <= b and i < len(old) and (i == start[0] or a < b):
                a, i = a * old[i], i + 1
            elif j < len(new) and (j == start[1] or b < a):
                b, j = b * new[j], j + 1
            else:
                break
        runs.append((range(start[0], i), range(start[1], j)))
    return runs


def _merge(flow: Flow, op: str, x: Labels, run: range) -> Ids | None:
    """Return the ids of some dimensions flattened into one; at most one of them can carry channels."""
    carriers = [(d, ids) for d in run if (ids := x.dims[d]) is not None]
    if len(carriers) > 1:
        carriers = [(d, ids) for d, ids in carriers if not flow.settled(ids)] or carriers[:1]
    if len(carriers) > 1:
        flow.keep(*(ids for _, ids in carriers), reason=f"aten.{op}")
    if not carriers:
        return None
    dim, ids = carriers[0]
    shape = tuple(x.shape[d] for d in run)
    return np.broadcast_to(ids.reshape(-1, *(1 for _ in range(dim + 1, run.stop))), shape).ravel()


def _split(flow: Flow, ids: Ids | None, shape: Shape) -> list[Ids | None]:
    """Return the ids of one dimension laid out as several; one of them carries the channels.

    What is pruned must remain a box, so ids that share a position on that dimension become one channel. A
    dimension along which alone the ids vary costs nothing; else the longest one leaves the most channels.
    """
    result: list[Ids | None] = [None] * len(shape)
    if ids is None or not shape:
        flow.keep(ids)
        return result
    box = ids.reshape(shape)
    lines = [np.moveaxis(box, d, 0).reshape(n, -1) for d, n in enumerate(shape)]
    free = [d for d, line in enumerate(lines) if (line == line[:, :1]).all()]
    carrier = max(free or range(len(shape)), key=lambda d: (shape[d], d))
    line = lines[carrier]
    first = np.ascontiguousarray(line[:, 0])
    if not free:
        flow.unite(np.broadcast_to(first[:, None], line.shape).ravel(), line.ravel())
    result[carrier] = first
    return result
