"""L2 norm of the filters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.pruning.criteria.base import Criterion, Evidence, per_unit, slices
from pipeline.pruning.groups import Group


@dataclass(frozen=True)
class L2(Criterion):
    """Sum of the Euclidean norms of the filters that make the unit's channels."""

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the norms, shape (units,)."""
        norms = [per_unit(m, slices(m, evidence).norm(dim=1)).cpu() for m in group.producers]
        return torch.stack(norms).sum(0)
