"""Convolutions: dense, grouped and depthwise, forward and transposed, in any number of spatial dimensions."""

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, makes, reads, rule


@rule("conv1d", "conv2d", "conv3d")
def conv(flow: Flow, call: Call) -> Labels:
    """Tie the input's channels to the weight's columns; the weight's rows are the output's channels."""
    x, weight = call.x, call["weight"]
    axis = len(x.shape) - len(weight.shape) + 1  # inputs come with a batch dimension or without
    rows, columns = weight.dims[:2]
    makes(flow, rows)
    if call["groups"] == 1:
        flow.unite(x.dims[axis], columns)
        reads(flow, columns)
    else:
        _grouped(flow, call, x.dims[axis], weight)
    return _result(flow, call, axis, rows, weight)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(flow: Flow, call: Call) -> Labels:
    """Tie the input's channels to the weight's dimension 0; its dimension 1 holds the output's channels."""
    x, weight, groups = call.x, call["weight"], call["groups"]
    axis = len(x.shape) - len(weight.shape) + 1
    first, second = weight.dims[:2]
    if groups == 1:
        flow.unite(x.dims[axis], first)
        reads(flow, first)
        makes(flow, second)
        return _result(flow, call, axis, second, weight)
    if weight.shape[:2] == (groups, 1):
        flow.unite(x.dims[axis], first)
        makes(flow, first)
        flow.literal(call, "groups", first)
        return _result(flow, call, axis, first, weight)
    flow.keep(x.dims[axis], first, second, reason=f"{call.reason} with groups")
    return _result(flow, call, axis, None, weight)


def _result(flow: Flow, call: Call, axis: int, out: Ids | None, weight: Labels) -> Labels:
    """Return the output's labels; where the kernel mixes positions of a spatial dimension, they must stay."""
    x, bias = call.x, call.get("bias")
    mixed = [not _in_place(call, axis + 1 + i, size) for i, size in enumerate(weight.shape[2:])]
    space = list(zip(x.dims[axis + 1 :], mixed, strict=True))
    flow.keep(*(ids for ids, mixes in space if mixes), reason=call.reason)
    flow.keep(*weight.dims[2:])
    if bias is not None:
        out = flow.unite(out, bias.dims[0])
    return Labels(call.shape, (*x.dims[:axis], out, *(None if mixes else ids for ids, mixes in space)))


def _in_place(call: Call, dim: int, kernel: int) -> bool:
    """Whether every position of a spatial dimension is made of the input's at the same place, and of no other."""
    moves = {*(call.get("stride") or ())} != {1} or any(call.get("output_padding") or ())
    return kernel == 1 and not moves and call.shape[dim] == call.x.shape[dim]  # as long as before: not padded


def _grouped(flow: Flow, call: Call, ids: Ids | None, weight: Labels) -> None:
    """Keep groups equally wide: drop whole ones, or the same positions of each, whichever is finer."""
    groups = call["groups"]
    rows, columns = weight.dims[:2]
    per_group = weight.shape[0] // groups, weight.shape[1]
    if ids is None or rows is None:
        flow.keep(ids, rows, columns)
    elif groups > per_group[1] or 1 in per_group:
        flow.keep(columns)
        first = ids.reshape(groups, -1)[:, :1]
        for side in (ids.reshape(groups, -1), rows.reshape(groups, -1)):
            flow.unite_all(first, side)
        flow.literal(call, "groups", first[:, 0])
    else:
        for side in (ids.reshape(groups, -1), rows.reshape(groups, -1)):
            flow.unite_all(side[:1], side)
        flow.unite(ids[: per_group[1]], columns)
        reads(flow, columns)
