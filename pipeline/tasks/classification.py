"""Image classification: top-1, and top-5 where there are more than five classes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tasks.base import Task
from targets.stats import wilson


@dataclass(frozen=True)
class Classification(Task):
    """One label per sample; outputs are logits `(N, classes)`."""

    primary = "top1"

    def metrics(self, outputs: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, dict[str, float]]:
        """Return top1, and top5 where it says something, with their Wilson intervals (Wilson, JASA 1927)."""
        found = {"top1": _share(hits(outputs, labels, 1))}
        if outputs.shape[1] > 5:
            found["top5"] = _share(hits(outputs, labels, 5))
        return found


def hits(logits: NDArray[np.floating], labels: NDArray[np.int64], k: int = 1) -> NDArray[np.bool_]:
    """Tell for each sample whether its label is among the `k` highest logits.

    Of equal logits the lower class goes first, as in argmax; a row that holds a NaN is a miss.
    """
    own = np.take_along_axis(logits, labels[:, None], 1)
    ahead = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
    hit: NDArray[np.bool_] = (ahead.sum(1) < k) & ~np.isnan(logits).any(1)
    return hit


def _share(hit: NDArray[np.bool_]) -> dict[str, float]:
    """The share of hits between its bounds."""
    interval = wilson(int(hit.sum()), len(hit))
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": len(hit)}
