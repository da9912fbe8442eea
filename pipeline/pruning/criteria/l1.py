"""L1 norm of the filters (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pipeline.pruning.criteria.base import FilterCriterion, per_unit, slices
from pipeline.pruning.groups import Member


@dataclass(frozen=True)
class L1(FilterCriterion):
    """Sum of absolute weights of a unit's channels, relative to the layer's mean.

    Of a coupled group: the mean over the layers that make or read it, unless `readers` is false.
    """

    def layer(self, member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the norms of one layer, shape (units,)."""
        return per_unit(member, slices(member, tensors).abs().sum(1))
