"""Reductions over dimensions, and softmax."""

from pipeline.pruning.rules.base import Call, Flow, Labels, rule


@rule("mean", "sum", "amax", "amin", "logsumexp", "var", "std")
def reduce(flow: Flow, call: Call) -> Labels:
    """Drop the reduced dimensions; channels that are summed up no longer have a place of their own."""
    x = call["self"]
    rank = len(x.shape)
    given = call.get("dim")
    given = (given,) if isinstance(given, int) else given
    gone = {d % rank for d in given} if given else set(range(rank))
    flow.keep(*(x.dims[d] for d in gone), reason=f"aten.{call.op}")
    if call.get("keepdim"):
        return Labels(call.shape, tuple(None if d in gone else x.dims[d] for d in range(rank)))
    return Labels(call.shape, tuple(x.dims[d] for d in range(rank) if d not in gone))


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(flow: Flow, call: Call) -> Labels:
    """Freeze the dimension that is normalised: each of its entries depends on all of them."""
    x = call["self"]
    flow.keep(x.dims[call["dim"]], reason=f"aten.{call.op}")
    return Labels(call.shape, x.dims)
