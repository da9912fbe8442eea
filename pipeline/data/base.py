"""What the pipeline asks of a data set. numpy only: calibration and measuring need no torch."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Index = slice | NDArray[np.int64]
Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


class Split(Protocol):
    """A part of a data set that gives model-ready batches."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: Index, /) -> Batch:
        """Return inputs `(N, ...)` float32, preprocessed as the model wants them, and labels `(N,)`."""


@dataclass(frozen=True)
class ArraySplit:
    """Samples held in memory as the bytes they came in, normalised batch by batch.

    `x` is `(N, C, H, W)` uint8 or float, `y` `(N,)`; a batch is `(x * scale - mean) / std` per channel.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Index, /) -> Batch:
        shape = (1, -1) + (1,) * (self.x.ndim - 2)
        mean = np.asarray(self.mean, np.float32).reshape(shape)
        std = np.asarray(self.std, np.float32).reshape(shape)
        x = (self.x[index].astype(np.float32) * np.float32(self.scale) - mean) / std
        return x, self.y[index].astype(np.int64, copy=False)

    @property
    def digest(self) -> str:
        """Sha256 over samples, labels and normalisation."""
        h = hashlib.sha256(repr((self.x.shape, str(self.x.dtype), self.mean, self.std, self.scale)).encode())
        h.update(np.ascontiguousarray(self.x).data)
        h.update(np.ascontiguousarray(self.y).data)
        return h.hexdigest()


@dataclass(frozen=True)
class Data:
    """The splits of one data set, and what must travel with a model trained on it.

    Selection (best epoch, thresholds) reads `validation`; `test` is only ever reported.
    `augment(x, rng)` maps a training batch `(N, ...)` float32 to an augmented one of the same shape.
    `version` names the content: it goes into cache keys, and need only be given where a split has no
    `digest` of its own. `preprocessing` is written into the exported model's metadata.
    """

    train: Split
    validation: Split
    calibration: Split
    test: Split
    classes: tuple[str, ...]
    augment: Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]] | None = None
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {
            "train": self.train,
            "validation": self.validation,
            "calibration": self.calibration,
            "test": self.test,
        }
