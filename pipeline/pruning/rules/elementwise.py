"""Ops that work position by position, with broadcasting: activations, arithmetic, casts and copies."""

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, rule

_ACTIVATIONS = """relu relu6 hardtanh tanh sigmoid silu mish gelu elu selu celu softplus hardswish hardsigmoid
leaky_relu softsign hardshrink softshrink threshold log_sigmoid"""
_FUNCTIONS = """abs neg exp log sqrt rsqrt square reciprocal erf sin cos sign floor ceil round clamp clamp_min
clamp_max clip isnan nan_to_num logical_not"""
_COPIES = """dropout feature_dropout alpha_dropout contiguous clone alias detach lift_fresh_copy to
_to_copy type_as zeros_like ones_like"""
_ARITHMETIC = """add sub rsub mul div true_divide pow maximum minimum lerp addcmul where masked_fill
eq ne lt le gt ge logical_and logical_or"""


@rule(*f"{_ACTIVATIONS} {_FUNCTIONS} {_COPIES} {_ARITHMETIC}".split())
def elementwise(flow: Flow, call: Call) -> Labels:
    """Unite, per dimension, the operands that are as long as the result."""
    shape, tensors = call.shape, list(call.tensors())
    return Labels(shape, tuple(_dimension(flow, tensors, shape, d - len(shape)) for d in range(len(shape))))


def _dimension(flow: Flow, tensors: list[Labels], shape: tuple[int, ...], dim: int) -> Ids | None:
    """Return the ids of the result's dimension `dim`, which counts from the end as broadcasting does."""
    operands = [t for t in tensors if len(t.shape) >= -dim]
    for t in operands:
        if t.shape[dim] != shape[dim]:
            flow.keep(t.dims[dim])  # one channel spread over many is not one of them
    full = [t.dims[dim] for t in operands if t.shape[dim] == shape[dim]]
    ids = full[0] if full else None
    for other in full[1:]:
        ids = flow.unite(ids, other)
    return ids


@rule("expand", "expand_as")
def expand(flow: Flow, call: Call) -> Labels:
    """Broadcast one tensor to a shape."""
    x = call["self"]
    return Labels(call.shape, tuple(_dimension(flow, [x], call.shape, d) for d in range(-len(call.shape), 0)))
