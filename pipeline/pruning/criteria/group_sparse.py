"""Group-sparse learning (Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.pruning.criteria.base import Ranking, per_unit, ranking
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group, Member
from pipeline.pruning.learning import Learning, learner


@dataclass(frozen=True)
class GroupSparse(Learning):
    """L2 norm of all that goes with the unit, after training that shrinks weak units as a whole; that copy is pruned.

    I_k, the importance of unit k, is the sum of squares of its slices of every coupled parameter: those that make
    and those that read it, norms and biases. Every step adds strength · 2^(growth · (max I − I_k) / (max I − min I))
    times the weight to the gradient, for every parameter of the unit, with I as it then is. Scores are √I.
    """

    strength: Annotated[float, Field(ge=0, allow_inf_nan=False, description="λ, weight of the penalty")] = 5e-4
    growth: Annotated[float, Field(ge=0, le=64, description="alpha, how much harder the weakest unit is pressed")] = 4.0

    def learn(self, evidence: Evidence) -> Evidence:
        """Train a copy on the samples with the penalty."""
        model = learner(evidence)
        names = evidence.network.captured.parameters
        pushed = [_parameters(g, names) for g in evidence.groups]
        held = {m.tensor: model.get_parameter(m.tensor) for members in pushed for m in members}

        @torch.no_grad()
        def push() -> None:
            for members in pushed:
                self._press(members, held)

        loss = evidence.seen.loss
        self.fit(model, evidence, lambda inputs, labels, _: loss(model(*inputs), labels), push)
        return replace(evidence, model=model)

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Return the norms, by group."""
        names = evidence.network.captured.parameters
        return {g.name: ranking(squares(_parameters(g, names), evidence.tensors).sqrt()) for g in groups}

    def _press(self, members: Sequence[Member], held: Mapping[str, nn.Parameter]) -> None:
        """Add a group's penalty to the gradients."""
        rates = self.strength * rise(squares(members, held), self.growth)
        for member in members:
            weight = held[member.tensor]
            if weight.grad is None:
                continue
            places = torch.from_numpy(member.index.ravel()).to(weight.device)
            per_place = rates.to(weight).repeat_interleave(member.index.shape[1])
            shape = [-1 if d == member.dim else 1 for d in range(weight.ndim)]
            pressed = weight.index_select(member.dim, places) * per_place.reshape(shape)
            weight.grad.index_add_(member.dim, places, pressed)


def squares(members: Sequence[Member], tensors: Mapping[str, Tensor]) -> Tensor:
    """Return I, (units,): the sum of squares over everything of a unit."""
    total = torch.zeros(len(members[0].index), dtype=torch.float64)
    for member in members:
        weight = tensors[member.tensor].detach().movedim(member.dim, 0)
        total += per_unit(member, weight.reshape(len(weight), -1).double().square().sum(1)).cpu()
    return total


def rise(importance: Tensor, growth: float) -> Tensor:
    """Return 2^(growth · (max − I) / (max − min)), (units,): 1 for the strongest unit, all 1 where all are equal."""
    spread = importance.max() - importance.min()
    weakness = (importance.max() - importance) / spread if spread > 0 else torch.zeros_like(importance)
    return torch.exp2(growth * weakness)


def _parameters(group: Group, names: frozenset[str]) -> list[Member]:
    return [m for m in group.members if m.tensor in names]
