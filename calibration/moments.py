"""What the channels of a tensor hold over calibration data: mean, deviation, extremes; reduced inside the graph."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from calibration.errors import CalibrationError, listed
from calibration.graph import Names, inferred
from calibration.network import Network
from calibration.running import Array, Feeds

Moments = NDArray[np.float64]

_CHANNELS = 1  # axis of the channels in an activation
_AXES_AS_INPUT = 18  # opset from which reductions take their axes as an input


@dataclass(frozen=True)
class ChannelStats:
    """Of one tensor, per channel (axis 1): all `(channels,)`, float64."""

    mean: Moments
    std: Moments
    minimum: Moments
    maximum: Moments

    def over(self, gain: Moments) -> "ChannelStats":
        """Of the tensor divided by `gain`, positive, per channel."""
        return ChannelStats(self.mean / gain, self.std / gain, self.minimum / gain, self.maximum / gain)


def channel_stats(model: ModelProto, batches: Iterable[Feeds], tensors: Sequence[str]) -> dict[str, ChannelStats]:
    """Observe the channels of `tensors` over all batches, in one pass and constant memory.

    Raises CalibrationError for a tensor without channels, NaN or infinity, or no data.
    """
    return {name: seen.stats() for name, seen in _observed(model, batches, tensors, spread=True).items()}


def channel_means(model: ModelProto, batches: Iterable[Feeds], tensors: Sequence[str]) -> dict[str, Moments]:
    """The means alone of the channels of `tensors`; for a third of the time."""
    return {name: seen.mean for name, seen in _observed(model, batches, tensors, spread=False).items()}


class _Seen:
    """Moments of what has been seen of one tensor, joined as in Chan et al., Updating formulae (1979).

    Each batch's deviation is about its own mean, so that a small one beside a large mean is not lost.
    """

    def __init__(self) -> None:
        self._count = 0.0
        self.mean: Moments = np.zeros(1)
        self._square: Moments = np.zeros(1)  # summed, about the mean
        self._minimum: Moments = np.full(1, np.inf)
        self._maximum: Moments = np.full(1, -np.inf)

    def update(self, shape: Array, mean: Array, spread: Sequence[Array]) -> None:
        """Take in a batch of `shape`: its mean and, where wanted, variance, minimum and maximum per channel."""
        count = float(np.prod(shape) / shape[_CHANNELS])
        if not count:
            return
        total = self._count + count
        shift = mean.astype(np.float64) - self.mean
        self.mean = self.mean + shift * (count / total)
        if spread:
            variance, low, high = spread
            self._square = self._square + variance.astype(np.float64) * count
            self._square += np.square(shift) * (self._count * count / total)
            self._minimum, self._maximum = np.minimum(self._minimum, low), np.maximum(self._maximum, high)
        self._count = total

    def check(self, name: str) -> None:
        """Raise CalibrationError unless something was seen, all of it finite."""
        if not self._count:
            raise CalibrationError("the calibration data has no samples: give at least one")
        if not np.isfinite(self.mean).all():
            raise CalibrationError(f"tensor {name!r} is NaN or infinite on the calibration data: check the samples")

    def stats(self) -> ChannelStats:
        return ChannelStats(self.mean, np.sqrt(self._square / self._count), self._minimum, self._maximum)


def _observed(model: ModelProto, batches: Iterable[Feeds], tensors: Sequence[str], spread: bool) -> dict[str, _Seen]:
    if not tensors:
        return {}
    reducing, fetches = _reducing(model, tensors, spread)
    network = Network(reducing, [name for row in fetches.values() for name in row])
    seen = {name: _Seen() for name in tensors}
    for found in network(batches):
        for name, (shape, mean, *rest) in fetches.items():
            seen[name].update(found[shape], found[mean], [found[other] for other in rest])
    for name, one in seen.items():
        one.check(name)
    return seen


def _reducing(model: ModelProto, tensors: Sequence[str], spread: bool) -> tuple[ModelProto, dict[str, list[str]]]:
    """A copy of the model that computes moments of `tensors`, and the names of theirs: shape, mean, then spread."""
    copy = ModelProto()
    copy.CopyFrom(model)
    ranks = _ranks(copy)
    without = [name for name in tensors if ranks.get(name, 0) <= _CHANNELS]
    if without:
        raise CalibrationError(f"{listed(without)} have no channels, or shape inference cannot tell")
    writer = _Writer(copy)
    return copy, {name: writer.moments(name, ranks[name], spread) for name in tensors}


def _ranks(model: ModelProto) -> dict[str, int]:
    """Numbers of dimensions, as inferred; what a weight is read with or makes has the weight's, whatever is known."""
    graph = inferred(model)
    values = (*graph.input, *graph.value_info, *graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    weights = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.input[1] in weights:
            for name in (node.input[0], node.output[0]):
                ranks[name] = weights[node.input[1]]
    return ranks


class _Writer:
    """Adds reductions to a graph."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._names = Names(model.graph)
        self._opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))

    def moments(self, name: str, rank: int, spread: bool) -> list[str]:
        """Names of the shape and the mean of a tensor; of its variance, minimum and maximum if wanted."""
        axes = [i for i in range(rank) if i != _CHANNELS]
        found = [self._node("Shape", [name]), self._reduce("ReduceMean", name, axes, keep=False)]
        if spread:
            centred = self._node("Sub", [name, self._reduce("ReduceMean", name, axes, keep=True)])
            found.append(self._reduce("ReduceMean", self._node("Mul", [centred, centred]), axes, keep=False))
            found += [self._reduce(op, name, axes, keep=False) for op in ("ReduceMin", "ReduceMax")]
        return found

    def _reduce(self, op: str, source: str, axes: list[int], keep: bool) -> str:
        if self._opset < _AXES_AS_INPUT:
            return self._node(op, [source], axes=axes, keepdims=int(keep))
        name = self._names.fresh(f"{source}_axes")
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(axes, np.int64), name))
        return self._node(op, [source, name], keepdims=int(keep))

    def _node(self, op: str, inputs: list[str], **options: Any) -> str:
        name = self._names.fresh(f"{inputs[0]}_{op}")
        self._graph.node.append(helper.make_node(op, inputs, [name], name, **options))
        return name
