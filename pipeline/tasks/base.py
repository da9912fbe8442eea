"""What a task asks of outputs: its metrics, the first of which decides."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class Task(ABC):
    """One kind of problem. `pipeline/tasks/NAME.py` holds one subclass, a frozen dataclass."""

    primary: ClassVar[str]  # name of the metric that the accuracy budget is about

    @abstractmethod
    def metrics(self, outputs: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, dict[str, float]]:
        """Return value, low, high (95%) and n of every metric, from a model's outputs over a split."""
