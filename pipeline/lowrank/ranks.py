"""Rules that say which rank a matrix needs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import UserError
from pipeline.lowrank.base import Array


@dataclass(frozen=True)
class Spectrum:
    """All singular values of a matrix, descending, and its shape."""

    values: Array
    shape: tuple[int, int]

    @classmethod
    def of(cls, matrix: Array) -> "Spectrum":
        """Decompose a matrix."""
        rows, columns = matrix.shape
        values: Array = np.linalg.svd(matrix, compute_uv=False).astype(np.float64)
        return cls(values, (rows, columns))

    def kept(self, rank: int) -> float:
        """Return the share of the energy, the sum of squares, that the first `rank` values have."""
        squares = np.square(self.values)
        return float(squares[:rank].sum() / squares.sum())


class Rule(ABC):
    """Says the rank of a matrix by its singular values."""

    @abstractmethod
    def rank(self, spectrum: Spectrum) -> int:
        """Return the rank, 0 where there is none to be had."""

    def energy(self, spectra: Sequence[Spectrum]) -> float:
        """Return the share of the energy that a fit must keep whose rank no single matrix shows."""
        return min(spectrum.kept(self.rank(spectrum)) for spectrum in spectra)

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Energy(Rule):
    """The least rank that keeps `share` of the sum of squares; 0 asks for the least there is."""

    share: float = 0.9

    def __post_init__(self) -> None:
        _check("energy", "share to keep", self.share, 0 <= self.share <= 1)

    def rank(self, spectrum: Spectrum) -> int:
        """Return the least rank that keeps the share, at least 1."""
        sums = np.square(spectrum.values).cumsum()
        return min(int(np.searchsorted(sums, self.share * sums[-1] * (1 - 1e-12))) + 1, len(sums))

    def energy(self, spectra: Sequence[Spectrum]) -> float:
        """Return the share itself."""
        return self.share

    def __str__(self) -> str:
        return f"energy {self.share:g}"


@dataclass(frozen=True)
class Vbmf(Rule):
    """What variational Bayes takes for signal; see `pipeline.lowrank.vbmf`."""

    def rank(self, spectrum: Spectrum) -> int:
        """Return the rank of the signal; a single row or column has the rank 1."""
        from pipeline.lowrank.vbmf import signal_rank

        return 1 if min(spectrum.shape) == 1 else signal_rank(spectrum.values, spectrum.shape)


@dataclass(frozen=True)
class Budget:
    """The largest ranks at which the whole model has at most `share` of its work or parameters."""

    share: float = 0.5
    of: Literal["macs", "params"] = "macs"

    def __post_init__(self) -> None:
        _check("budget", "share of the model that may stay", self.share, 0 < self.share < 1)
        if self.of not in ("macs", "params"):
            raise UserError(f"of: a budget is of 'macs' or 'params', got {self.of!r}")

    def __str__(self) -> str:
        return f"budget {self.share:g} of {self.of}"


Ranks = Energy | Vbmf | Budget


def _check(name: str, what: str, value: float, fits: bool) -> None:
    if not fits:
        raise UserError(f"{name}: the {what} lies between 0 and 1, got {value}")
