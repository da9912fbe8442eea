"""What each channel of chosen activations held: extremes, mean and deviation, for methods that treat channels apart."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.running import Array, Feeds, not_finite, open_model, run_batches

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelStats:
    """Of one tensor, one entry per channel each; `count` values of every channel were seen."""

    count: int
    minimum: Floats
    maximum: Floats
    mean: Floats
    std: Floats  # of the values seen: divided by `count`

    def joined(self, other: "ChannelStats") -> "ChannelStats":
        """The statistics of what both saw: Chan et al., "Updating formulae and a pairwise algorithm", 1979."""
        count = self.count + other.count
        share = other.count / count
        apart = other.mean - self.mean
        variance = (1 - share) * self.std**2 + share * other.std**2 + share * (1 - share) * apart**2
        return ChannelStats(
            count,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.mean + share * apart,
            np.sqrt(variance),
        )


def channel_stats(
    onnx_path: Path, batches: Iterable[Feeds], names: Collection[str], threads: int = 0, axis: int = 1
) -> dict[str, ChannelStats]:
    """Return the statistics of each channel of the float32 tensors `names`, whose channels lie along `axis`.

    One pass that keeps nothing of a batch, over samples in their order, so that the same data gives the same
    bits; `batches` and `threads` as for `collect.collect`. A tensor that was empty for every sample is missing.

    Raises CalibrationError for what `collect` does, and for a tensor without that axis.
    """
    opened = open_model(onnx_path, names, threads, in_order=True)
    found: dict[str, ChannelStats] = {}

    def show(tensors: Feeds, first: int, n: int) -> None:
        for name, array in tensors.items():
            if array.size:
                if not np.isfinite([array.min(), array.max()]).all():
                    raise not_finite(name, array, first, n)
                stats = _stats(name, array, axis)
                found[name] = found[name].joined(stats) if name in found else stats

    run_batches(opened, batches, show)
    return {name: found[name] for name in opened.names if name in found}


def _stats(name: str, array: Array, axis: int) -> ChannelStats:
    if not -array.ndim <= axis < array.ndim:
        raise CalibrationError(f"tensor {name!r} has shape {array.shape}, which has no axis {axis} of channels")
    others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    mean = array.mean(axis=others, dtype=np.float64, keepdims=True)
    std = np.sqrt(np.square(array - mean).mean(axis=others))
    low, high = (extreme(axis=others).astype(np.float64) for extreme in (array.min, array.max))
    return ChannelStats(array.size // array.shape[axis], low, high, mean.reshape(-1), std)
