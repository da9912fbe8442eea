"""What a layer reads for single positions of its output, as rows of a matrix: a convolution as a product."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.layers import Array, Layer, channels_first

Values = NDArray[np.float32]


def unsupported(layer: Layer) -> str | None:
    """Why `rows` cannot unfold `layer`; None if it can."""
    if layer.node.op_type == "ConvTranspose":
        return "it is transposed"
    if layer.node.op_type == "Gemm" and layer.options.get("transA", 0):
        return "its data is transposed"
    if layer.node.op_type == "Gemm" and layer.options.get("alpha", 1.0) != 1.0:
        return "its product is scaled"
    return "its weight is no matrix" if layer.node.op_type == "MatMul" and layer.weight.ndim != 2 else None


def matrices(layer: Layer, weight: Array) -> Array:
    """The weight as `(groups, outputs of a group, width)`: its product with `rows`, transposed, is the output."""
    flat = channels_first(weight, layer.axis)
    groups = int(layer.options.get("group", 1)) if layer.node.op_type == "Conv" else 1
    return flat.reshape(groups, len(flat) // groups, -1)


def from_matrices(layer: Layer, rows: Array) -> Array:
    """The inverse of `matrices`."""
    axis = layer.axis or 0
    shape = np.moveaxis(layer.weight, axis, 0).shape
    return np.moveaxis(rows.reshape(shape), 0, axis)


def rows(layer: Layer, data: Values, output: Values, positions: NDArray[np.int64]) -> tuple[Values, Values]:
    """What `layer` reads in `data` for some positions of `output`, and what it computes there.

    `positions` count over samples and space (or over rows), channels left out. Returns
    `(groups, positions, width)` and `(positions, channels)`.
    """
    if layer.node.op_type != "Conv":
        flat, out = data.reshape(-1, data.shape[-1]), output.reshape(-1, output.shape[-1])
        return flat[positions][None], out[positions]
    space = output.shape[2:]
    sample, where = np.divmod(positions, int(np.prod(space)))
    out = output.reshape(*output.shape[:2], -1)[sample, :, where]
    return _unfold(layer, data, sample, np.stack(np.unravel_index(where, space))), out


def count(layer: Layer, output: Values) -> int:
    """Number of positions of an output."""
    channels = output.shape[1] if layer.node.op_type == "Conv" else output.shape[-1]
    return int(output.size // channels)


def _unfold(layer: Layer, data: Values, sample: NDArray[np.int64], where: NDArray[np.int64]) -> Values:
    """The windows behind output coordinates `where` `(dimensions, positions)`."""
    geometry = _geometry(layer, data.shape[2:])
    index, inside = np.zeros((where.shape[1], 1), np.int64), np.ones((where.shape[1], 1), bool)
    for size, place, axis in zip(data.shape[2:], where, geometry, strict=True):
        at = place[:, None] * axis.stride - axis.before + np.arange(axis.kernel) * axis.dilation
        index = (index[:, :, None] * size + at[:, None, :]).reshape(len(at), -1)
        inside = (inside[:, :, None] & ((at >= 0) & (at < size))[:, None, :]).reshape(len(at), -1)
    flat = data.reshape(*data.shape[:2], -1)
    # (positions, window, channels); zeros where the window lies over the border
    found = flat[sample[:, None], :, np.where(inside, index, 0)] * inside[:, :, None]
    groups = int(layer.options.get("group", 1))
    windows = found.transpose(0, 2, 1).reshape(len(found), groups, -1)
    return np.ascontiguousarray(windows.transpose(1, 0, 2), np.float32)


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of a convolution."""

    kernel: int
    stride: int
    dilation: int
    before: int  # padding


def _geometry(layer: Layer, sizes: tuple[int, ...]) -> list[_Axis]:
    given = layer.options
    rank = len(sizes)
    strides, dilations = given.get("strides", [1] * rank), given.get("dilations", [1] * rank)
    pads, auto = given.get("pads", [0] * 2 * rank), given.get("auto_pad", b"NOTSET")
    found = []
    for i, size in enumerate(sizes):
        kernel, stride, dilation = layer.weight.shape[2 + i], strides[i], dilations[i]
        before = pads[i]
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            before = total // 2 if auto == b"SAME_UPPER" else total - total // 2
        found.append(_Axis(kernel, stride, dilation, before))
    return found
