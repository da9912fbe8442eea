"""Scales and zero points: from ranges to the numbers that QuantizeLinear takes. numpy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.layers import along, channels_first
from calibration.scheme import Scheme

Array = NDArray[Any]

LIMIT = 127  # of weights, to both sides: -128 would make the grid lopsided, and TensorRT refuses zero points
# What a pair of products of u8 and s8 can add up to without saturating int16: 2 · 255 · 64 = 32640. The int8
# kernels of x86 CPUs without VNNI add pairs so (VPMADDUBSW; onnxruntime#14642).
REDUCED = 64
# Shares that the widest scale is shrunk by, in the search for the closest. Below a third only a channel with a
# single outlier is well served, which rounding would lose; the fine grid spans one step of the coarse one.
COARSE = tuple(-k / 32 for k in range(1, 22))
FINE = tuple(k / 256 for k in range(7, -8, -1) if k)

# below it a scale would be subnormal, or its product with another scale would
LEAST_SCALE = np.float32(2.0**-60)
# half of int32, so that bias and products still add up in it
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class QParams:
    """`real = scale · (q - zero_point)` for a whole tensor; both are 0-d, `zero_point` has the type of q."""

    scale: NDArray[np.float32]
    zero_point: Array


def activation_params(low: float, high: float, scheme: Scheme) -> QParams:
    """Return what maps `[low, high]`, widened to hold zero exactly, onto the integers of `scheme.activation`.

    Symmetric: the zero point is fixed (0 for int8, 128 for uint8) and the range is ±max(|low|, |high|) over
    127 steps to each side. A range to both sides of zero that is `scheme.centred` times as long with the zero
    point in the middle, or less, has it there too. A range that is nothing but zero gets scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    info = np.iinfo(scheme.activation)
    middle = int(info.max) // 2 + 1 if info.min == 0 else 0
    above, all_steps = int(info.max) - middle, int(info.max) - int(info.min)
    even = max(-low / (above + 1), high / above)
    centred = scheme.centred > 1 and low < 0 < high and even * all_steps <= scheme.centred * (high - low)
    fixed = scheme.symmetric or centred
    span = max(-low, high) / above if scheme.symmetric else even if centred else (high - low) / all_steps
    scale = np.float32(span)
    if scale < LEAST_SCALE:
        return QParams(np.asarray(1, np.float32), np.asarray(middle if fixed else info.min, info.dtype))
    zero = middle if fixed else np.clip(np.rint(info.min - low / float(scale)), info.min, info.max)
    return QParams(np.asarray(scale, np.float32), np.asarray(zero, info.dtype))


def weight_limit(scheme: Scheme) -> int:
    """Greatest magnitude of an int8 weight in `scheme`."""
    return REDUCED if scheme.reduced_range else LIMIT


def weight_scale(weight: Array, axis: int | None, limit: int = LIMIT) -> NDArray[np.float32]:
    """Symmetric int8 scale of a weight that clips nothing: `(channels,)` along `axis`, or 0-d without one.

    A dead channel, all zeros, gets the greatest scale of the others (1 if there are none): any would do for
    its weights, this one keeps the bias that goes with it as exact as theirs.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return _living(np.asarray(np.abs(weight).max(axis=others) / limit, np.float32))


def closest_weight_scale(weight: Array, axis: int | None, limit: int = LIMIT) -> NDArray[np.float32]:
    """Symmetric int8 scale of least squared error: clips a few weights where that pays in finer steps.

    Searched among shrunk `weight_scale`s, per channel: a coarse grid, then a fine one about its best. Never
    worse than `weight_scale`; of scales that are equally good, the greatest.
    """
    widest = weight_scale(weight, axis, limit)
    rows = channels_first(weight, axis).astype(np.float32)
    best = np.ones(len(rows), np.float32)
    least = _squared_error(rows, widest.reshape(-1), limit)
    for offsets in (COARSE, FINE):
        centre = best
        for offset in offsets:
            factor = np.minimum(centre + np.float32(offset), np.float32(1))
            error = _squared_error(rows, widest.reshape(-1) * factor, limit)
            better = error < least
            best, least = np.where(better, factor, best), np.where(better, error, least)
    return np.asarray((widest.reshape(-1) * best).reshape(widest.shape), np.float32)


def scale_for_bias(scale: NDArray[np.float32], bias: Array, data_scale: float) -> NDArray[np.float32]:
    """Widen weight scales where the bias, in steps of `data_scale · scale`, would leave int32."""
    least = np.abs(bias) / (data_scale * BIAS_LIMIT)
    return np.asarray(np.maximum(scale, least if scale.ndim else least.max()), np.float32)


def quantize_weight(
    weight: Array, scale: NDArray[np.float32], axis: int | None, limit: int = LIMIT
) -> NDArray[np.int8]:
    """Round to int8 in -limit…limit, ties to even."""
    return np.clip(np.rint(weight / along(scale, axis, weight.ndim)), -limit, limit).astype(np.int8)


def dequantize_weight(integers: NDArray[np.int8], scale: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """What DequantizeLinear makes of them."""
    return np.asarray(integers * along(scale, axis, integers.ndim), np.float32)


def quantize_bias(bias: Array, scale: NDArray[np.float32]) -> NDArray[np.int32]:
    """Round to int32 in steps of `scale`, the product of the data's and the weight's."""
    return np.rint(bias.astype(np.float64) / scale).astype(np.int32)


def _living(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    usable = scale >= LEAST_SCALE
    spare = scale.max() if usable.any() else np.float32(1)
    return np.asarray(np.where(usable, scale, spare), np.float32)


def _squared_error(rows: NDArray[np.float32], scale: NDArray[np.float32], limit: int) -> NDArray[np.float64]:
    """Of rounding each of `rows` by its own scale, summed per row."""
    steps = scale[:, None]
    error = rows / steps
    np.rint(error, out=error)
    np.clip(error, -limit, limit, out=error)
    error *= steps
    error -= rows
    found: NDArray[np.float64] = np.einsum("ij,ij->i", error, error, dtype=np.float64)
    return found
