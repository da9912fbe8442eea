"""Calibration as the stage and the command line both run it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from calibration import observers
from calibration.collect import collect, quantizable
from calibration.graph import load_model
from calibration.ranges import Ranges
from pipeline.exporting import INPUT
from pipeline.progress import Progress

BATCH = 32  # samples read together: bounds memory


def observe(
    model: Path,
    read: Callable[[slice], NDArray[Any]],
    total: int,
    observer: str,
    options: Mapping[str, float],
    progress: Progress,
) -> Ranges:
    """Run the first `total` samples that `read` gives through `model`; return the ranges that `observer` chose."""
    made = observers.make(observer, **options)
    batches = (read(slice(start, min(start + BATCH, total))) for start in range(0, total, BATCH))
    wanted = quantizable(load_model(model, weights=False))
    with progress.bar("calibrate", total) as bar:
        return collect(model, ({INPUT: x} for x in batches), made, bar.advance, only=wanted)
