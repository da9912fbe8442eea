"""Convolutions: dense, grouped and depthwise, in any number of spatial dimensions."""

import numpy as np

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, Role, rule


@rule("conv1d", "conv2d", "conv3d")
def conv(flow: Flow, call: Call) -> Labels:
    """Tie the input's channels to the weight's columns; the weight's rows are the output's channels."""
    x, weight, bias = call["input"], call["weight"], call.get("bias")
    axis = len(x.shape) - len(weight.shape) + 1  # inputs come with a batch dimension or without
    flow.keep(*x.dims[axis + 1 :], *weight.dims[2:])
    if call["groups"] == 1:
        flow.unite(x.dims[axis], weight.dims[1])
        flow.mark(weight, 1, Role.IN)
    else:
        _grouped(flow, x.dims[axis], weight, call["groups"])
    out = weight.dims[0]
    flow.mark(weight, 0, Role.OUT)
    if bias is not None:
        out = flow.unite(out, bias.dims[0])
    return Labels(call.shape, (*x.dims[:axis], out, *(None for _ in weight.shape[2:])))


def _grouped(flow: Flow, ids: Ids | None, weight: Labels, groups: int) -> None:
    """Keep groups equally wide: drop whole ones, or the same positions of each, whichever is finer."""
    rows, columns = weight.dims[:2]
    per_group = weight.shape[0] // groups, weight.shape[1]
    if ids is None or rows is None or not weight.source:
        flow.keep(ids, rows, columns)
    elif groups > per_group[1] or 1 in per_group:
        flow.keep(columns)
        first = ids.reshape(groups, -1)[:, :1]
        for side in (ids.reshape(groups, -1), rows.reshape(groups, -1)):
            flow.unite(*_flat(first, side))
        flow.channels_per_group[weight.source] = per_group[0]
    else:
        for side in (ids.reshape(groups, -1), rows.reshape(groups, -1)):
            flow.unite(*_flat(side[:1], side))
        flow.unite(ids[: per_group[1]], columns)
        flow.mark(weight, 1, Role.IN)


def _flat(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    return np.broadcast_to(a, b.shape).ravel(), b.ravel()
