"""Ops that put dimensions together or repeat them: concat, stack, padding, repeats."""

import numpy as np

from pipeline.pruning.channels import FIXED, Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, rule


@rule("cat", "concat", "concatenate")
def cat(flow: Flow, call: Call) -> Labels:
    """Concatenate ids along the dimension, unite them along the others."""
    tensors = [t for t in call["tensors"] if t.shape != (0,)]  # torch skips them as well
    axis = (call.get("dim") or 0) % len(call.shape)
    dims: list[Ids | None] = []
    for d in range(len(call.shape)):
        ids = tensors[0].dims[d]
        if d == axis:
            ids = _concatenate(tensors, d)
        else:
            for t in tensors[1:]:
                ids = flow.unite(ids, t.dims[d])
        dims.append(ids)
    return Labels(call.shape, tuple(dims))


def _concatenate(tensors: list[Labels], dim: int) -> Ids | None:
    parts = [t.dims[dim] for t in tensors]
    if all(p is None for p in parts):
        return None
    lengths = [t.shape[dim] for t in tensors]
    return np.concatenate([_fixed(n) if p is None else p for p, n in zip(parts, lengths, strict=True)])


def _fixed(length: int) -> Ids:
    return np.full(length, FIXED, np.int64)


@rule("stack")
def stack(flow: Flow, call: Call) -> Labels:
    """Unite the dimensions of all; the new one holds one place for each."""
    tensors = list(call["tensors"])
    dims = list(tensors[0].dims)
    for t in tensors[1:]:
        dims = [flow.unite(a, b) for a, b in zip(dims, t.dims, strict=True)]
    dims.insert((call.get("dim") or 0) % len(call.shape), None)
    return Labels(call.shape, tuple(dims))


@rule("pad", "constant_pad_nd")
def pad(flow: Flow, call: Call) -> Labels:
    """Surround a dimension with positions that stay; cropping or mirroring channels freezes them."""
    x, amounts = call.x, call["pad"]
    dims = list(x.dims)
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        d = len(dims) - 1 - i
        ids = dims[d]
        if ids is None or (before, after) == (0, 0):
            continue
        if min(before, after) < 0 or call.get("mode") not in (None, "constant"):
            flow.keep(ids, reason=call.reason)
            dims[d] = None
        else:
            dims[d] = np.concatenate((_fixed(before), ids, _fixed(after)))
    return Labels(call.shape, tuple(dims))


@rule("repeat", "tile")
def repeat(flow: Flow, call: Call) -> Labels:
    """Lay whole copies of a dimension behind each other; one position becomes any number of equal ones."""
    x, fresh = call.x, flow.fresh(call.shape)
    offset = len(call.shape) - len(x.shape)
    dims = list(fresh)
    for d, (ids, n) in enumerate(zip(x.dims, x.shape, strict=True)):
        times = call.shape[offset + d] // n
        if ids is not None:
            dims[offset + d] = np.tile(ids, times)
        elif n > 1 or times == 1:
            dims[offset + d] = None
    name = "repeats" if "repeats" in call.arguments else "dims"
    for d, n in enumerate((*(1 for _ in range(offset)), *x.shape)):
        if n == 1:
            flow.literal(call, name, dims[d], d)
    return Labels(call.shape, tuple(dims))


@rule("repeat_interleave")
def repeat_interleave(flow: Flow, call: Call) -> Labels:
    """Repeat every position in place."""
    x, dim = call.x, call.get("dim")
    if dim is None or not isinstance(call["repeats"], int):
        flow.keep(*x.dims, reason=call.reason)
        return Labels.blank(call.shape)
    ids = x.dims[dim]
    return x.with_dim(dim, call.shape[dim], None if ids is None else np.repeat(ids, call["repeats"]))
