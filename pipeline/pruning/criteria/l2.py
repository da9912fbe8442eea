"""L2 norm of the filters."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pipeline.pruning.criteria.base import FilterCriterion, per_unit, slices
from pipeline.pruning.groups import Member


@dataclass(frozen=True)
class L2(FilterCriterion):
    """Sum of the Euclidean norms of a unit's channels, relative to the layer's mean.

    Of a coupled group: the mean over the layers that make or read it, unless `readers` is false.
    """

    def layer(self, member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the norms of one layer, shape (units,)."""
        return per_unit(member, slices(member, tensors).norm(dim=1))
