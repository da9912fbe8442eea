"""Average rank of feature maps (Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipeline.pruning.criteria.base import Cost, Criterion, Ranking, ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.taps import Tap, maps

CHUNK = 4096  # matrices per decomposition, which bounds its work space


@dataclass(frozen=True)
class Hrank(Criterion):
    """Mean rank of a channel's feature maps H×W over the samples: maps of low rank carry little.

    Of a coupled group: the mean over the feature maps that are read, and over the channels of a unit. Groups
    whose values have no height and width, as behind linear layers and in tokens, are not ranked. Ranks are at
    most the shorter side of a map, so that units of late layers tie; of equal ones the first stays.
    """

    cost: ClassVar[Cost] = Cost.FORWARD

    tolerance: Annotated[
        float, Field(gt=0, lt=1, description="singular values below this share of the largest count as zero")
    ] = 1e-5

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Sum ranks in one pass; memory holds one number per unit."""
        taps = [t for g in groups for t in maps(evidence.watched, evidence.twin(g)) if _is_spatial(t)]
        looks = [(tap, _Ranks(tap, self.tolerance)) for tap in taps]
        evidence.observe(looks, "hrank: ranks of feature maps")
        found: dict[str, list[Tensor]] = {}
        for tap, look in looks:
            found.setdefault(tap.group, []).append(look.mean)
        return refuse_if_empty(
            {name: ranking(torch.stack(means).mean(0)) for name, means in found.items()},
            groups,
            "criterion hrank: goes by feature maps with height and width, and no channel that may go has one; "
            "choose another",
        )


def _is_spatial(tap: Tap) -> bool:
    return int(tap.node.meta["val"].ndim) == 4


class _Ranks:
    """Adds up, per unit, the ranks of its maps; whole numbers, so that the order of batches changes nothing."""

    def __init__(self, tap: Tap, tolerance: float) -> None:
        self._tap, self._tolerance = tap, tolerance
        self._sum, self._of = torch.zeros(len(tap.index), dtype=torch.float64), 0

    def __call__(self, value: Tensor) -> None:
        units = self._tap.units(value)
        found = torch.cat([ranks(some, self._tolerance) for some in units.flatten(0, 2).split(CHUNK)])
        by_unit = found.reshape(units.shape[:3])
        self._sum += by_unit.sum((0, 2)).cpu()
        self._of += by_unit[:, 0].numel()

    @property
    def mean(self) -> Tensor:
        return self._sum / self._of


def ranks(matrices: Tensor, tolerance: float) -> Tensor:
    """Return the ranks, shape (n,) float64, of matrices (n, H, W); of one that is not finite NaN."""
    finite = matrices.isfinite().flatten(1).all(1)
    values = torch.linalg.svdvals(torch.where(finite[:, None, None], matrices, 0).float())
    counts = (values > tolerance * values[:, :1]).sum(1).double()
    return torch.where(finite, counts, torch.nan)
