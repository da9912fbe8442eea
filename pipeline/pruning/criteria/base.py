"""The contract of a criterion: how it ranks the units of coupled groups, larger = keep."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group, Member
from pipeline.pruning.rules.base import Role
from pipeline.pruning.samples import Samples


class Cost(Enum):
    """What scoring takes."""

    WEIGHTS = "weights only"
    FORWARD = "one pass over the samples"
    GRADIENT = "one pass with gradients"
    SUFFIX = "part of a pass per unit"
    TRAINING = "trains the network"


@dataclass(frozen=True)
class Ranking:
    """What a criterion says of one group of coupled channels.

    `scores` has shape (units,), larger = keep. `pick` returns the units to keep when `k` stay, where those are
    not simply the `k` of highest score. `spectrum` are eigenvalues, (units,), of how the units' responses vary
    together, where the criterion has them: what they say of the width a group needs, allocators can use.
    `comparable` says that scores of different groups are on one scale, so that ranking them together takes them
    as they are; others are divided by their group's mean first.
    """

    scores: NDArray[np.float64]
    pick: Callable[[int], Sequence[int]] | None = None
    spectrum: NDArray[np.float64] | None = None
    comparable: bool = False

    def keep(self, k: int) -> tuple[int, ...]:
        """Return the `k` units that stay, ascending; of equal ones the first."""
        chosen = np.argsort(-self.scores, kind="stable")[:k] if self.pick is None else np.asarray(self.pick(k))
        return tuple(np.sort(chosen).tolist())


@dataclass(frozen=True)
class Criterion(ABC):
    """Ranks the units of groups. Its fields are its whole configuration.

    A group's score is that of all its members together: removing a unit removes the channel from every layer
    that makes or reads it, so its scores are summed or averaged over them, as each criterion says.
    """

    cost: ClassVar[Cost] = Cost.WEIGHTS
    reconstructs: ClassVar[Literal["scale", "full"] | None] = None  # the refit of what reads, part of the method

    @abstractmethod
    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Return the ranking of every group, by name; groups that it cannot rank, it leaves out.

        Raises UserError where it has no samples but needs them, and for a network that it says nothing about.
        """

    def learn(self, evidence: Evidence) -> Evidence:
        """Return what to rank by, with the model to prune: that given, or one of a copy that this criterion trained.

        What else it learned, `rank` finds in the evidence's `learned`.
        """
        return evidence

    def modules(
        self, names: Collection[str], model: nn.Module, samples: Samples | None, progress: Progress
    ) -> Mapping[str, float] | None:
        """Return how much each module that might go whole matters, larger = keep; None: leave it to their influence.

        A module that goes passes its input on. Raises UserError as `rank` does.
        """
        return None


@dataclass(frozen=True)
class FilterCriterion(Criterion):
    """A criterion that looks at the weights of one layer at a time.

    Of a coupled group: the mean over the layers that make the unit's channels and, with `readers`, over those that
    read them, as what they multiply them by goes too (Fang et al., DepGraph, CVPR 2023). A layer's scores count
    relative to their mean over its units: weights of different layers, all the more of those that a norm follows,
    are on different scales.
    """

    readers: Annotated[
        bool, Field(description="whether the weights that later layers read a channel by count; false: filters alone")
    ] = True

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Score every group by itself; it takes no samples."""
        return {g.name: ranking(self.score(g, evidence.tensors)) for g in groups}

    def score(self, group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the scores, shape (units,) float64, larger = keep."""
        roles = (Role.OUT, Role.IN) if self.readers else (Role.OUT,)
        layers = [self.layer(m, tensors).double().cpu() for m in group.members if m.role in roles]
        return torch.stack([relative(scores) for scores in layers]).mean(0)

    @abstractmethod
    def layer(self, member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return what one layer's weights say, shape (units,), at least 0, larger = keep."""


def relative(scores: Tensor) -> Tensor:
    """Return scores divided by their mean; those of a layer of zeros as they are."""
    mean = scores.mean()
    return scores / mean if mean != 0 else scores


def ranking(scores: Tensor, *, comparable: bool = False) -> Ranking:
    """Return scores as a ranking."""
    return Ranking(scores.detach().double().cpu().numpy(), comparable=comparable)


def slices(member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the weights behind every position of a member's dimension as float rows, (positions, n)."""
    weight = tensors[member.tensor].detach()
    return weight.movedim(member.dim, 0).flatten(1).float() if weight.ndim > 1 else weight[:, None].float()


def per_unit(member: Member, scores: Tensor) -> Tensor:
    """Sum scores of single positions, shape (positions,), to scores of units, shape (units,)."""
    return scores[torch.from_numpy(member.index).to(scores.device)].sum(1)


def refuse_if_empty(found: Mapping[str, Ranking], groups: Sequence[Group], line: str) -> Mapping[str, Ranking]:
    """Return the rankings, unless there are groups and it ranks none. Raises UserError with `line` then."""
    if groups and not found:
        raise UserError(line)
    return found
