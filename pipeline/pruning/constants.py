"""Which activations do not depend on the model's input, and their values: constants propagated over the graph.

A value is a float64 tensor in which NaN means "depends on the input"; floating-point arithmetic then does the
propagation by itself. Dimensions along which a value does not vary have length 1, so most values are one number
per channel. Only what holds for inputs of every size counts: a constant that meets zero padding is none any more.
Inputs and weights are taken to be finite, so that zero times an input is zero.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from pipeline.pruning.products import PRODUCTS, product
from pipeline.pruning.rules.base import Shape
from pipeline.pruning.trace import Captured, arguments, op_name, shapes_of, split_by_schema

Value = Tensor | tuple[Tensor, ...] | None
Rule = Callable[[fx.Node, Mapping[str, Any]], Any]


def constants(captured: Captured, tensors: Mapping[str, Tensor]) -> dict[fx.Node, Value]:
    """Return the value of every node; parameters and buffers, by name in `tensors`, are known as they are."""
    values: dict[fx.Node, Value] = {}
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            held = captured.constants.get(node.name, tensors.get(captured.tensors.get(node.name, "")))
            known = held is not None and held.is_floating_point()
            values[node] = held.detach().cpu() if held is not None and known else _unknown(node)
        elif node.op == "call_function":
            values[node] = _call(node, values)
            _forget_written(node, values)
    return values


def understood(node: fx.Node) -> bool:
    """Whether it is known here what the op does to each channel."""
    name = op_name(node)
    return name in _RULES or name.startswith("_assert") or node.target is operator.getitem


def _call(node: fx.Node, values: Mapping[fx.Node, Value]) -> Value:
    if node.target is operator.getitem:
        source, index = node.args
        several = values[source] if isinstance(source, fx.Node) else None
        return several[index] if isinstance(several, tuple) and isinstance(index, int) else _unknown(node)
    rule = _RULES.get(op_name(node))
    if rule is None or not _floating(node):
        return _unknown(node)
    result = rule(node, {name: _known(a, values) for name, a in arguments(node).items()})
    return tuple(_compact(r) for r in result) if isinstance(result, tuple | list) else _compact(result)


def _known(value: Any, values: Mapping[fx.Node, Value]) -> Any:
    """Replace graph nodes by their values."""
    if isinstance(value, fx.Node):
        return values[value]
    return [_known(v, values) for v in value] if isinstance(value, list | tuple) else value


def _unknown(node: fx.Node) -> Value:
    several = tuple(torch.full((1,) * len(s), torch.nan, dtype=torch.float64) for s in shapes_of(node))
    return several[0] if len(several) == 1 else several or None


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    several = value if isinstance(value, tuple | list) else (value,)
    return all(isinstance(v, Tensor) and v.is_floating_point() for v in several)


def _compact(value: Tensor) -> Tensor:
    """Shorten to length 1 every dimension along which nothing varies."""
    for d in range(value.ndim):
        first = value.narrow(d, 0, 1) if value.shape[d] > 1 else value
        if first is not value and bool(((value == first) | (value.isnan() & first.isnan())).all()):
            value = first
    return value


def _forget_written(node: fx.Node, values: dict[fx.Node, Value]) -> None:
    """What an in-place op writes to, and all that it is a view of, no longer has the value it was given."""
    written = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    while written and isinstance(source := node.args[0], fx.Node):
        values[source] = _unknown(source)
        written = op_name(source) in _VIEWS.split() or source.target is operator.getitem
        node = source


def _functional(node: fx.Node) -> Any:
    """Return a node's op in its form that does not write in place."""
    return getattr(getattr(torch.ops.aten, op_name(node)), str(node.target._overloadname))  # type: ignore[union-attr]


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double()
    return [_double(v) for v in value] if isinstance(value, list) else value


def _elementwise(node: fx.Node, given: Mapping[str, Any]) -> Any:
    wide = {name: None if name == "dtype" else _double(a) for name, a in given.items()}
    positional, keyword = split_by_schema(node, wide)
    return _functional(node)(*positional, **keyword)


def _full(node: fx.Node, given: Mapping[str, Any]) -> Any:
    """Run an op on tensors of their full shapes."""
    return _elementwise(node, {n: _expanded(a, given[n]) for n, a in arguments(node).items()})


def _expanded(argument: Any, value: Any) -> Any:
    if isinstance(argument, fx.Node):
        return value.expand(shapes_of(argument)[0])
    if isinstance(argument, list | tuple):
        return [_expanded(a, v) for a, v in zip(argument, value, strict=True)]
    return value


