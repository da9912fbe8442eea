"""The contract of an observer, and the least that is remembered of a tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError

Values = NDArray[np.float32]

_UNIT = 149  # 2**-149 is the least subnormal float32, and every float32 a whole multiple of it
_STATE = ("count", "minimum", "maximum", "samples", "lows", "highs")  # what a file keeps of `Extremes`


class NonFiniteError(CalibrationError):
    """NaN or infinity among the values; `where` is the flat index of the first one."""

    def __init__(self, where: int) -> None:
        super().__init__(f"value {where} is NaN or infinite")
        self.where = where


class Extremes:
    """Number, least and greatest of the values seen, and of each sample's. Streaming, mergeable, of constant size.

    Base of everything that is remembered of a tensor: it grows by `update`, joins what another shard saw by
    `merge`, and neither the order of the data nor its split over shards shows in the result.
    """

    def __init__(self) -> None:
        self.count = 0
        self.minimum = np.inf
        self.maximum = -np.inf
        self.samples = 0  # that had values
        # Sums of each sample's least and greatest value, in units of 2**-149: whole numbers, so that they are exact
        # and no order of adding them shows.
        self.lows = 0
        self.highs = 0

    def update(self, values: Values, samples: int = 1) -> None:
        """Take in float32 values of any shape, of `samples` samples. Raises NonFiniteError, with nothing taken in.

        The samples lie along axis 0. Where that has another length, it is something else, and whose value is
        whose cannot be told: all values then count as one sample's.
        """
        if not values.size:
            return
        lows, highs = _ends(values, samples)
        # NaN and infinity both survive into an extreme, so that the common case needs no pass of its own
        if not all(map(math.isfinite, (*lows, *highs))):
            raise NonFiniteError(int(np.argmax(~np.isfinite(values))))
        self.count += values.size
        self.minimum, self.maximum = min(self.minimum, *lows), max(self.maximum, *highs)
        self.samples += len(lows)
        self.lows += sum(map(_units, lows))
        self.highs += sum(map(_units, highs))

    def means(self) -> tuple[float, float]:
        """Return the means over samples of their least and of their greatest value, of one sample or more.

        Each is the exact mean rounded once, so that it lies within the extremes.
        """
        low, high = (math.ldexp(total / self.samples, -_UNIT) for total in (self.lows, self.highs))
        return low, high

    def merge(self: Seen, other: Seen) -> None:
        """Take in what `other` saw."""
        self.count += other.count
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.samples += other.samples
        self.lows += other.lows
        self.highs += other.highs

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain JSON values. Raises CalibrationError if nothing was seen."""
        if not self.count:
            raise CalibrationError("no values were observed: give at least one sample")
        return {key: getattr(self, key) for key in _STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` describes."""
        for key in _STATE:
            setattr(self, key, state[key])


def _ends(values: Values, samples: int) -> tuple[list[float], list[float]]:
    """The least and the greatest value of each sample; of all values where axis 0 does not count the samples."""
    if samples == 1 or not values.ndim or len(values) != samples:
        return [float(values.min())], [float(values.max())]
    rows = values.reshape(samples, -1)
    return rows.min(axis=1).tolist(), rows.max(axis=1).tolist()


def _units(value: float) -> int:
    """A finite float32 as a multiple of 2**-149, exactly."""
    return int(math.ldexp(value, _UNIT))


Seen = TypeVar("Seen", bound=Extremes)


@dataclass(frozen=True)
class Observer(ABC, Generic[Seen]):
    """Chooses the range of a tensor that int8 shall cover. Its fields are its whole configuration.

    The file `calibration/observers/NAME.py` holds one subclass; NAME is what users type. What one tensor
    showed is kept apart, in what `start` returns, so that one observer serves all tensors and shards.
    """

    ordered: ClassVar[bool] = False  # whether the order of the data shows; its memories need not merge then

    @classmethod
    def name(cls) -> str:
        """The name users type: the file's."""
        return cls.__module__.rpartition(".")[2]

    @property
    def options(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self)

    @abstractmethod
    def start(self) -> Seen:
        """Return an empty memory for one tensor."""

    @abstractmethod
    def range(self, seen: Seen) -> tuple[float, float]:
        """Return `(low, high)`, within the observed extremes, from a memory that saw at least one value.

        It is for 8-bit integers with a free zero point: 255 steps from `low` to `high`.
        """

    def magnitude(self, seen: Seen) -> float | None:
        """Return the best `m` to clip at ±m where the zero point is fixed, 127 steps to each side.

        None, as here, says `max(|low|, |high|)`. A one-sided tensor has half of the steps under a fixed zero
        point that it has under a free one, so that an observer which weighs rounding against clipping comes
        to another end.
        """
        return None
