"""Ops that lengthen or shorten a dimension: concat, padding, slicing."""

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


@rule("pad", "constant_pad_nd")
def pad(flow: Flow, call: Call) -> Labels:
    """Surround a dimension with positions that stay; cropping or mirroring channels freezes them."""
    x, amounts = call["self"], call["pad"]
    dims = list(x.dims)
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        d = len(dims) - 1 - i
        ids = dims[d]
        if ids is None or (before, after) == (0, 0):
            continue
        if min(before, after) < 0 or call.get("mode") not in (None, "constant"):
            flow.keep(ids, reason=f"aten.{call.op}")
            dims[d] = None
        else:
            dims[d] = np.concatenate((_fixed(before), ids, _fixed(after)))
    return Labels(call.shape, tuple(dims))


@rule("slice")
def slice_(flow: Flow, call: Call) -> Labels:
    """Pass the other dimensions; a dimension that is really cut carries no channels afterwards."""
    x = call["self"]
    dim = call["dim"] % len(x.shape)
    if call.shape == x.shape and call["step"] == 1:
        return Labels(call.shape, x.dims)
    flow.keep(x.dims[dim], reason=f"aten.{call.op}")
    return Labels(call.shape, (*x.dims[:dim], None, *x.dims[dim + 1 :]))
