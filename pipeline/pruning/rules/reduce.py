"""Reductions over dimensions, and ops along one that each of its places enters.

A reduction over channels is one over those that are left: sums and norms do not see a zero, means, extremes
and variances would. The channels lose their place but can go.
"""

from pipeline.pruning.rules.base import Call, Flow, Labels, Value, rule


@rule("mean", "sum", "amax", "amin", "max", "min", "logsumexp", "var", "std", "linalg_vector_norm", "norm", "prod")
def reduce(flow: Flow, call: Call) -> Value:
    """Drop the reduced dimensions."""
    x = call.x
    if call.get("other") is not None:  # max and min of two tensors
        return Labels(call.shape, tuple(flow.unite(a, b) for a, b in zip(x.dims, call["other"].dims, strict=True)))
    rank = len(x.shape)
    given = call.get("dim")
    given = (given,) if isinstance(given, int) else given
    gone = {d % rank for d in given} if given else set(range(rank))
    if call.get("keepdim"):
        dims = tuple(None if d in gone else x.dims[d] for d in range(rank))
    else:
        dims = tuple(x.dims[d] for d in range(rank) if d not in gone)
    results = tuple(Labels(shape, dims) for shape in call.shapes)
    return results[0] if len(results) == 1 else results


@rule(
    "softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "cumprod", "flip", "roll", "argmax", "sort", "topk"
)
def along(flow: Flow, call: Call) -> Value:
    """Freeze the dimensions along which every place depends on the others or on its own number."""
    x = call.x
    given = call.get("dim")
    given = call.get("dims") if given is None else given
    given = (given,) if isinstance(given, int) else given
    rank = len(x.shape)
    axes = {d % rank for d in given} if given else set(range(rank))
    flow.keep(*(x.dims[d] for d in axes), reason=call.reason)
    passed = tuple(None if d in axes else ids for d, ids in enumerate(x.dims))
    results = tuple(Labels(s, passed) if len(s) == rank else Labels.blank(s) for s in call.shapes)
    if any(len(s) != rank for s in call.shapes):
        flow.keep(*x.dims, reason=call.reason)
    return results[0] if len(results) == 1 else results
