"""Ops that work position by position, with broadcasting: activations, arithmetic, casts, copies and constants."""

from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Call, Flow, Labels, Shape, Value, rule

_ACTIVATIONS = """relu relu6 hardtanh tanh sigmoid silu mish gelu elu selu celu softplus hardswish hardsigmoid
leaky_relu softsign hardshrink softshrink threshold log_sigmoid"""
_FUNCTIONS = """abs neg exp expm1 log log1p log2 sqrt rsqrt square reciprocal erf sin cos tan atan sign floor ceil round
trunc frac clamp clamp_min clamp_max clip isnan isinf isfinite nan_to_num logical_not bitwise_not fill zero copy"""
_COPIES = """dropout feature_dropout alpha_dropout feature_alpha_dropout contiguous clone alias detach
lift_fresh_copy to _to_copy type_as zeros_like ones_like full_like empty_like view_as_real float half"""
_ARITHMETIC = """rsub mul div true_divide floor_divide remainder fmod pow maximum minimum addcmul addcdiv
where masked_fill eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor
__and__ __or__ __xor__ atan2"""
_JOINS = "add sub lerp"


@rule(*f"{_ACTIVATIONS} {_FUNCTIONS} {_COPIES} {_ARITHMETIC}".split())
def elementwise(flow: Flow, call: Call) -> Value:
    """Unite, per dimension, the operands that are as long as the result."""
    return _broadcast(flow, list(call.tensors()), call.shape)


@rule(*_JOINS.split())
def join(flow: Flow, call: Call) -> Value:
    """Unite as all arithmetic does; two activations that are added up share one set of channels from here on."""
    tensors = list(call.tensors())
    result = _broadcast(flow, tensors, call.shape)
    if len([t for t in tensors if not t.source and t.shape == call.shape]) > 1:
        for ids in result.dims:
            flow.mark(ids, "joined")
    return result


def _broadcast(flow: Flow, tensors: list[Labels], shape: Shape) -> Labels:
    return Labels(shape, tuple(_dimension(flow, tensors, shape, d - len(shape)) for d in range(len(shape))))


def _dimension(flow: Flow, tensors: list[Labels], shape: Shape, dim: int) -> Ids | None:
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


@rule("expand", "expand_as", "broadcast_to")
def expand(flow: Flow, call: Call) -> Labels:
    """Repeat one position along a dimension: any number of them can be left."""
    x, fresh = call.x, flow.fresh(call.shape)
    offset = len(call.shape) - len(x.shape)
    dims = [
        *fresh[:offset],
        *(
            ids if n == m else new
            for ids, n, m, new in zip(x.dims, x.shape, call.shape[offset:], fresh[offset:], strict=True)
        ),
    ]
    for d, ids in enumerate(dims):
        if call.op != "expand_as":
            flow.literal(call, "size", ids, d)
    return Labels(call.shape, tuple(dims))


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def constant(flow: Flow, call: Call) -> Labels:
    """One value everywhere: any part of it is as good."""
    dims = flow.fresh(call.shape)
    for d, ids in enumerate(dims):
        flow.literal(call, "size", ids, d)
    return Labels(call.shape, dims)


@rule("arange", "linspace", "eye", "meshgrid", "rand", "randn", "scalar_tensor")
def numbers(flow: Flow, call: Call) -> Value:
    """Values that depend on their place: all of them stay."""
    for tensor in call.tensors():
        flow.keep(*tensor.dims)
    blanks = tuple(Labels.blank(shape) for shape in call.shapes)
    return blanks[0] if len(blanks) == 1 else blanks


@rule("_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range_for_size")
def check(_: Flow, __: Call) -> None:
    """Return nothing."""
