"""Normalisation whose statistics stay within a channel."""

from pipeline.pruning.rules.base import Call, Flow, Labels, rule


@rule("batch_norm")
def batch_norm(flow: Flow, call: Call) -> Labels:
    """Tie scale, shift and running statistics to the channels."""
    x = call["input"]
    ids = x.dims[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            ids = flow.unite(ids, call[name].dims[0])
    return Labels(call.shape, (x.dims[0], ids, *x.dims[2:]))
