"""The contract of an observer, and the least that is remembered of a tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError

Values = NDArray[np.float32]


class NonFiniteError(CalibrationError):
    """NaN or infinity among the values; `where` is the flat index of the first one."""

    def __init__(self, where: int) -> None:
        super().__init__(f"value {where} is NaN or infinite")
        self.where = where


class Extremes:
    """Number, least and greatest of the values seen. Streaming, mergeable, of constant size.

    Base of everything that is remembered of a tensor: it grows by `update`, joins what another shard saw by
    `merge`, and neither the order of the data nor its split over shards shows in the result.
    """

    def __init__(self) -> None:
        self.count = 0
        self.minimum = np.inf
        self.maximum = -np.inf

    def update(self, values: Values) -> None:
        """Take in float32 values of any shape. Raises NonFiniteError, with nothing taken in."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        # NaN and infinity both survive into an extreme, so that the common case needs no pass of its own
        if not (np.isfinite(low) and np.isfinite(high)):
            raise NonFiniteError(int(np.argmax(~np.isfinite(values))))
        self.count += values.size
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def merge(self: Seen, other: Seen) -> None:
        """Take in what `other` saw."""
        self.count += other.count
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain JSON values. Raises CalibrationError if nothing was seen."""
        if not self.count:
            raise CalibrationError("no values were observed: give at least one sample")
        return {"count": self.count, "minimum": self.minimum, "maximum": self.maximum}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` describes."""
        self.count, self.minimum, self.maximum = state["count"], state["minimum"], state["maximum"]


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
