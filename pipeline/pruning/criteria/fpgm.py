"""Distance from the other filters (He et al., Filter Pruning via Geometric Median, CVPR 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.pruning.criteria.base import FilterCriterion, slices
from pipeline.pruning.groups import Member


@dataclass(frozen=True)
class Fpgm(FilterCriterion):
    """Sum of Euclidean distances from the layer's other filters: near the geometric median is redundant.

    Of a coupled group: the mean over the layers that make or read it, unless `readers` is false, of sums relative
    to the layer's mean; what a layer reads a channel by counts as a filter as well. A unit of several channels is
    one filter, all of theirs behind one another; other filters are those of the same group and layer.
    """

    def layer(self, member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the distances within one layer, shape (units,)."""
        return _distances(_filters(member, tensors))


def _filters(member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return one joint filter per unit, (units, n)."""
    rows = slices(member, tensors)
    return rows[torch.from_numpy(member.index).to(rows.device)].flatten(1)


def _distances(filters: Tensor) -> Tensor:
    # as a matrix product, which is much faster, in double precision: it loses digits between near filters
    doubled = filters.double()
    return torch.cdist(doubled, doubled, compute_mode="use_mm_for_euclid_dist").sum(1)
