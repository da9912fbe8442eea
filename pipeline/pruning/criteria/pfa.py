"""Principal filter analysis (Suau et al., Filter Distillation for Network Compression, arXiv 1807.10585, 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pipeline.errors import UserError
from pipeline.pruning.criteria.base import Cost, Criterion, Ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.taps import Tap, maps

Matrix = NDArray[np.float64]

STILL = 1e-12  # variance, as a share of the mean square, of what varies by rounding only
EQUAL = 1e-9  # sums of correlations this near are the same


@dataclass(frozen=True)
class Pfa(Criterion):
    """Correlation between channels: again and again, the one most correlated with those left goes.

    A channel's response to a sample is its feature map, pooled; a unit's, the mean over its channels. The
    covariance of a coupled group is the mean of those of its feature maps that are read. The scopes "energy" and
    "pfa_kl" set widths by its eigenvalues, as the paper does. Units whose responses never vary go first.
    """

    cost: ClassVar[Cost] = Cost.FORWARD

    pool: Annotated[Literal["max", "mean"], Field(description="how a feature map becomes one number")] = "max"

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Gather covariances in one pass; memory holds one (units, units) matrix per feature map."""
        if len(evidence.seen) < 2:
            raise UserError("criterion pfa: one sample shows no correlation; give at least two, better hundreds")
        taps = [t for g in groups for t in maps(evidence.watched, evidence.twin(g))]
        looks = [(tap, _Covariance(tap, self.pool)) for tap in taps]
        evidence.observe(looks, "pfa: responses of channels")
        found: dict[str, list[_Covariance]] = {}
        for tap, look in looks:
            found.setdefault(tap.group, []).append(look)
        return refuse_if_empty(
            {name: _ranking(seen) for name, seen in found.items()},
            groups,
            "criterion pfa: looks at what channels give, and none that may go has a value to look at; choose another",
        )


class _Covariance:
    """Streams the covariance of a tap's pooled responses (Chan et al., Stanford STAN-CS-79-773, 1979)."""

    def __init__(self, tap: Tap, pool: str) -> None:
        units = len(tap.index)
        self._tap, self._pool, self._count = tap, pool, 0
        self.mean, self._moment = (torch.zeros(shape, dtype=torch.float64) for shape in ((units,), (units, units)))

    def __call__(self, value: Tensor) -> None:
        responses = pooled(self._tap.units(value), self._pool).double().cpu()
        n, mean = len(responses), responses.mean(0)
        shift, total = mean - self.mean, self._count + n
        centred = responses - mean
        self._moment += centred.T @ centred + torch.outer(shift, shift) * (self._count * n / total)
        self.mean += shift * (n / total)
        self._count = total

    @property
    def matrix(self) -> Tensor:
        return self._moment / self._count


def pooled(units: Tensor, pool: str) -> Tensor:
    """Return responses (samples, units) of feature maps (samples, units, n, …): pooled, then the mean over n."""
    flat = units.flatten(3) if units.ndim > 3 else units[..., None]
    return (flat.amax(3) if pool == "max" else flat.mean(3)).mean(2)


def _ranking(seen: Sequence[_Covariance]) -> Ranking:
    covariance = torch.stack([s.matrix for s in seen]).mean(0).numpy()
    square = torch.stack([s.mean**2 for s in seen]).mean(0).numpy() + np.diagonal(covariance)
    if not np.isfinite(covariance).all():
        return Ranking(np.full(len(covariance), np.nan))
    order = removal_order(covariance, np.diagonal(covariance) > STILL * square)
    scores = np.empty(len(order))
    scores[order] = np.arange(len(order))
    return Ranking(scores, spectrum=spectrum(covariance))


def spectrum(covariance: Matrix) -> Matrix:
    """Return the eigenvalues, largest first; what rounding makes of zero is zero."""
    values = np.linalg.eigvalsh(covariance)[::-1]
    noise = len(values) * np.finfo(np.float64).eps * max(values[0], 0.0)
    return np.where(values > noise, values, 0.0)


def removal_order(covariance: Matrix, alive: NDArray[np.bool_]) -> list[int]:
    """Return units in the order they go: those not `alive`, then by summed |correlation| to those still there.

    Of equally correlated units the last goes first.
    """
    deviation = np.sqrt(np.where(alive, np.diagonal(covariance), 1.0))
    correlation = np.abs(covariance) / np.outer(deviation, deviation)
    np.fill_diagonal(correlation, 0.0)
    order = np.flatnonzero(~alive)[::-1].tolist()
    correlation[order], correlation[:, order] = 0.0, 0.0
    sums = np.where(alive, correlation.sum(1), -np.inf)
    for _ in range(int(alive.sum())):
        gone = int(np.flatnonzero(sums >= sums.max() - EQUAL)[-1])
        order.append(gone)
        sums -= correlation[gone]
        sums[gone] = -np.inf
    return order
