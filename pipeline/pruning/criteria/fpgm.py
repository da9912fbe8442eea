"""Distance from the other filters (He et al., Filter Pruning via Geometric Median, CVPR 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.pruning.criteria.base import WeightCriterion, slices
from pipeline.pruning.groups import Group, Member


@dataclass(frozen=True)
class Fpgm(WeightCriterion):
    """Sum of Euclidean distances from the layer's other filters: near the geometric median is redundant.

    Of a coupled group: summed over every layer that makes the unit's channels. A unit of several channels counts
    as one filter, all of theirs behind one another; other filters are those of the same group and layer.
    """

    def score(self, group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the distances, shape (units,)."""
        return torch.stack([_distances(_filters(m, tensors)).cpu() for m in group.producers]).sum(0)


def _filters(member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return one joint filter per unit, (units, n)."""
    rows = slices(member, tensors)
    return rows[torch.from_numpy(member.index).to(rows.device)].flatten(1)


def _distances(filters: Tensor) -> Tensor:
    # as a matrix product, which is much faster, in double precision: it loses digits between near filters
    doubled = filters.double()
    return torch.cdist(doubled, doubled, compute_mode="use_mm_for_euclid_dist").sum(1)
