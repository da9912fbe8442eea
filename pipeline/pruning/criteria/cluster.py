"""Subspace clustering of feature maps (Wang et al., Exploring Linear Relationship, arXiv 1803.05729, 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Annotated, ClassVar

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

SILENT = 1e-12  # norm, as a share of the group's largest, of a unit that says nothing
LEAST = 1e-9  # affinity of any two units, as a share of the largest: an unconnected graph has no order of clusters


@dataclass(frozen=True)
class Cluster(Criterion):
    """Clusters of channels whose feature maps express each other: of each, the one of greatest norm stays.

    Every map is expressed by the others, X = XC with diag C = 0; |C| + |C|ᵀ is clustered spectrally into as many
    clusters as units are to stay. X has, for every unit, all positions of all samples; of a coupled group, those
    of all feature maps that are read, and of all channels of a unit, behind one another. The scores, which scopes
    that rank all groups together compare, are norms.
    """

    cost: ClassVar[Cost] = Cost.FORWARD

    ridge: Annotated[float, Field(gt=0, description="weight of |C|² beside |X − XC|², for maps of norm 1")] = 0.01

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Gather XᵀX in one pass; memory holds one (units, units) matrix per group."""
        if find_spec("sklearn") is None:
            raise UserError("criterion cluster: needs scikit-learn; pip install 'edgesmith[criteria]'")
        taps = [t for g in groups for t in maps(evidence.watched, evidence.twin(g))]
        grams = {tap.group: torch.zeros((len(tap.index),) * 2, dtype=torch.float64) for tap in taps}
        evidence.observe([(tap, partial(_add, grams[tap.group], tap)) for tap in taps], "cluster: feature maps")
        return refuse_if_empty(
            {name: _ranking(gram.numpy(), self.ridge) for name, gram in grams.items()},
            groups,
            "criterion cluster: looks at feature maps, and no channel that may go has one; choose another",
        )


def _add(gram: Tensor, tap: Tap, value: Tensor) -> None:
    rows = tap.units(value).transpose(0, 1).flatten(1).double()
    gram += (rows @ rows.T).cpu()


def _ranking(gram: Matrix, ridge: float) -> Ranking:
    norms = np.sqrt(np.diagonal(gram))
    if not np.isfinite(gram).all():
        return Ranking(np.full(len(gram), np.nan))
    live = np.flatnonzero(norms > SILENT * norms.max(initial=0.0))
    scaled = gram[np.ix_(live, live)] / np.outer(norms[live], norms[live])
    affinity = np.abs(expression(scaled, ridge)) if len(live) else scaled
    return Ranking(norms, pick=partial(representatives, norms, live, affinity + affinity.T))


def expression(gram: Matrix, ridge: float) -> Matrix:
    """Return C, diag C = 0, that minimises |X − XC|² + ridge·|C|² for XᵀX = `gram`, (units, units).

    Column j is the ridge regression of map j on all others, whose closed form is the j-th column of
    P = (XᵀX + ridge·I)⁻¹ over −P_jj (Lu et al., Robust and Efficient Subspace Segmentation via Least Squares
    Regression, ECCV 2012).
    """
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    coefficients = -inverse / np.diagonal(inverse)
    np.fill_diagonal(coefficients, 0.0)
    return coefficients


def representatives(norms: Matrix, live: NDArray[np.int64], affinity: Matrix, k: int) -> list[int]:
    """Return the unit of greatest norm of each of `k` clusters; of equal norms the first.

    Where there are fewer clusters than that, and for units that say nothing, the greatest norms fill up.
    """
    by_norm = np.argsort(-norms, kind="stable").tolist()
    if k >= len(live):
        return by_norm[:k]
    label = dict(zip(live.tolist(), labels(affinity, k).tolist(), strict=True))
    first = {label[unit]: unit for unit in reversed(by_norm) if unit in label}
    chosen = [*first.values()]
    return chosen + [unit for unit in by_norm if unit not in chosen][: k - len(chosen)]


def labels(affinity: Matrix, k: int) -> NDArray[np.int64]:
    """Return the spectral cluster of every unit, always the same for the same affinity."""
    if k == 1:
        return np.zeros(len(affinity), np.int64)
    from sklearn.cluster import spectral_clustering

    connected = affinity + LEAST * (affinity.max() or 1.0)
    found: NDArray[np.int64] = spectral_clustering(
        connected, n_clusters=k, eigen_solver="arpack", assign_labels="cluster_qr", random_state=0
    ).astype(np.int64)
    return found
