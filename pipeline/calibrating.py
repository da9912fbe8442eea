"""Calibration as the stage and the command line both run it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from calibration import observers
from calibration.collect import collect
from calibration.ranges import Ranges
from pipeline.exporting import INPUT
from pipeline.progress import Progress


def observe(
    model: Path,
    batches: Iterable[NDArray[Any]],
    total: int,
    observer: str,
    options: Mapping[str, float],
    progress: Progress,
) -> Ranges:
    """Run `total` samples, given as batches, through `model` and return the ranges that `observer` chose."""
    made = observers.make(observer, **options)
    with progress.bar("calibrate", total) as bar:
        return collect(model, ({INPUT: x} for x in batches), made, bar.advance)
