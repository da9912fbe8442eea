"""First-order Taylor expansion of the loss (Molchanov et al., Importance Estimation for Pruning, CVPR 2019)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.pruning.criteria.base import Cost, Criterion, Ranking, per_unit, ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.gradients import drawing, finite, trainable, training_loss
from pipeline.pruning.groups import Group, Member
from pipeline.pruning.rules.base import Role


@dataclass(frozen=True)
class Taylor(Criterion):
    """How much the loss would change without the unit, to first order: the squared derivative by a gate on it.

    One gate of value 1 multiplies the unit's channels at every layer that reads them. Its derivative is taken
    in this order: gradient of the mean loss of a batch, times weight, summed with signs over the columns that
    read the unit in all coupled layers (which equals activation times gradient, summed over samples, positions
    and readers); then squared, or its absolute value with `of: abs`; then averaged over batches. Signs cancel
    inside a unit and inside a batch, as in the paper: batches of one measure every sample by itself, one batch
    of all only what they agree on, and scores of different batch sizes do not compare. Groups that nobody reads
    take the weights that make them, or the affine of the norm after those.
    """

    cost: ClassVar[Cost] = Cost.GRADIENT

    of: Literal["square", "abs"] = "square"

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Take the gradients of every batch in evaluation mode; memory holds one batch and one number per unit."""
        parameters = evidence.network.captured.parameters
        gates = {g.name: found for g in groups if (found := gate(g, parameters))}
        scores = {g.name: torch.zeros(g.units, dtype=torch.float64) for g in groups if g.name in gates}
        power = 2 if self.of == "square" else 1
        model = trainable(evidence.model).eval()
        batches = evidence.seen.batches
        with evidence.progress.bar("taylor: gradients", len(batches)) as bar, drawing(model, evidence.seed):
            for inputs, labels in batches if gates else ():
                loss = finite(training_loss(model, inputs, labels, evidence), "taylor")
                slopes = _slopes(model, loss, gates)
                for name, slope in slopes.items():
                    scores[name] += slope.abs() ** power / len(batches)
                bar.advance()
        return refuse_if_empty(
            {name: ranking(score, comparable=True) for name, score in scores.items()},
            groups,
            "criterion taylor: goes by gradients, and no channel that may go has a parameter; choose another",
        )


def gate(group: Group, parameters: Collection[str]) -> list[Member]:
    """Return the parameters of which Σ weight · gradient is the derivative by the gate of a unit.

    Those that read it; where none does, the norms behind those that make it, else those that make it.
    """
    held = [m for m in group.members if m.tensor in parameters]
    read = [m for m in held if m.role is Role.IN]
    if read:
        return read
    biases = {m.tensor.replace("weight", "bias") for m in group.producers}
    affine = [m for m in held if m.role is Role.ALONG and m.tensor not in biases]
    return affine or held


def _slopes(model: nn.Module, loss: Tensor, gates: Mapping[str, Sequence[Member]]) -> dict[str, Tensor]:
    """Return the derivative of the loss by every unit's gate, (units,), by group."""
    names = sorted({m.tensor for members in gates.values() for m in members})
    weights = [model.get_parameter(name) for name in names]
    slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    products = {
        name: (weight.detach() * slope).double()
        for name, weight, slope in zip(names, weights, slopes, strict=True)
        if slope is not None
    }
    return {name: _signed(members, products) for name, members in gates.items()}


def _signed(members: Sequence[Member], products: Mapping[str, Tensor]) -> Tensor:
    """Sum weight · gradient over everything of a unit, signs kept."""
    total = torch.zeros(len(members[0].index), dtype=torch.float64)
    for member in members:
        if member.tensor in products:
            product = products[member.tensor].movedim(member.dim, 0)
            total += per_unit(member, product.reshape(len(product), -1).sum(1)).cpu()
    return total
