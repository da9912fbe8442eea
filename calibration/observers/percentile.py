"""Percentile: the range leaves out a set share of the values in each tail."""

from dataclasses import dataclass

from calibration.errors import CalibrationError
from calibration.histogram import Histogram
from calibration.observers.base import Observer


@dataclass(frozen=True)
class Percentile(Observer[Histogram]):
    """Clips `100 - percentile` percent of the non-zero values in each tail, rounded down to whole values.

    Of n values, n · (1 - percentile / 100) < 1 clips none: a tensor of few has no outliers to speak of, and all
    of them are what it is read for. 99.99 begins to clip at 10,000 values.

    Zeros are left out because int8 holds them exactly whatever the range is; counted in, a sparse ReLU output
    would give the range of its zeros.
    """

    percentile: float = 99.99  # in percent, of non-zero values

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise CalibrationError(f"percentile is {self.percentile}: give a number above 50 and up to 100")

    def start(self) -> Histogram:
        """Remember a histogram."""
        return Histogram()

    def range(self, seen: Histogram) -> tuple[float, float]:
        """Return both ends, each exact to 1/256 of its value; the extremes where nothing is clipped."""
        share = self.percentile / 100
        return seen.quantile(1 - share), seen.quantile(share)
