"""Scales and zero points: from ranges to the numbers that QuantizeLinear takes. numpy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# below it a scale would be subnormal, or its product with another scale would
LEAST_SCALE = np.float32(2.0**-60)
# half of int32, so that bias and products still add up in it
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class QParams:
    """`real = scale · (q - zero_point)` for a whole tensor; both are 0-d, `zero_point` has the type of q."""

    scale: NDArray[np.float32]
    zero_point: Array


def activation_params(low: float, high: float, dtype: str, symmetric: bool) -> QParams:
    """Return what maps `[low, high]`, widened to hold zero exactly, onto the integers of `dtype`.

    Symmetric: the zero point is fixed (0 for int8, 128 for uint8) and the range is ±max(|low|, |high|) over
    127 steps to each side. A range that is nothing but zero gets scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    info = np.iinfo(dtype)
    middle = int(info.max) // 2 + 1 if info.min == 0 else 0
    span, steps = (max(-low, high), info.max - middle) if symmetric else (high - low, info.max - info.min)
    scale = np.float32(span / float(steps))
    if scale < LEAST_SCALE:
        return QParams(np.asarray(1, np.float32), np.asarray(middle if symmetric else info.min, dtype))
    zero = middle if symmetric else np.clip(np.rint(info.min - low / float(scale)), info.min, info.max)
    return QParams(np.asarray(scale, np.float32), np.asarray(zero, dtype))


def weight_scale(weight: Array, axis: int | None) -> NDArray[np.float32]:
    """Symmetric int8 scale of a weight: `(channels,)` along `axis`, or 0-d without one.

    A dead channel, all zeros, gets the greatest scale of the others (1 if there are none): any would do for
    its weights, this one keeps the bias that goes with it as exact as theirs.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.asarray(np.abs(weight).max(axis=others) / 127, np.float32)
    usable = scale >= LEAST_SCALE
    spare = scale.max() if usable.any() else np.float32(1)
    return np.asarray(np.where(usable, scale, spare), np.float32)


def scale_for_bias(scale: NDArray[np.float32], bias: Array, data_scale: float) -> NDArray[np.float32]:
    """Widen weight scales where the bias, in steps of `data_scale · scale`, would leave int32."""
    least = np.abs(bias) / (data_scale * BIAS_LIMIT)
    return np.asarray(np.maximum(scale, least if scale.ndim else least.max()), np.float32)


def quantize_weight(weight: Array, scale: NDArray[np.float32], axis: int | None) -> NDArray[np.int8]:
    """Round to int8 in -127…127, ties to even."""
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)] if scale.ndim else [1] * weight.ndim
    return np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)


def quantize_bias(bias: Array, scale: NDArray[np.float32]) -> NDArray[np.int32]:
    """Round to int32 in steps of `scale`, the product of the data's and the weight's."""
    return np.rint(bias.astype(np.float64) / scale).astype(np.int32)
