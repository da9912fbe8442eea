"""Moving average: extremes that follow the data batch by batch, and forget single outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from calibration.errors import CalibrationError
from calibration.observers.base import Extremes, Observer, Values


class Averages(Extremes):
    """Extremes, and exponential moving averages of the extremes of each batch."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.low = 0.0
        self.high = 0.0

    def update(self, values: Values, samples: int = 1) -> None:
        """Take in one batch. Raises NonFiniteError, with nothing taken in."""
        batch = Averages(self.momentum)
        Extremes.update(batch, values, samples)
        if not batch.count:
            return
        weight = 1 - self.momentum if self.count else 1.0  # the first batch sets both
        Extremes.merge(self, batch)
        self.low += weight * (batch.minimum - self.low)
        self.high += weight * (batch.maximum - self.high)

    def merge(self, other: Averages) -> None:
        """Raise CalibrationError: which batch came before which cannot be told from two averages."""
        raise CalibrationError(
            "moving_average depends on the order of the samples, so that shards of them do not merge:"
            " calibrate in one process, or take minmax, mean_minmax, percentile, entropy or mse"
        )

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain JSON values."""
        return {**super().state(), "low": self.low, "high": self.high}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` describes."""
        super().restore(state)
        self.low, self.high = state["low"], state["high"]


@dataclass(frozen=True)
class MovingAverage(Observer[Averages]):
    """`average ← momentum · average + (1 - momentum) · extreme of the batch`, for both extremes.

    Depends on the order of the data and on the size of its batches, as quantization-aware training does, whose
    ranges this reproduces. Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", CVPR 2018.
    """

    ordered: ClassVar[bool] = True

    momentum: float = 0.9  # share of the average that a batch leaves as it was

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise CalibrationError(f"momentum is {self.momentum}: give a number from 0 and below 1")

    def start(self) -> Averages:
        """Remember extremes and averages."""
        return Averages(self.momentum)

    def range(self, seen: Averages) -> tuple[float, float]:
        """Return both averages."""
        return max(seen.low, seen.minimum), min(seen.high, seen.maximum)
