"""Whether a series of times changes on its way: a rank test for one change, and how successive values hang together."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Sequence, Union

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = Union[Sequence[float], NDArray[np.float64]]


@dataclass(frozen=True)
class Change:
    """The likeliest change of a series: values before `index` against those from it on."""

    index: int
    p: float  # probability of one as clear in a series without any change
    shift: float  # median after it over median before it, less 1


def likeliest(values: Values) -> Change:
    """Find where a series most likely changes its level, and how sure that is.

    The rank test of Pettitt (Applied Statistics 28, 1979), in his approximation, which is a little
    conservative: it can tell nothing at 5% from fewer than 11 values. A steady slope shows as a change too.
    Ranks make it deaf to how large outliers are. Raises ValueError for fewer than 2 values.
    """
    array = np.asarray(values, np.float64)
    n = len(array)
    if n < 2:
        raise ValueError("a change takes 2 or more values")
    sums = np.cumsum(np.sign(array[:, None] - array[None, :]).sum(axis=1))[:-1]
    index = int(np.argmax(np.abs(sums))) + 1
    p = min(1.0, 2 * exp(-6 * float(sums[index - 1]) ** 2 / (n**3 + n**2)))
    return Change(index, p, float(np.median(array[index:]) / np.median(array[:index])) - 1)


def autocorrelation(values: Values) -> float:
    """Correlation of each value with the next, of their ranks; 0 for fewer than 3 values or equal ones."""
    array = np.asarray(values, np.float64)
    if len(array) < 3 or np.ptp(array) == 0:
        return 0.0
    ranks = np.argsort(np.argsort(array, kind="stable"), kind="stable").astype(np.float64)
    ranks -= ranks.mean()
    return float((ranks[1:] * ranks[:-1]).sum() / (ranks**2).sum())
