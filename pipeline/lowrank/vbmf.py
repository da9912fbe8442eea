"""The rank of what is not noise in a matrix, by empirical variational Bayes.

Nakajima, Sugiyama, Babacan and Tomioka, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization", JMLR 14 (2013); threshold and bounds of the noise as in Nakajima, Tomioka, Sugiyama and Babacan,
"Condition for Perfect Dimensionality Recovery by Variational Bayesian PCA", JMLR 16 (2015).
"""

from math import ceil, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

from pipeline.lowrank.base import Array

GRID = 512  # noise levels that are tried before the best is refined: the free energy has several minima


def signal_rank(values: Array, shape: tuple[int, int]) -> int:
    """Return how many singular values of a matrix of this shape are signal; the noise is estimated with them.

    `values` are all of them, descending. 0 where everything may be noise, and for a matrix of zeros.
    """
    small, large = sorted(shape)
    squares = np.square(np.asarray(values, np.float64))
    if not squares.sum():
        return 0
    alpha = small / large
    limit = threshold(alpha)
    noise = noise_variance(squares, (small, large), limit)
    return int(np.count_nonzero(squares > large * limit * noise))


def threshold(alpha: float) -> float:
    """Return above which s² / (M · noise variance) a singular value s of an L × M matrix, alpha = L / M, is signal."""

    def phi(z: float) -> float:
        return float(np.log1p(z) / z) - 0.5

    tau = brentq(lambda t: phi(t) + phi(t / alpha), 1e-3 * alpha, 10.0)
    return float((1 + tau) * (1 + alpha / tau))


def noise_variance(squares: Array, shape: tuple[int, int], limit: float) -> float:
    """Return the noise variance of least free energy for the squared singular values of an L × M matrix."""
    small, large = shape
    alpha = small / large
    above = min(ceil(small / (1 + alpha)) - 1, len(squares) - 1)  # at most so many can be signal
    upper = squares.sum() / (small * large)
    lower = max(squares[above] / (large * limit), squares[above:].sum() / (large * (small - above)), upper * 1e-15)
    if lower >= upper:
        return float(upper)

    def energy(log_noise: float) -> float:
        x = squares / (large * np.exp(log_noise))
        return float(x.sum() + small * log_noise + _gain(x[x > limit], alpha).sum())

    grid = np.linspace(log(lower), log(upper), GRID)
    best = int(np.argmin([energy(point) for point in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    return float(np.exp(minimize_scalar(energy, bounds=around, method="bounded").x))


def _gain(x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Return what explaining values as signal adds to the free energy; not positive above the threshold."""
    shifted = x - (1 + alpha)
    tau = 0.5 * (shifted + np.sqrt(shifted**2 - 4 * alpha))
    gain: NDArray[np.float64] = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    return gain
