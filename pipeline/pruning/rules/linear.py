"""Fully connected layers and embeddings."""

from pipeline.pruning.rules.base import Call, Flow, Labels, makes, reads, rule


@rule("linear")
def linear(flow: Flow, call: Call) -> Labels:
    """Tie the input's last dimension to the weight's columns; the weight's rows are the output's channels."""
    x, weight, bias = call.x, call["weight"], call.get("bias")
    flow.unite(x.dims[-1], weight.dims[1])
    reads(flow, weight.dims[1])
    makes(flow, weight.dims[0])
    out = weight.dims[0] if bias is None else flow.unite(weight.dims[0], bias.dims[0])
    return Labels(call.shape, (*x.dims[:-1], out))


@rule("embedding")
def embedding(flow: Flow, call: Call) -> Labels:
    """Look up rows: all of them stay, the entries of each are the output's channels."""
    weight, indices = call["weight"], call["indices"]
    flow.keep(weight.dims[0], *indices.dims)
    makes(flow, weight.dims[1])
    return Labels(call.shape, (*(None for _ in indices.shape), weight.dims[1]))
