"""Ops that take parts of a dimension: slices, splits, chunks, selections, indexing."""

import numpy as np

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, Value, rule


@rule("slice")
def slice_(flow: Flow, call: Call) -> Labels:
    """Pass on the ids of the part; where it begins and ends is counted in what is left before it."""
    x = call.x
    dim = (call.get("dim") or 0) % len(x.shape)
    ids, length = x.dims[dim], x.shape[dim]
    if ids is None or call.shape == x.shape:
        return x.with_dim(dim, call.shape[dim], ids)
    start, end, step = slice(call.get("start"), call.get("end"), call.get("step") or 1).indices(length)
    if step != 1:
        flow.keep(ids, reason=f"{call.reason} with steps")
        return x.with_dim(dim, call.shape[dim], None)
    if start > 0:
        flow.literal(call, "start", ids[:start])
    if end < length:
        flow.literal(call, "end", ids[:end])
    return x.with_dim(dim, end - start, ids[start:end])


@rule("narrow")
def narrow(flow: Flow, call: Call) -> Labels:
    """Pass on the ids of the part."""
    x, dim, start, length = call.x, call["dim"], call["start"], call["length"]
    ids = x.dims[dim]
    if ids is None or not isinstance(start, int):
        flow.keep(ids, reason=call.reason)
        return x.with_dim(dim, length, None)
    start %= x.shape[dim]
    flow.literal(call, "start", ids[:start])
    flow.literal(call, "length", ids[start : start + length])
    return x.with_dim(dim, length, ids[start : start + length])


@rule("split_with_sizes")
def split_with_sizes(flow: Flow, call: Call) -> tuple[Labels, ...]:
    """Pass on the ids of every part; each has its size in the graph."""
    _, dim, parts = _parts(call)
    for i, part in enumerate(parts):
        flow.literal(call, "split_sizes", part.dims[dim], i)
    return parts


@rule("split", "chunk")
def split(flow: Flow, call: Call) -> tuple[Labels, ...]:
    """Pass on the ids of every part; one size for all of them keeps the same places of each."""
    x, dim, parts = _parts(call)
    ids = [part.dims[dim] for part in parts]
    first = ids[0]
    if first is None:
        return parts
    for other in ids[1:]:
        if other is not None and len(other) == len(first):
            flow.unite(first, other)
        else:  # a shorter rest moves with no one
            flow.keep(x.dims[dim], reason=call.reason)
    if call.op == "split":
        flow.literal(call, "split_size", first)
    return parts


def _parts(call: Call) -> tuple[Labels, int, tuple[Labels, ...]]:
    x = call.x
    dim = (call.get("dim") or 0) % len(x.shape)
    lengths = [shape[dim] for shape in call.shapes]
    ends = np.cumsum(lengths)
    ids = x.dims[dim]
    parts = tuple(
        x.with_dim(dim, n, None if ids is None else ids[e - n : e]) for n, e in zip(lengths, ends, strict=True)
    )
    return x, dim, parts


@rule("glu")
def glu(flow: Flow, call: Call) -> Labels:
    """Gate one half of a dimension with the other."""
    x = call.x
    dim = (-1 if call.get("dim") is None else call["dim"]) % len(x.shape)
    ids = x.dims[dim]
    if ids is None:
        return x.with_dim(dim, call.shape[dim], None)
    half = len(ids) // 2
    return x.with_dim(dim, half, flow.unite(ids[:half], ids[half:]))


@rule("select", "unbind")
def select(flow: Flow, call: Call) -> Value:
    """Take single places of a dimension, which all stay."""
    x = call.x
    dim = (call.get("dim") or 0) % len(x.shape)
    flow.keep(x.dims[dim])
    rest = Labels((*x.shape[:dim], *x.shape[dim + 1 :]), (*x.dims[:dim], *x.dims[dim + 1 :]))
    return rest if call.op == "select" else tuple(rest for _ in call.shapes)


@rule("index_select", "gather", "take_along_dim")
def index_select(flow: Flow, call: Call) -> Labels:
    """Take places of a dimension in the order of an index, which counts them: all stay, unless it can be rewritten."""
    x = call.x
    dim = (call.get("dim") or 0) % len(x.shape)
    ids, places = x.dims[dim], call["index"].places
    if call.op == "index_select" and ids is not None and places is not None:
        flow.select(call, places, ids)
        return x.with_dim(dim, call.shape[dim], ids[places])
    flow.keep(x.dims[dim], reason=call.reason)
    flow.keep(*call["index"].dims, reason=call.reason)
    if call.op != "index_select":
        flow.keep(*x.dims, reason=call.reason)
        return Labels.blank(call.shape)
    return x.with_dim(dim, call.shape[dim], None)


@rule("index")
def index(flow: Flow, call: Call) -> Labels:
    """Take places of some dimensions by index tensors; the other dimensions pass."""
    x, indices = call.x, [*call["indices"]]
    indices += [None] * (len(x.shape) - len(indices))
    used = [d for d, i in enumerate(indices) if i is not None]
    for d in used:
        flow.keep(x.dims[d], *indices[d].dims, reason=call.reason)
    rank = max(len(indices[d].shape) for d in used)
    new: list[Ids | None] = [None] * rank
    rest = [ids for d, ids in enumerate(x.dims) if d not in used]
    before = used[0] if used == list(range(used[0], used[-1] + 1)) else 0  # torch puts the result first otherwise
    return Labels(call.shape, (*rest[:before], *new, *rest[before:]))
