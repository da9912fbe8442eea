"""AutoPruner (Luo & Wu, AutoPruner: An End-to-End Trainable Filter Pruning Method, Pattern Recognition 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from pipeline.errors import UserError
from pipeline.pruning.criteria.base import Ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.gating import Gated, Gates, gated
from pipeline.pruning.gradients import drawing
from pipeline.pruning.groups import Group
from pipeline.pruning.learning import Learning, learner
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import Inputs
from pipeline.pruning.verify import seeded

SHARPEST = 100.0  # what the sigmoid's input is multiplied by at the end, from 1 at the start

_POOLS = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


@dataclass(frozen=True)
class AutoPruner(Learning):
    """Binary codes, one for every unit, that are trained together with the network; the trained copy is pruned.

    A group's codes are sigmoid(alpha · linear(max-pooled batch mean of its first map that is read)), and multiply the
    group wherever layers read it; alpha grows from 1 to 100. The loss gets λ (mean code - r)² for every group, r the
    share of units to keep and λ = 100 |share of codes above ½ - r|. All groups train at once, with norms as in
    training and dropout off. Codes must not depend on a batch afterwards: group by group, from the input on, the
    mean over all samples gives final codes, the k highest of which are 1. Groups that nobody reads are not ranked.
    """

    keep: Annotated[float | None, Field(gt=0, le=1, description="r; null: what the ratio leaves")] = None
    pool: Annotated[int, Field(ge=1, description="positions per axis that maps are pooled to")] = 4
    # The authors start with 10 (their ResNet-50) or 1 (MobileNetV2): codes are then all but decided by the draw
    # before the loss has said a word, and alpha keeps them so. Near ½ at the start, they follow the loss.
    spread: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="initial weights of the codes, in Kaiming's deviations")
    ] = 0.1

    def learn(self, evidence: Evidence) -> Evidence:
        """Train a copy and the codes on the samples, then fix the codes."""
        network, model = evidence.watched, learner(evidence)
        found = gated(network, [evidence.twin(g) for g in evidence.groups])
        if not found:
            raise UserError(_REFUSED)
        share = {one.name: self.keep or 1 - evidence.settings.ratio_of(one.name) for one in found}
        with drawing(model, evidence.seed):
            heads = {one.name: self._head(one) for one in found}
        state, loss = tensors(model), evidence.seen.loss

        def objective(inputs: Inputs, labels: Tensor, done: float) -> Tensor:
            code = partial(self._code, heads, 1 + (SHARPEST - 1) * done)
            runner = Gates(network, state, found, code, training=True)
            total = loss(runner.returned(pytree.tree_leaves(inputs)), labels)
            return total + sum(pressure(runner.codes[name], share[name]) for name in share)

        self.fit(model, evidence, objective, extra=[p for head in heads.values() for p in head.parameters()])
        trained = replace(evidence, model=model)
        return replace(trained, learned=self.settle(trained, heads, share))

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Return the final codes, by group; of those that are equal once rounded, the sigmoid's input tells."""
        learned = {g.name: evidence.learned[g.name] for g in groups if g.name in evidence.learned}
        return refuse_if_empty({name: _ranking(logits) for name, logits in learned.items()}, groups, _REFUSED)

    def settle(
        self, evidence: Evidence, heads: Mapping[str, nn.Linear], share: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the sigmoid's final inputs by group, (units,), of the mean over all samples.

        Groups before one have their final codes by then, so that it matters not how samples lie in batches.
        """
        network = evidence.watched
        found = gated(network, [g for g in network.structure.groups if g.name in heads])
        fixed: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}

        def code(name: str, units: Tensor) -> Tensor:
            return fixed[name] if name in fixed else units.new_ones(units.shape[1])

        runner = Gates(network, evidence.tensors, found, code, training=False)
        with evidence.progress.bar("gates: codes", len(found)) as bar, seeded(evidence.model):
            for one in found:
                mean = torch.zeros(())
                for inputs, _ in evidence.seen.batches:
                    for _node in runner.stops(pytree.tree_leaves(inputs), [runner.after(one.map.node)]):
                        units = one.map.units(runner.env[one.map.node])
                        mean = mean.to(units) + units.mean(0) / len(evidence.seen.batches)
                logits[one.name] = (SHARPEST * heads[one.name](self._pooled(mean))).double().cpu()
                kept = max(1, round(share[one.name] * one.units))
                fixed[one.name] = torch.zeros(one.units).index_fill(0, _highest(logits[one.name], kept), 1).to(mean)
                bar.advance()
        return logits

    def _code(self, heads: Mapping[str, nn.Linear], sharpness: float, name: str, units: Tensor) -> Tensor:
        """Return the codes of a batch, (units,)."""
        return torch.sigmoid(sharpness * heads[name](self._pooled(units.mean(0))))

    def _pooled(self, mean: Tensor) -> Tensor:
        """Max-pool a mean map (units, n, …) to a vector."""
        dims = mean.ndim - 2
        if dims in _POOLS:
            mean = _POOLS[dims](mean, [min(self.pool, size) for size in mean.shape[2:]])
        return mean.flatten()

    def _head(self, one: Gated) -> nn.Linear:
        """Return the layer that makes codes, drawn from torch's own generator."""
        value = one.map.node.meta["val"]
        inputs = len(self._pooled(torch.empty(one.shape)))
        head = nn.Linear(inputs, one.units)
        nn.init.normal_(head.weight, std=self.spread * (2 / inputs) ** 0.5)
        nn.init.zeros_(head.bias)
        return head.to(value.device, value.dtype)


def pressure(code: Tensor, share: float) -> Tensor:
    """Return λ (mean code - share)², a scalar."""
    now = (code.detach() > 0.5).to(code).mean()
    return 100 * (now - share).abs() * (code.mean() - share).square()


def _ranking(logits: Tensor) -> Ranking:
    return Ranking(torch.sigmoid(logits).numpy(), pick=lambda k: _highest(logits, k).tolist())


def _highest(logits: Tensor, k: int) -> Tensor:
    """Return the k units of highest code, of equal ones the first."""
    return torch.argsort(-logits, stable=True)[:k]


_REFUSED = "criterion gates: gates what layers read, and no layer reads a channel that may go; choose another"
