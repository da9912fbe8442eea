"""The contract of a criterion: one score per unit of a coupled group, larger = keep."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.pruning.groups import Group, Member


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at: the model's parameters and buffers by name."""

    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Criterion(ABC):
    """Scores the units of a group. Its fields are its whole configuration."""

    @abstractmethod
    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the scores, shape (units,), larger = keep; only their order within the group matters."""


def slices(member: Member, evidence: Evidence) -> Tensor:
    """Return the weights behind every position of a member's dimension as float rows, (positions, n)."""
    weight = evidence.tensors[member.tensor].detach()
    return weight.movedim(member.dim, 0).flatten(1).float() if weight.ndim > 1 else weight[:, None].float()


def per_unit(member: Member, scores: Tensor) -> Tensor:
    """Sum scores of single positions, shape (positions,), to scores of units, shape (units,)."""
    return scores[torch.from_numpy(member.index).to(scores.device)].sum(1)
