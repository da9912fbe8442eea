"""ONNX operators as torch computes them, for graphs that are trained: differentiable, and of any batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError

Given: TypeAlias = Mapping[str, Any]  # attributes of a node
Inputs: TypeAlias = Sequence[Tensor | None]  # None: an optional input that is left out
Op: TypeAlias = Callable[..., Tensor | tuple[Tensor, ...]]

OPS: dict[str, Op] = {}  # by operator type: a function of the attributes and the inputs


def supported() -> tuple[str, ...]:
    """Names of the operators, sorted."""
    return tuple(sorted(OPS))


def _op(*names: str) -> Callable[[Op], Op]:
    def register(function: Op) -> Op:
        OPS.update(dict.fromkeys(names, function))
        return function

    return register


_POINTWISE: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Div": torch.div,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "Dropout": lambda x, *_: x,
    "MatMul": torch.matmul,
    "Mish": F.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pow": torch.pow,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
}


def _without_attributes(function: Callable[..., Any]) -> Op:
    return lambda given, *x: function(*x)


OPS.update({name: _without_attributes(function) for name, function in _POINTWISE.items()})


@_op("Clip")
def _clip(given: Given, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, low, high) if low is not None or high is not None else x


@_op("LeakyRelu")
def _leaky(given: Given, x: Tensor) -> Tensor:
    return F.leaky_relu(x, given.get("alpha", 0.01))


@_op("Elu")
def _elu(given: Given, x: Tensor) -> Tensor:
    return F.elu(x, given.get("alpha", 1.0))


@_op("PRelu")
def _prelu(given: Given, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@_op("HardSigmoid")
def _hardsigmoid(given: Given, x: Tensor) -> Tensor:
    return torch.clamp(given.get("alpha", 0.2) * x + given.get("beta", 0.5), 0, 1)


@_op("Gelu")
def _gelu(given: Given, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=_text(given.get("approximate", b"none")))


@_op("Softmax")
def _softmax(given: Given, x: Tensor) -> Tensor:
    return torch.softmax(x, given.get("axis", -1))


@_op("Conv")
def _conv(given: Given, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dims = weight.ndim - 2
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    x, padding = _padded(given, x, weight.shape[2:])
    return function(
        x,
        weight,
        bias,
        given.get("strides", [1] * dims),
        padding,
        given.get("dilations", [1] * dims),
        given.get("group", 1),
    )


@_op("ConvTranspose")
def _conv_transpose(given: Given, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dims = weight.ndim - 2
    if given.get("output_shape") or _text(given.get("auto_pad", b"NOTSET")) != "NOTSET":
        raise UserError("ConvTranspose with output_shape or auto_pad cannot be trained; export it with pads")
    begin, end = _pads(given, dims)
    extra = [more + b - e for more, b, e in zip(given.get("output_padding", [0] * dims), begin, end, strict=True)]
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    return function(
        x,
        weight,
        bias,
        given.get("strides", [1] * dims),
        begin,
        extra,
        given.get("group", 1),
        given.get("dilations", [1] * dims),
    )


@_op("Gemm")
def _gemm(given: Given, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if given.get("transA", 0) else a
    product: Tensor = a @ (b.T if given.get("transB", 0) else b) * given.get("alpha", 1.0)
    return product if c is None else product + given.get("beta", 1.0) * c


@_op("BatchNormalization")
def _batch_norm(given: Given, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, given.get("epsilon", 1e-5))


@_op("LayerNormalization")
def _layer_norm(given: Given, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[given.get("axis", -1) :], scale, bias, given.get("epsilon", 1e-5))


@_op("MaxPool")
def _max_pool(given: Given, x: Tensor) -> Tensor:
    kernel = given["kernel_shape"]
    dims = len(kernel)
    begin, end = _pads(given, dims)
    x = F.pad(x, _sides(begin, end), value=-torch.inf) if any((*begin, *end)) else x
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    pooled: Tensor = function(
        x,
        kernel,
        given.get("strides", [1] * dims),
        0,
        given.get("dilations", [1] * dims),
        bool(given.get("ceil_mode", 0)),
    )
    return pooled


@_op("AveragePool")
def _average_pool(given: Given, x: Tensor) -> Tensor:
    kernel = given["kernel_shape"]
    dims = len(kernel)
    begin, end = _pads(given, dims)
    if list(begin) != list(end) and not given.get("count_include_pad", 0):
        raise UserError("AveragePool with uneven pads that do not count cannot be trained")
    if list(begin) != list(end):
        x, begin = F.pad(x, _sides(begin, end)), [0] * dims
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    pooled: Tensor = function(
        x,
        kernel,
        given.get("strides", [1] * dims),
        begin,
        bool(given.get("ceil_mode", 0)),
        bool(given.get("count_include_pad", 0)),
    )
    return pooled


@_op("GlobalAveragePool")
def _global_average(given: Given, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@_op("GlobalMaxPool")
def _global_max(given: Given, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@_op("ReduceMean")
def _reduce_mean(given: Given, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = given.get("axes", list(range(x.ndim))) if axes is None else axes.tolist()
    return x.mean(tuple(chosen), keepdim=bool(given.get("keepdims", 1)))


@_op("Concat")
def _concat(given: Given, *parts: Tensor) -> Tensor:
    return torch.cat(parts, given["axis"])


@_op("Flatten")
def _flatten(given: Given, x: Tensor) -> Tensor:
    axis = given.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), -1)


@_op("Reshape")
def _reshape(given: Given, x: Tensor, shape: Tensor) -> Tensor:
    wanted = [
        x.shape[i] if size == 0 and not given.get("allowzero", 0) else size for i, size in enumerate(shape.tolist())
    ]
    if wanted and wanted[0] == 1 and x.shape[0] != 1:  # a graph of batch 1, which here has more samples
        wanted[0] = x.shape[0]
    return x.reshape(wanted)


@_op("Squeeze")
def _squeeze(given: Given, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = given.get("axes") if axes is None else axes.tolist()
    return x.squeeze(tuple(chosen)) if chosen is not None else x.squeeze()


@_op("Unsqueeze")
def _unsqueeze(given: Given, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = given["axes"] if axes is None else axes.tolist()
    for axis in sorted(a % (x.ndim + len(chosen)) for a in chosen):
        x = x.unsqueeze(axis)
    return x


@_op("Transpose")
def _transpose(given: Given, x: Tensor) -> Tensor:
    return x.permute(given.get("perm", list(range(x.ndim))[::-1]))


@_op("Pad")
def _pad(given: Given, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    mode = _text(given.get("mode", b"constant"))
    if axes is not None or mode not in ("constant", "reflect"):
        raise UserError(f"Pad with axes, or of mode {mode}, cannot be trained")
    begin, end = pads[: x.ndim].tolist(), pads[x.ndim :].tolist()
    if mode == "reflect":
        return F.pad(x, _sides(begin[2:], end[2:]), mode="reflect")
    return F.pad(x, _sides(begin, end), value=0.0 if value is None else float(value))


@_op("Slice")
def _slice(
    given: Given, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    chosen = list(range(len(starts))) if axes is None else axes.tolist()
    stride = [1] * len(starts) if steps is None else steps.tolist()
    index: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(chosen, starts.tolist(), ends.tolist(), stride, strict=True):
        if step < 0:
            raise UserError("Slice with a negative step cannot be trained")
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@_op("Split")
def _split(given: Given, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = given.get("axis", 0)
    if sizes is not None:
        return torch.split(x, sizes.tolist(), axis)
    return x.chunk(given["num_outputs"], axis)


def _pads(given: Given, dims: int) -> tuple[list[int], list[int]]:
    """Return the pads at the beginning and at the end of every axis."""
    if _text(given.get("auto_pad", b"NOTSET")) not in ("NOTSET", "VALID"):
        raise UserError("pooling with auto_pad cannot be trained; export it with pads")
    pads = given.get("pads", [0] * (2 * dims))
    return list(pads[:dims]), list(pads[dims:])


def _padded(given: Given, x: Tensor, kernel: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return the input and the pads that a convolution itself shall add, the same at both ends."""
    dims = len(kernel)
    mode = _text(given.get("auto_pad", b"NOTSET"))
    if mode.startswith("SAME"):
        begin, end = _same(given, x, kernel, mode == "SAME_UPPER")
    else:
        begin, end = _pads(given, dims)
    return (x, begin) if begin == end else (F.pad(x, _sides(begin, end)), [0] * dims)


def _same(given: Given, x: Tensor, kernel: Sequence[int], upper: bool) -> tuple[list[int], list[int]]:
    """Return the pads that keep ceil(size / stride) positions."""
    dims = len(kernel)
    begin, end = [], []
    for size, k, stride, dilation in zip(
        x.shape[2:], kernel, given.get("strides", [1] * dims), given.get("dilations", [1] * dims), strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        begin.append(less if upper else more)
        end.append(more if upper else less)
    return begin, end


def _sides(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Return pads as torch takes them: of the last axis first, both ends of it together."""
    return [side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
