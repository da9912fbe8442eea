"""Mean min-max: the range reaches from the mean of the samples' least values to the mean of their greatest."""

from dataclasses import dataclass

from calibration.observers.base import Extremes, Observer


@dataclass(frozen=True)
class MeanMinmax(Observer[Extremes]):
    """Clips what only some samples reach, in so far as the others stay below it.

    A sample is a row of axis 0; a tensor whose axis 0 is something else counts once for each run of the model.
    The ranges of activations that NNCF and, before it, OpenVINO's Post-training Optimization Tool (2021) choose by
    default; there as a mean in floating point over batches, here exact and over samples.
    """

    def start(self) -> Extremes:
        """Remember the extremes, and the sums of those of each sample."""
        return Extremes()

    def range(self, seen: Extremes) -> tuple[float, float]:
        """Return both means."""
        return seen.means()
