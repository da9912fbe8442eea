"""Network slimming (Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from pipeline.errors import UserError
from pipeline.pruning.criteria.base import Ranking, ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.learning import Learning, learner
from pipeline.pruning.norms import scale_members, scale_names, scales


@dataclass(frozen=True)
class Slimming(Learning):
    """Scale |gamma| of the unit's batch norms after training with an L1 penalty on them; the trained copy is pruned.

    Every step adds sparsity · sign(gamma) to the gradient of the scales of all groups that may go; shifts β have no
    penalty. Of a coupled group: the mean |gamma| over its norms. Groups without a batch norm are not ranked.
    """

    sparsity: Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight of the L1 penalty")] = 1e-4

    def learn(self, evidence: Evidence) -> Evidence:
        """Train a copy on the samples with the penalty."""
        names = scale_names(evidence.network.captured)
        members = [m for g in evidence.groups for m in scale_members(g, names)]
        if not members:
            raise UserError(_REFUSED)
        model = learner(evidence)
        pushed = [model.get_parameter(name) for name in sorted({m.tensor for m in members})]

        def push() -> None:
            for gamma in pushed:
                if gamma.grad is not None:
                    gamma.grad.add_(gamma.detach().sign(), alpha=self.sparsity)

        loss = evidence.seen.loss
        self.fit(model, evidence, lambda inputs, labels, _: loss(model(*inputs), labels), push)
        return replace(evidence, model=model)

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Return the mean |gamma|, by group."""
        names = scale_names(evidence.network.captured)
        found = {g.name: scales(g, names, evidence.tensors) for g in groups}
        ranked = {name: ranking(score, comparable=True) for name, score in found.items() if score is not None}
        return refuse_if_empty(ranked, groups, _REFUSED)


_REFUSED = "criterion slimming: trains the scales of batch norms, and no channel that may go has one; choose another"
