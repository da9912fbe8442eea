"""Batches whose samples are mixed with each other, and labels to match.

mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018. cutmix: Yun et al., "CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.training.config import Training

Inputs = NDArray[np.float32]
Shares = NDArray[np.float32]  # (N, classes), of each class in a sample; rows add up to 1
Mix = Callable[[Inputs, NDArray[np.int64], np.random.Generator], tuple[Inputs, Shares]]


def mixer(config: Training, classes: int) -> Mix | None:
    """Return what mixes a batch of inputs `(N, ...)` and labels `(N,)`; None if nothing is to be mixed.

    Where both kinds are wanted, each batch gets one of them, at even odds.
    """
    kinds = [(mixup, config.mixup), (cutmix, config.cutmix)]
    wanted = [(mix, alpha) for mix, alpha in kinds if alpha]
    if not wanted:
        return None

    def mixed(x: Inputs, y: NDArray[np.int64], rng: np.random.Generator) -> tuple[Inputs, Shares]:
        mix, alpha = wanted[rng.integers(len(wanted))]
        partner = rng.permutation(len(x))
        inputs, stays = mix(x, x[partner], float(rng.beta(alpha, alpha)), rng)
        own = np.eye(classes, dtype=np.float32)[y]
        return inputs, np.float32(stays) * own + np.float32(1 - stays) * own[partner]

    return mixed


def mixup(x: Inputs, other: Inputs, stays: float, rng: np.random.Generator) -> tuple[Inputs, float]:
    """Return the weighted mean of two batches `(N, ...)`, and the weight `stays` of the first."""
    return np.float32(stays) * x + np.float32(1 - stays) * other, stays


def cutmix(x: Inputs, other: Inputs, stays: float, rng: np.random.Generator) -> tuple[Inputs, float]:
    """Return images `(N, C, H, W)` with one box of another's pasted in, and the share of the area that is theirs.

    The box has `1 - stays` of the area, its centre anywhere; what lies outside the image is cut off, so that the
    share can be larger than `stays`. Raises UserError for inputs that are no images.
    """
    if x.ndim != 4:
        raise UserError(f"cutmix takes images (N, C, H, W), but inputs are {x.shape}; use mixup, which takes any")
    h, w = x.shape[2:]
    side = sqrt(1 - stays)
    rows, columns = _span(h, int(h * side), rng), _span(w, int(w * side), rng)
    cut = x.copy()
    cut[:, :, rows, columns] = other[:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return cut, 1 - area / (h * w)


def _span(size: int, length: int, rng: np.random.Generator) -> slice:
    """Return `length` positions around a random centre, as far as they lie within `size`."""
    start = int(rng.integers(size)) - length // 2
    return slice(max(start, 0), min(start + length, size))
