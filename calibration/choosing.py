"""The methods for weights, put together: first the float model, then its int8 weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from calibration.adaround import Annealing
from calibration.bias import correct_analytically, correct_empirically, tensors_to_observe
from calibration.equalize import Equalized, absorb, equalize
from calibration.errors import CalibrationError
from calibration.graph import copy_with_constants_lifted, digest
from calibration.layers import layers, with_values
from calibration.moments import channel_stats
from calibration.network import Batches
from calibration.rounding import adaround
from calibration.weights import Weights, chosen

OnLayer = Callable[[str, float, float], object]


@dataclass(frozen=True)
class Chosen:
    """Int8 weights, and what each method left alone: method -> node -> why."""

    weights: Weights
    skipped: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def equalized(model: ModelProto, batches: Batches) -> Equalized:
    """Equalize `model` and absorb its high biases, by statistics of the data: one pass."""
    lifted = copy_with_constants_lifted(model)
    stats = channel_stats(lifted, batches(), [x.output for x in layers(lifted) if x.node.op_type == "Conv"])
    equal = equalize(lifted, stats)
    moved = absorb(equal.model, equal.stats(stats))
    reasons = {f"{name}, bias": why for name, why in moved.skipped.items() if name not in equal.skipped}
    return replace(equal, model=moved.model, skipped={**equal.skipped, **reasons})


def choose(
    model: ModelProto,
    batches: Batches,
    scale: str = "max",
    bias: str = "none",
    annealing: Annealing | None = None,
    on_layer: OnLayer | None = None,
) -> Chosen:
    """Choose scales ("max" or "mse"), integers (AdaRound where `annealing` is given) and biases, in this order.

    `bias` is "none", "analytic" or "empirical". `on_layer` is AdaRound's. Raises CalibrationError.
    """
    lifted = copy_with_constants_lifted(model)
    weights = chosen(lifted, scale)
    skipped: dict[str, Mapping[str, str]] = {}
    if annealing is not None:
        rounded = adaround(lifted, weights, batches, annealing, on_layer)
        weights, skipped["adaround"] = rounded.weights, rounded.skipped
    if bias == "analytic":
        stats = channel_stats(lifted, batches(), tensors_to_observe(lifted, weights))
        corrected = correct_analytically(lifted, weights, stats)
    elif bias == "empirical":
        corrected = correct_empirically(lifted, weights, batches())
    elif bias == "none":
        corrected = None
    else:
        raise CalibrationError(f"bias correction {bias!r}: have none, analytic, empirical")
    if corrected is not None:
        weights, skipped["bias"] = corrected.weights, corrected.skipped
    methods = {"scale": scale, "rounding": "nearest" if annealing is None else "adaround", "bias": bias}
    return Chosen(replace(weights, model=digest(model), methods=methods), skipped)


def carried_over(model: ModelProto, source: ModelProto) -> ModelProto:
    """Return `model`, the same network exported anew, with the weights and biases of `source`.

    Raises CalibrationError where a layer of `source` has no counterpart of its name and shape.
    """
    ours, theirs = ({layer.output: layer for layer in layers(proto)} for proto in (model, source))
    for output, layer in theirs.items():
        own = ours.get(output)
        if own is None or own.name != layer.name or own.weight.shape != layer.weight.shape:
            raise CalibrationError(f"the model exported anew has no layer that computes {output!r} as the first has")
    weights = {layer.name: layer.weight for layer in theirs.values()}
    biases = {output: layer.bias for output, layer in theirs.items() if layer.bias is not None}
    return with_values(model, weights, biases)
