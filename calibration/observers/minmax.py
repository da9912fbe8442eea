"""Min-max: the range covers every value that was seen."""

from dataclasses import dataclass

from calibration.observers.base import Extremes, Observer


@dataclass(frozen=True)
class Minmax(Observer[Extremes]):
    """Nothing is clipped; one outlier coarsens the steps of all other values."""

    def start(self) -> Extremes:
        """Remember the extremes only."""
        return Extremes()

    def range(self, seen: Extremes) -> tuple[float, float]:
        """Return the extremes."""
        return seen.minimum, seen.maximum
