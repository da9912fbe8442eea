"""Catches empty, damaged and mislabelled data before anything is trained or measured on it."""

import numpy as np

from pipeline.data.base import Data, Split
from pipeline.errors import UserError

_CHUNK = 1000  # samples looked at together


def check(data: Data, where: str, samples: int | None = None) -> None:
    """Look at the first `samples` of each split, or at all.

    Raises UserError, naming the data set `where`, for an empty split, for inputs that are not float32, of
    different shapes or not finite, and for labels that are not the number of a class.
    """
    if not data.classes:
        raise UserError(f"{where}: no classes are named; give Data one name per class")
    shapes = {}
    for name, split in data.splits.items():
        if len(split) == 0:
            raise UserError(f"{where}: the {name} split is empty; give it at least one sample")
        stop = len(split) if samples is None else min(samples, len(split))
        for start in range(0, stop, _CHUNK):
            place = f"{where}: {name} samples {start} to {min(start + _CHUNK, stop) - 1}"
            shapes[name] = _check_batch(split, slice(start, min(start + _CHUNK, stop)), data.classes, place)
    if len(set(shapes.values())) > 1:
        raise UserError(f"{where}: the splits have inputs of different shapes, {shapes}; make them equal")


def _check_batch(split: Split, index: slice, classes: tuple[str, ...], where: str) -> tuple[int, ...]:
    """Check one batch; return the shape of one input."""
    x, y = split[index]
    n = index.stop - index.start
    if x.shape[:1] != (n,) or y.shape != (n,):
        raise UserError(f"{where}: {x.shape} inputs and {y.shape} labels for {n} samples; give one each")
    if x.dtype != np.float32:
        raise UserError(f"{where}: inputs are {x.dtype}; give float32, preprocessed as the model wants them")
    if not np.isfinite(x).all():
        raise UserError(f"{where}: inputs hold NaN or infinity; remove or repair these samples")
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"{where}: labels are {y.dtype}; give integers")
    if y.min() < 0 or y.max() >= len(classes):
        raise UserError(
            f"{where}: labels run from {y.min()} to {y.max()}, but there are {len(classes)} classes, "
            f"0 to {len(classes) - 1}; relabel, or name every class"
        )
    return x.shape[1:]
