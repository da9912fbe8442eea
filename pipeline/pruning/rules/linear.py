"""Fully connected layers."""

from pipeline.pruning.rules.base import Call, Flow, Labels, Role, rule


@rule("linear")
def linear(flow: Flow, call: Call) -> Labels:
    """Tie the input's last dimension to the weight's columns; the weight's rows are the output's channels."""
    x, weight, bias = call["input"], call["weight"], call.get("bias")
    flow.unite(x.dims[-1], weight.dims[1])
    flow.mark(weight, 1, Role.IN)
    flow.mark(weight, 0, Role.OUT)
    out = weight.dims[0] if bias is None else flow.unite(weight.dims[0], bias.dims[0])
    return Labels(call.shape, (*x.dims[:-1], out))
