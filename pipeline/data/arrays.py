"""Data sets of your own from one `.npz` file."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.base import ArraySplit, Data
from pipeline.data.check import check
from pipeline.errors import UserError

SPLITS = ("train", "validation", "calibration", "test")


def from_npz(
    path: str,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    scale: float = 1.0,
) -> Data:
    """Read `x_SPLIT` `(N, C, H, W)` or `(N, F)` and `y_SPLIT` `(N,)` for each split, e.g. `x_train`.

    A model gets `(x * scale - mean) / std`, per channel where several are given. Without names the classes
    are numbered up to the highest label of `y_train`. Raises UserError for a file, an array or a label that
    is missing or wrong.
    """
    arrays = _read(Path(path).expanduser())
    labels = {name: _labels(arrays[f"y_{name}"], f"{path}: y_{name}") for name in SPLITS}
    norm = tuple(float(v) for v in mean), tuple(float(v) for v in std), float(scale)
    splits = {}
    for name in SPLITS:
        x = arrays[f"x_{name}"]
        splits[name] = ArraySplit(x, labels[name], *norm)
        _check_inputs(splits[name], f"{path}: x_{name}")
    highest = int(labels["train"].max(initial=0))
    names = tuple(classes) if classes else tuple(str(c) for c in range(highest + 1))
    about = {"mean": repr(norm[0]), "std": repr(norm[1]), "scale": repr(norm[2])}
    data = Data(
        train=splits["train"],
        validation=splits["validation"],
        calibration=splits["calibration"],
        test=splits["test"],
        classes=names,
        preprocessing={**about, "formula": "(x * scale - mean) / std"},
    )
    check(data, path)
    return data


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array that the splits need."""
    wanted = [f"{part}_{name}" for name in SPLITS for part in "xy"]
    try:
        # Opened here, as numpy leaves a file that it cannot read open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [name for name in wanted if name not in file]
            if missing:
                raise UserError(f"{path}: no {', '.join(missing)} in it; it needs {', '.join(wanted)}")
            return {name: file[name] for name in wanted}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable .npz file of plain arrays ({error}); use np.savez") from error


def _labels(y: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Return labels as int64, if they are class numbers."""
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"{where}: {y.dtype} of shape {y.shape}; give one integer class number per sample")
    return y.astype(np.int64)


def _check_inputs(split: ArraySplit, where: str) -> None:
    """Refuse inputs that no batch can be made of."""
    x = split.x
    if x.dtype.kind not in "uif" or x.ndim < 2:
        raise UserError(f"{where}: {x.dtype} of shape {x.shape}; give numbers of shape (N, C, H, W) or (N, F)")
    if len(x) != len(split.y):
        raise UserError(f"{where}: {len(x)} samples, but {len(split.y)} labels; give as many")
    for name, values in {"mean": split.mean, "std": split.std}.items():
        if len(values) not in (1, x.shape[1]):
            raise UserError(f"{where}: {len(values)} values of {name} for {x.shape[1]} channels; give 1 or all")
    if not all(value > 0 for value in split.std):
        raise UserError(f"{where}: std is {split.std}, and inputs are divided by it; give positive values")
