"""AdaRound (Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020).

Rounding each weight to nearest is not what changes a layer's output least: errors of weights that see the same
data may cancel. Layer by layer, in graph order, the way each weight is rounded is chosen on data, to give from
what the rounded network computes so far what the float network computes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration import windows
from calibration.adaround import Annealing, Problem, solve
from calibration.errors import CalibrationError
from calibration.graph import Index, index, label
from calibration.layers import Layer, along
from calibration.network import Batches, Network
from calibration.pairs import clip_bounds
from calibration.runs import size
from calibration.weights import Weights

Values = NDArray[np.float32]

ROWS = 8192  # positions of a layer's output, over all samples
MOST_VALUES = 1 << 26  # of a layer's input, unfolded: 256 MB
OnLayer = Callable[[str, float, float], object]  # name, error of nearest, error now


@dataclass(frozen=True)
class Rounded:
    """Weights with integers, and the layers left at nearest, by name, with the reason."""

    weights: Weights
    skipped: Mapping[str, str]
    errors: Mapping[str, tuple[float, float]]  # of each layer: nearest, and now; shares of the output's power


def adaround(
    model: ModelProto,
    weights: Weights,
    batches: Batches,
    annealing: Annealing | None = None,
    on_layer: OnLayer | None = None,
    seed: int = 0,
) -> Rounded:
    """Choose integers for the layers that `weights` have scales for.

    Each layer takes one pass over the batches through what comes before it; kept are `ROWS` of its positions,
    at most `MOST_VALUES` numbers. The same `seed` and data give the same integers.

    Raises CalibrationError if the data has no samples.
    """
    found = index(model.graph)
    annealing = annealing or Annealing()
    skipped: dict[str, str] = {}
    errors: dict[str, tuple[float, float]] = {}
    samples = sum(size(batch) for batch in batches())
    if not samples:
        raise CalibrationError("the calibration data has no samples: give at least one")
    tensors = dict(weights.tensors)
    for number, layer in enumerate(weights.layers(model)):
        reason = _unable(layer, found)
        if reason is not None:
            skipped[label(layer.node)] = reason
            continue
        rng = np.random.default_rng((seed, number))
        so_far = replace(weights, tensors=tensors)
        problem = _problem(model, layer, so_far, _Sampler(batches, samples, rng))
        if problem is None:
            skipped[label(layer.node)] = "its output is zero on all of the data"
            continue
        integers = solve(problem, annealing, seed + number)
        tensors[layer.name] = replace(
            tensors[layer.name], integers=np.ascontiguousarray(windows.from_matrices(layer, integers))
        )
        before, after = (
            float(problem.errors(grid).mean()) for grid in (problem.nearest(), integers.astype(np.float32))
        )
        errors[label(layer.node)] = before, after
        if on_layer is not None:
            on_layer(label(layer.node), before, after)
    return Rounded(replace(weights, tensors=tensors), skipped, errors)


@dataclass(frozen=True)
class _Sampler:
    """The data, and which positions of it are looked at."""

    batches: Batches
    samples: int
    rng: np.random.Generator

    def rows(self, layer: Layer, rounded: ModelProto, exact: ModelProto) -> Iterator[tuple[Values, Values]]:
        """What `layer` reads in the rounded network and computes in the exact one, at random positions."""
        width = layer.weight[0].size if layer.node.op_type == "Conv" else layer.weight.size // layer.channels
        groups = int(layer.options.get("group", 1)) if layer.node.op_type == "Conv" else 1
        wanted = min(ROWS, max(1, MOST_VALUES // (width * groups)))
        inputs, outputs = Network(rounded, [layer.data]), Network(exact, [layer.output])
        for one, other in zip(inputs(self.batches()), outputs(self.batches()), strict=True):
            data, output = one[layer.data], other[layer.output]
            total = windows.count(layer, output)
            pieces = max(1, self.samples // max(1, len(data)))
            positions = self.rng.choice(total, min(total, -(-wanted // pieces)), replace=False)
            yield windows.rows(layer, data, output, np.sort(positions))


def _problem(model: ModelProto, layer: Layer, weights: Weights, sampler: _Sampler) -> Problem | None:
    """The layer on sampled positions; None if its target is nothing but zeros."""
    found = list(sampler.rows(layer, weights.applied(model), model))
    low, high = _clipping(layer, index(model.graph))
    target = np.concatenate([out for _, out in found])
    unit = float(np.sqrt(np.square(np.clip(target, low, high), dtype=np.float64).mean()))
    if not unit > 0:
        return None
    given = weights.tensors[layer.name]
    steps = np.broadcast_to(along(given.scale, given.axis, layer.weight.ndim), layer.weight.shape)
    bias = weights.biases.get(layer.output, layer.bias)
    return Problem(
        data=np.concatenate([data for data, _ in found], axis=1),
        target=target,
        weight=windows.matrices(layer, layer.weight / steps).astype(np.float32),
        scale=windows.matrices(layer, steps)[:, :, :1].astype(np.float32),
        bias=np.zeros(layer.channels, np.float32) if bias is None else bias,
        low=low,
        high=high,
        unit=unit,
    )


def _clipping(layer: Layer, found: Index) -> tuple[float, float]:
    """What the activation behind a layer clips its output to."""
    node = found.only_reader(layer.output)
    if node is not None and node.op_type == "Relu":
        return 0.0, np.inf
    bounds = clip_bounds(node, found.constants) if node is not None and node.op_type == "Clip" else (np.nan, np.nan)
    return (-np.inf, np.inf) if np.isnan(bounds).any() else bounds


def _unable(layer: Layer, found: Index) -> str | None:
    if found.only_reader(layer.name) is None:
        return f"the weight {layer.name!r} is used more than once"
    if layer.axis is None:
        return "it has one scale for all channels"
    if layer.bias is None and len(layer.node.input) > 2 and layer.node.input[2]:
        return "its bias is computed, or not one number per channel"
    return windows.unsupported(layer)
