"""MSE: the range whose rounding and clipping to 8 bits together cost least."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.grids import HALF, STEPS, squared_error
from calibration.histogram import Histogram, Side
from calibration.observers.base import Observer

_OCTAVES = 16  # how far below the step that covers all values the search goes
_COARSE, _FINE = 2, 32  # steps tried per octave: over all of them, then around the best


@dataclass(frozen=True)
class Mse(Observer[Histogram]):
    """The range of least mean squared error between the values and their 8-bit image.

    Every step of a geometric row is tried with every zero point: the values on both sides of zero are priced
    apart, so that a tail may be clipped on one side alone. After Banner et al., "Post training 4-bit
    quantization", NeurIPS 2019, and Choukroun et al., "Low-bit quantization of neural networks for efficient
    inference", ICCVW 2019; the observed histogram stands where they assume a distribution.
    """

    def start(self) -> Histogram:
        """Remember a histogram."""
        return Histogram()

    def range(self, seen: Histogram) -> tuple[float, float]:
        """Return the range of the best step and zero point, over 255 steps from end to end."""
        if seen.minimum == seen.maximum:
            return seen.minimum, seen.maximum
        positive, negative = seen.sides()

        def split(steps: NDArray[np.float64]) -> NDArray[np.float64]:
            """Errors by step and zero point."""
            return squared_error(negative, steps, STEPS) + squared_error(positive, steps, STEPS)[:, ::-1]

        step = _best((max(seen.maximum, 0.0) - min(seen.minimum, 0.0)) / STEPS, lambda s: split(s).min(axis=1))
        below = int(split(np.asarray([step])).argmin())
        low, high = (float(np.clip(k * step, seen.minimum, seen.maximum)) for k in (-below, STEPS - below))
        return low, high

    def magnitude(self, seen: Histogram) -> float:
        """Return the best threshold over 127 steps to each side."""
        greatest = max(-seen.minimum, seen.maximum)
        if not greatest:
            return 0.0
        one, other = seen.sides()
        both = Side(one.edges, one.counts + other.counts)
        step = _best(greatest / HALF, lambda s: squared_error(both, s, HALF)[:, -1])
        return min(step * HALF, greatest)


def _best(top: float, cost: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> float:
    """The step of least cost: among all coarse ones from `top` down, then among the fine ones around it."""
    octaves = np.arange(_OCTAVES * _COARSE) / _COARSE
    coarse = octaves[int(np.argmin(cost(top * 2.0**-octaves)))]
    around = np.arange(-_FINE // _COARSE, _FINE // _COARSE + 1) / _FINE
    steps = top * 2.0 ** -np.maximum(coarse + around, 0)
    return float(steps[int(np.argmin(cost(steps)))])