def _copy(_: fx.Node, given: Mapping[str, Any]) -> Any:
    x = next(iter(given.values())).double()
    return torch.where(x == 0, x, torch.nan) if given.get("train") else x


def _multiply(node: fx.Node, given: Mapping[str, Any]) -> Any:
    a, b = (torch.as_tensor(given[name], dtype=torch.float64) for name in ("self", "other"))
    return torch.where((a == 0) | (b == 0), 0.0, a * b)


def _reshape(node: fx.Node, given: Mapping[str, Any]) -> Any:
    first = next(iter(arguments(node)))
    return _expanded(arguments(node)[first], given[first]).double().reshape(shapes_of(node)[0])


def _pool(node: fx.Node, given: Mapping[str, Any]) -> Any:
    """Pass what does not vary over positions, for windows that see nothing but the channel."""
    x = next(iter(given.values())).double()
    spatial = range(-next(int(c) for c in op_name(node) if c.isdigit()), 0)
    varied = any(x.shape[d] > 1 for d in spatial)
    diluted = any(given.get("padding") or ()) and given.get("count_include_pad")
    if varied or diluted or given.get("divisor_override"):
        x = torch.where(x == 0, x, torch.nan).amax(tuple(spatial), keepdim=True)
    return x


def _pad(node: fx.Node, given: Mapping[str, Any]) -> Any:
    """Padding that repeats what is there, or what is equal to it, adds nothing new."""
    x, amounts = given["self"].double(), given["pad"]
    repeats = given.get("mode", "constant") != "constant"
    padded = [x.ndim - 1 - i // 2 for i, n in enumerate(amounts) if n]
    same = repeats or bool((x == (given["value"] or 0)).all())
    if not padded or (same and all(x.shape[d] == 1 for d in padded)):
        return x
    return _unknown(node) if repeats else _full(node, given)


def _batch_norm(_: fx.Node, given: Mapping[str, Any]) -> Any:
    x = given["input"].double()

    def along(name: str, default: float) -> Tensor:
        tensor = given[name]
        tensor = torch.tensor([default]) if tensor is None else tensor
        return tensor.double().reshape(1, -1, *(1 for _ in range(x.ndim - 2)))

    weight, bias = along("weight", 1.0), along("bias", 0.0)
    y = (x - along("running_mean", 0.0)) / (along("running_var", 1.0) + given["eps"]).sqrt()
    if given["training"]:
        y = torch.full_like(y, torch.nan)
    return torch.where(weight == 0, bias, y * weight + bias)


def _product(node: fx.Node, given: Mapping[str, Any]) -> Any:
    weight = _expanded(arguments(node)["weight"], given["weight"])
    layer = product(op_name(node), {**given, "weight": weight})
    shape: Shape = shapes_of(node)[0]
    return layer.constants().reshape(*(-1 if d == layer.axis else 1 for d in range(len(shape))))


_VIEWS = """permute transpose swapaxes view reshape flatten unflatten squeeze unsqueeze select slice split chunk
expand expand_as view_as alias detach unbind narrow"""
_ELEMENTWISE = """relu relu6 hardtanh tanh sigmoid silu mish gelu elu selu celu softplus hardswish hardsigmoid
leaky_relu softsign hardshrink softshrink threshold log_sigmoid abs neg exp log sqrt rsqrt square reciprocal erf
sin cos clamp clamp_min clamp_max add sub rsub div maximum minimum pow"""
_COPIES = "dropout feature_dropout alpha_dropout contiguous clone alias detach to _to_copy"
_RESHAPES = "view reshape _unsafe_view flatten unflatten squeeze unsqueeze"
_OTHERS = """prelu cat concat stack permute transpose swapaxes select slice split chunk expand mean sum amax amin
pixel_shuffle pixel_unshuffle"""
_POOLS = [f"{kind}{n}d" for kind in ("max_pool", "avg_pool", "adaptive_avg_pool") for n in (1, 2, 3)]
_RESIZES = ["upsample_nearest1d", *(f"upsample_{kind}2d" for kind in ("nearest", "bilinear", "bicubic"))]

# every op here returns NaN for NaN; comparisons and choices (where, masked_fill, topk) would hide it
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_COPIES.split(), _copy),
    **dict.fromkeys(_RESHAPES.split(), _reshape),
    **dict.fromkeys(_OTHERS.split(), _full),
    **dict.fromkeys([*_POOLS, *_RESIZES], _pool),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(PRODUCTS, _product),
    "mul": _multiply,
    "batch_norm": _batch_norm,
}
