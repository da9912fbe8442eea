"""Views and permutations: ids are rearranged as the elements are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, Shape, rule


@rule("permute")
def permute(_: Flow, call: Call) -> Labels:
    """Reorder the dimensions."""
    x = call.x
    return Labels(call.shape, tuple(x.dims[d] for d in call["dims"]))


@rule("transpose", "swapaxes", "t")
def transpose(_: Flow, call: Call) -> Labels:
    """Swap two dimensions."""
    x = call.x
    dims = list(x.dims)
    a, b = (call.get(name) if name in call.arguments else d for name, d in zip(_axes(call), (0, -1), strict=True))
    dims[a], dims[b] = dims[b], dims[a]
    return Labels(call.shape, tuple(dims))


def _axes(call: Call) -> tuple[str, str]:
    return ("axis0", "axis1") if "axis0" in call.arguments else ("dim0", "dim1")


@rule("movedim", "moveaxis")
def movedim(_: Flow, call: Call) -> Labels:
    """Put some dimensions elsewhere; the others keep their order."""
    x, rank = call.x, len(call.shape)
    source, target = ([d % rank for d in _several(call[name])] for name in ("source", "destination"))
    rest = iter(d for d in range(rank) if d not in source)
    order = [source[target.index(d)] if d in target else next(rest) for d in range(rank)]
    return Labels(call.shape, tuple(x.dims[d] for d in order))


def _several(value: Any) -> Sequence[int]:
    return (value,) if isinstance(value, int) else value


@rule("mT", "mH", "adjoint")
def last_two(_: Flow, call: Call) -> Labels:
    """Swap the last two dimensions."""
    *rest, a, b = call.x.dims
    return Labels(call.shape, (*rest, b, a))


@rule("flatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
def place(flow: Flow, call: Call) -> Labels:
    """Change the shape; the sizes follow from tensors."""
    return _reshape(flow, call)


@rule("view", "reshape", "_unsafe_view", "unflatten")
def reshape(flow: Flow, call: Call) -> Labels:
    """Merge and split dimensions; the sizes may stand in the graph."""
    result = _reshape(flow, call)
    if call.op == "unflatten":
        first = call["dim"] % len(call.x.shape)
        name, named = "sizes", range(first, first + len(call["sizes"]))
    else:
        name, named = ("shape" if "shape" in call.arguments else "size"), range(len(call.shape))
    for i, d in enumerate(named):
        flow.literal(call, name, result.dims[d], i)
    return result


def _reshape(flow: Flow, call: Call) -> Labels:
    """Handle one smallest independent run of dimensions at a time."""
    x = call.x
    dims: list[Ids | None] = []
    for old, new in _runs(x.shape, call.shape):
        dims += _split(flow, _merge(flow, x, old), tuple(call.shape[d] for d in new))
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


def _merge(flow: Flow, x: Labels, run: range) -> Ids | None:
    """Return the ids of some dimensions flattened into one."""
    shape = tuple(x.shape[d] for d in run)
    carriers = [(i, ids) for i, d in enumerate(run) if (ids := x.dims[d]) is not None]
    if not carriers:
        return None
    if len(carriers) > 1:
        whole = flow.channels.fresh(int(np.prod(shape)))
        flow.box(whole.reshape(shape), [x.dims[d] for d in run])
        return whole
    i, ids = carriers[0]
    return np.broadcast_to(ids.reshape(-1, *(1 for _ in shape[i + 1 :])), shape).ravel()


def _split(flow: Flow, ids: Ids | None, shape: Shape) -> list[Ids | None]:
    """Return the ids of one dimension laid out as several."""
    result: list[Ids | None] = [None] * len(shape)
    if ids is None or not shape:
        flow.keep(ids)
        return result
    box = ids.reshape(shape)
    carrier = next((d for d in range(len(shape)) if shape[d] > 1 and constant_but(box, d)), None)
    if carrier is None and box.size > 1:
        result = list(flow.fresh(shape))
        flow.box(box, result)
    elif carrier is not None:
        result[carrier] = np.ascontiguousarray(np.moveaxis(box, carrier, 0).reshape(shape[carrier], -1)[:, 0])
    else:
        flow.keep(ids)
    return result


def constant_but(box: Ids, dim: int) -> bool:
    """Return whether ids vary along one dimension only."""
    lines = np.moveaxis(box, dim, 0).reshape(box.shape[dim], -1)
    return bool((lines == lines[:, :1]).all())
