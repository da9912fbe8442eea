"""Cross-layer equalization and absorption of high biases (Nagel et al., Data-Free Quantization, ICCV 2019).

A channel between two convolutions may be divided by any positive number in the first if the second multiplies
by it: a network's function leaves the ranges of its channels open, and int8 wants them alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from calibration.graph import attributes, copy_with_constants_lifted
from calibration.layers import Array, Layer, with_values
from calibration.moments import ChannelStats
from calibration.pairs import Pair, input_ranges, pairs, read_constant, scale_inputs

Values = NDArray[np.float64]
Stats = Mapping[str, ChannelStats]  # of what convolutions compute, by tensor

SWEEPS = 200  # at most; chains of pairs converge geometrically
CONVERGED = 1e-4  # greatest change of a gain in a sweep
SHIFTED = 3.0  # standard deviations below the mean that all of a channel is taken to lie above


@dataclass(frozen=True)
class Equalized:
    """A model with the same function, what was done to it, and what not."""

    model: ModelProto
    pairs: tuple[str, ...]
    gains: Mapping[str, Values]  # what the channels of a tensor were divided by
    skipped: Mapping[str, str]  # convolution, or pair -> why

    def stats(self, before: Stats) -> dict[str, ChannelStats]:
        """What `before`, observed on the model as it was, has become."""
        return {name: s.over(self.gains[name]) if name in self.gains else s for name, s in before.items()}


def equalize(model: ModelProto, stats: Stats | None = None) -> Equalized:
    """Make the ranges of weights alike on both sides of each channel between two convolutions.

    With `r₁` the greatest magnitude of the weights that write a channel and `r₂` of those that read it, it is
    divided by `√(r₁ / r₂)`, pair after pair, until nothing changes.

    `stats` are of what the convolutions compute. With them, no tensor gets a wider range than it had, and pairs
    with a Clip between them (ReLU6) take part: channels that were seen to reach its bound keep their scale,
    the others stay below it. On data that goes further than what was seen, such a channel may be cut off
    differently; int8 ends at what was seen anyhow. Without `stats` those pairs are skipped.

    Fold batch norms first.
    """
    lifted = copy_with_constants_lifted(model)
    found, skipped = pairs(lifted)
    usable = []
    for pair in found:
        if np.isfinite(pair.bound) and not (stats and pair.first.output in stats):
            skipped[pair.name] = f"its Clip cuts off at {pair.bound:g}, and no statistics say what reaches that"
        else:
            usable.append(pair)
    values = _Values(usable)
    least = {pair.first.output: _least_gain(pair, (stats or {}).get(pair.first.output)) for pair in usable}
    gains = {pair.first.output: np.ones(pair.first.channels) for pair in usable}
    for _ in range(SWEEPS):
        changes = [_balance(pair, values, gains[pair.first.output], least[pair.first.output]) for pair in usable]
        if max(changes, default=0.0) < CONVERGED:
            break
    return Equalized(values.written(lifted), tuple(pair.name for pair in usable), gains, skipped)


def absorb(model: ModelProto, stats: Stats) -> Equalized:
    """Move what a channel is always above from the bias of one convolution to that of the next.

    A channel that lies above `c = mean − 3 std > 0` before its ReLU is passed on unchanged, so `c` may be
    taken off before it and added behind the next convolution. Values below `c`, rare by that choice, become 0.
    Skipped where zeros pad the input of the next convolution: there the border would change.

    `stats` are of what the convolutions compute in this `model`.
    """
    lifted = copy_with_constants_lifted(model)
    found, skipped = pairs(lifted)
    usable = []
    for pair in found:
        reason = _not_absorbing(pair, stats)
        if reason is None:
            usable.append(pair)
        else:
            skipped[pair.name] = reason
    biases = {pair.first.output: _bias(pair.first) for pair in usable}
    biases |= {pair.second.output: _bias(pair.second) for pair in usable}
    moved = []
    for pair in usable:
        seen = stats[pair.first.output]
        level = np.maximum(seen.mean - SHIFTED * seen.std, 0)
        if level.any():
            biases[pair.first.output] -= level
            biases[pair.second.output] += read_constant(pair.second, pair.second.weight.astype(np.float64), level)
            moved.append(pair)
    changed = {layer.output for pair in moved for layer in (pair.first, pair.second)}
    shifted = with_values(lifted, {}, {name: bias for name, bias in biases.items() if name in changed})
    return Equalized(shifted, tuple(pair.name for pair in moved), {}, skipped)


class _Values:
    """Weights and biases of the convolutions of some pairs, in float64: rounded once, at the end."""

    def __init__(self, usable: Sequence[Pair]) -> None:
        involved = {layer.output: layer for pair in usable for layer in (pair.first, pair.second)}
        self._layers = involved
        self.weight = {name: layer.weight.astype(np.float64) for name, layer in involved.items()}
        self.bias = {name: _bias(layer) for name, layer in involved.items() if layer.bias is not None}

    def written(self, model: ModelProto) -> ModelProto:
        """A copy of the model that has them."""
        weights: dict[str, Array] = {self._layers[name].name: value for name, value in self.weight.items()}
        return with_values(model, weights, self.bias)


def _balance(pair: Pair, values: _Values, gain: Values, least: Values) -> float:
    """One step for one pair; `gain`, all steps so far, is updated. Returns the greatest change."""
    first, second = pair.first.output, pair.second.output
    writing = np.abs(values.weight[first]).reshape(len(gain), -1).max(axis=1)
    reading = input_ranges(pair.second, values.weight[second])
    alive = (writing > 0) & (reading > 0)
    ratio = np.sqrt(np.divide(writing, reading, out=np.ones_like(gain), where=alive))
    # a channel whose least gain is NaN keeps its scale
    wanted = np.where(alive & ~np.isnan(least), np.maximum(gain * ratio, least), gain)
    step = wanted / gain
    values.weight[first] /= step.reshape([-1] + [1] * (values.weight[first].ndim - 1))
    if first in values.bias:
        values.bias[first] /= step
    scale_inputs(pair.second, values.weight[second], step)
    gain[:] = wanted
    return float(np.abs(np.log(step)).max(initial=0))


def _least_gain(pair: Pair, seen: ChannelStats | None) -> Values:
    """What each channel must at least be divided by; NaN where it must keep its scale."""
    if seen is None:
        return np.zeros(pair.first.channels)
    cut = any(node.op_type in ("Relu", "Clip") for node in pair.between)
    reach = np.maximum(seen.maximum, 0) if cut else np.maximum(np.abs(seen.minimum), np.abs(seen.maximum))
    widest = min(reach.max(initial=0), pair.bound)
    least = reach / widest if widest > 0 else np.zeros_like(reach)
    return np.where(reach >= pair.bound, np.nan, least)


def _bias(layer: Layer) -> Values:
    return np.zeros(layer.channels) if layer.bias is None else layer.bias.astype(np.float64)


def _not_absorbing(pair: Pair, stats: Stats) -> str | None:
    """Why nothing can be moved through `pair`."""
    seen = stats.get(pair.first.output)
    if seen is None:
        return "no statistics of it"
    if np.isfinite(pair.bound) and seen.maximum.max() > pair.bound:
        return f"it reaches {pair.bound:g}, where its Clip cuts off"
    padded = [node for node in (*pair.between, pair.second.node) if _pads_zeros(node)]
    return "zeros pad what the next convolution reads, and would be shifted too" if padded else None


def _pads_zeros(node: NodeProto) -> bool:
    given = attributes(node)
    padded = any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    return padded and node.op_type != "MaxPool"  # which pads with minus infinity
