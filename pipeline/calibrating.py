"""Calibration as the stage and the command line both run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto

from calibration import observers
from calibration.adaround import Annealing
from calibration.choosing import Chosen, choose, equalized
from calibration.collect import collect, quantizable
from calibration.equalize import Equalized
from calibration.graph import load_model
from calibration.layers import layers
from calibration.network import Batches
from calibration.ranges import Ranges
from calibration.saving import save_model
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
    done = equalize_model(load_model(model), samples.first(options.samples), progress)
    save_model(done.model, out)
    return {"pairs": len(done.pairs), "not": dict(done.skipped)}


def equalize_model(model: ModelProto, batches: Batches, progress: Progress) -> Equalized:
    """Equalize `model` by statistics of the data."""
    with progress.bar("equalize", 1) as bar:
        done = equalized(model, batches)
        bar.advance()
    return done


def choose_weights(model: Path, samples: Samples, options: WeightOptions, progress: Progress) -> Chosen | None:
    """Choose the int8 weights of the file `model`; None where placement shall just round them."""
    return None if options.plain else choose_for(load_model(model), samples.first(options.samples), options, progress)


def choose_for(model: ModelProto, batches: Batches, options: WeightOptions, progress: Progress) -> Chosen | None:
    """Choose the int8 weights of `model` on the data; None where placement shall just round them."""
    if options.plain:
        return None
    annealing = Annealing(options.iterations) if options.rounding == "adaround" else None
    with progress.bar("int8 weights", len(layers(model)) if annealing else 1) as bar:
        chosen = choose(
            model,
            batches,
            options.scale,
            options.bias,
            annealing,
            lambda name, before, after: bar.advance(note=f"{name}: error {before:.2g}, now {after:.2g}"),
        )
        if not annealing:
            bar.advance()
    return chosen
