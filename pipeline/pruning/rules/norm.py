"""Normalisation: statistics within a channel, within a group of channels, or over all channels.

Where statistics run over channels, those of the pruned network run over the channels that are left.
"""

from pipeline.pruning.rules.base import Call, Flow, Labels, rule


@rule("batch_norm", "instance_norm")
def batch_norm(flow: Flow, call: Call) -> Labels:
    """Tie scale, shift and running statistics to the channels."""
    x = call.x
    ids = x.dims[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            ids = flow.unite(ids, call[name].dims[0])
    return Labels(call.shape, (x.dims[0], ids, *x.dims[2:]))


@rule("layer_norm", "rms_norm")
def layer_norm(flow: Flow, call: Call) -> Labels:
    """Tie scale and shift to the trailing dimensions that are normalised."""
    x, count = call.x, len(call["normalized_shape"])
    dims = list(x.dims)
    for i in range(count):
        d = len(dims) - count + i
        for name in ("weight", "bias"):
            if call.get(name) is not None:
                dims[d] = flow.unite(dims[d], call[name].dims[i])
        flow.literal(call, "normalized_shape", dims[d], i)
    return Labels(call.shape, tuple(dims))


@rule("group_norm")
def group_norm(flow: Flow, call: Call) -> Labels:
    """Keep groups equally wide: drop whole ones, which changes no statistics, or the same places of each."""
    x, groups = call.x, call["num_groups"]
    ids = x.dims[1]
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            ids = flow.unite(ids, call[name].dims[0])
    if ids is not None and groups > 1:
        lines = ids.reshape(groups, -1)
        whole_groups = groups >= lines.shape[1]
        first = lines[:, :1] if whole_groups else lines[:1]
        flow.unite_all(first, lines)
        flow.literal(call, "num_groups", lines[:, 0] if whole_groups else None)
    return Labels(call.shape, (x.dims[0], ids, *x.dims[2:]))


@rule("prelu")
def prelu(flow: Flow, call: Call) -> Labels:
    """Tie the slopes to the channels, where there is one for each."""
    x, weight = call.x, call["weight"]
    if len(x.shape) < 2 or weight.shape == (1,) or not weight.shape:
        return Labels(call.shape, x.dims)
    return Labels(call.shape, (x.dims[0], flow.unite(x.dims[1], weight.dims[0]), *x.dims[2:]))
