"""Quantiles of Student's t and of the beta distribution, by integrating densities on a bounded angle.

What runs on a board has numpy and no scipy. Both densities become powers of sines and cosines, which a sum over
a few thousand points integrates to six digits.
"""

from __future__ import annotations

from functools import lru_cache
from math import asin, exp, lgamma, pi, sqrt
from typing import TYPE_CHECKING, Tuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

POINTS = 4001
REACH = 10.0  # standard deviations of the beta's angle that are integrated over


@lru_cache(maxsize=4096)
def student_quantile(p: float, df: int) -> float:
    """Return the p-quantile of Student's t with `df` degrees of freedom."""
    if not 0 < p < 1 or df < 1:
        raise ValueError(f"no quantile {p} of Student's t with {df} degrees of freedom")
    grid = np.linspace(0.0, pi / 2, POINTS)
    # With x = sqrt(df)·tan θ the density becomes c·cos(θ)^(df-1) on a finite range.
    density = exp(lgamma((df + 1) / 2) - lgamma(df / 2)) / sqrt(pi) * np.cos(grid) ** (df - 1)
    above = _integral(density) * (grid[1] - grid[0])  # P(0 < T < sqrt(df)·tan θ)
    angle = float(np.interp(abs(p - 0.5), above, grid))
    return (1 if p > 0.5 else -1) * sqrt(df) * float(np.tan(angle))


def beta_quantiles(a: float, b: float, tail: float) -> Tuple[float, float]:
    """Return the `tail`- and the (1 - tail)-quantile of the beta distribution, for a and b of a half or more."""
    # With x = sin²θ the density becomes sin(θ)^(2a-1)·cos(θ)^(2b-1), about normal with this deviation.
    middle, deviation = asin(sqrt(a / (a + b))), 0.5 / sqrt(a + b)
    grid = np.linspace(max(1e-12, middle - REACH * deviation), min(pi / 2 - 1e-12, middle + REACH * deviation), POINTS)
    logs = (2 * a - 1) * np.log(np.sin(grid)) + (2 * b - 1) * np.log(np.cos(grid))
    below = _integral(np.exp(logs - logs.max()))
    low, high = np.interp([tail * below[-1], (1 - tail) * below[-1]], below, grid)
    return float(np.sin(low) ** 2), float(np.sin(high) ** 2)


def _integral(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running integral by trapezoids of width 1."""
    return np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
