"""L2 norm of the filters."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.pruning.criteria.base import WeightCriterion, per_unit, slices
from pipeline.pruning.groups import Group


@dataclass(frozen=True)
class L2(WeightCriterion):
    """Sum of the Euclidean norms of the filters that make the unit's channels."""

    def score(self, group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the norms, shape (units,)."""
        norms = [per_unit(m, slices(m, tensors).norm(dim=1)).cpu() for m in group.producers]
        return torch.stack(norms).sum(0)
