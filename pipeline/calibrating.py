"""Calibration as the stage and the command line both run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from calibration import observers
from calibration.adaround import Annealing
from calibration.choosing import Chosen, choose, equalized
from calibration.collect import collect, quantizable
from calibration.graph import load_model
from calibration.layers import layers
from calibration.network import Batches
from calibration.ranges import Ranges
from pipeline.exporting import INPUT
from pipeline.progress import Progress
from pipeline.weight_options import WeightOptions

BATCH = 32  # samples read together: bounds memory


@dataclass(frozen=True)
class Samples:
    """The first `total` samples that `read` gives."""

    read: Callable[[slice], NDArray[Any]]
    total: int

    def first(self, count: int) -> Batches:
        """Batches of at most `count` of them, anew each time."""
        total = min(count, self.total)
        return lambda: ({INPUT: self.read(slice(start, min(start + BATCH, total)))} for start in range(0, total, BATCH))


def observe(model: Path, samples: Samples, observer: str, options: Mapping[str, float], progress: Progress) -> Ranges:
    """Run samples through `model`; return the ranges that `observer` chose."""
    made = observers.make(observer, **options)
    wanted = quantizable(load_model(model, weights=False))
    with progress.bar("calibrate", samples.total) as bar:
        return collect(model, samples.first(samples.total)(), made, bar.advance, only=wanted)


def equalize(model: Path, out: Path, samples: Samples, options: WeightOptions, progress: Progress) -> dict[str, Any]:
    """Write `model` equalized to `out`; return what was done and what not, for the report."""
    with progress.bar("equalize", 1) as bar:
        done = equalized(load_model(model), samples.first(options.samples))
        onnx.save(done.model, out)
        bar.advance()
    return {"pairs": len(done.pairs), "not": dict(done.skipped)}


def choose_weights(model: Path, samples: Samples, options: WeightOptions, progress: Progress) -> Chosen | None:
    """Choose the int8 weights of `model`; None where placement shall just round them."""
    if options.plain:
        return None
    proto = load_model(model)
    annealing = Annealing(options.iterations) if options.rounding == "adaround" else None
    with progress.bar("int8 weights", len(layers(proto)) if annealing else 1) as bar:
        chosen = choose(
            proto,
            samples.first(options.samples),
            options.scale,
            options.bias,
            annealing,
            lambda name, before, after: bar.advance(note=f"{name}: error {before:.2g}, now {after:.2g}"),
        )
        if not annealing:
            bar.advance()
    return chosen
