"""L1 norm of the filters (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.pruning.criteria.base import WeightCriterion, per_unit, slices
from pipeline.pruning.groups import Group


@dataclass(frozen=True)
class L1(WeightCriterion):
    """Sum of absolute weights, over every layer that makes the unit's channels."""

    def score(self, group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the norms, shape (units,)."""
        norms = [per_unit(m, slices(m, tensors).abs().sum(1)).cpu() for m in group.producers]
        return torch.stack(norms).sum(0)
