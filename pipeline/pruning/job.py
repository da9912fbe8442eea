"""A network to prune, with everything that planning needs: widths, units, plans and their proof's reference."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from pipeline.pruning import allocate, costs, graph, plan
from pipeline.pruning.attributes import Guesses, attributes, changes
from pipeline.pruning.criteria.base import Ranking
from pipeline.pruning.groups import Group, Structure
from pipeline.pruning.network import Network
from pipeline.pruning.plan import Plan
from pipeline.pruning.reconstruct import Refit
from pipeline.pruning.reference import Reference
from pipeline.pruning.repair import Failed
from pipeline.pruning.settings import Settings
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import Inputs
from pipeline.pruning.verify import Proof, comparable, lively

NEAR = 0.01  # how far from the share asked for the same share of every group may end, before others make up for it

Kept = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Job:
    """Everything that planning needs, gathered once."""

    model: nn.Module
    probe: nn.Module  # what is run to prove a plan
    known: Network
    rankings: Mapping[str, Ranking]
    cost: costs.Cost
    whole: Mapping[str, int]  # what the model cost before any module was removed
    settings: Settings
    refit: Refit | None

    @property
    def structure(self) -> Structure:
        """The groups of the model."""
        return self.known.structure

    @property
    def unranked(self) -> set[str]:
        """The groups that might go but that the criterion says nothing of; they stay whole."""
        return {g.name for g in self.structure.of_kinds(self.settings.granularity)} - self.rankings.keys()

    def groups(self, without: Collection[str] = ()) -> tuple[Group, ...]:
        """Return the groups that may be pruned."""
        skipped = {*without, *self.unranked}
        return tuple(g for g in self.structure.of_kinds(self.settings.granularity) if g.name not in skipped)

    def widths(self, groups: tuple[Group, ...], ties: Sequence[frozenset[str]]) -> allocate.Keep:
        """Return how many units each of `groups` keeps; all others keep theirs."""
        s = self.settings
        ranked = [self.rankings[g.name] for g in groups]
        rounding = s.round_to, s.min_width
        wants = allocate.wants(s.scope, s.curves)

        def keep_at(ratio: float) -> allocate.Keep:
            return allocate.rounded(groups, wants(groups, ranked, ratio), rounding, ties)

        if isinstance(s.ratio, Mapping):
            return allocate.rounded(groups, [g.units * (1 - s.ratio_of(g.name)) for g in groups], rounding, ties)
        if s.target == "ratio" and s.scope == "local":
            keep = keep_at(s.ratio)
            goal = s.ratio * sum(g.channels for g in groups) / max(self.structure.channels, 1)
            if abs(self.removed(groups, keep) - goal) <= NEAR:
                return keep
            return allocate.closest(keep_at, lambda keep: self.removed(groups, keep), goal)
        return allocate.closest(keep_at, lambda keep: self.removed(groups, keep), s.ratio)

    def removed(self, groups: tuple[Group, ...], keep: allocate.Keep) -> float:
        """Return the share of the target that is gone."""
        if self.settings.target == "ratio":
            gone = sum((g.units - k) * g.channels_per_unit for g, k in zip(groups, keep, strict=True))
            return gone / max(self.structure.channels, 1)
        target = self.settings.target
        return 1 - self.cost.after(groups, keep)[target] / max(self.whole[target], 1)

    def choose(self, without: Collection[str], ties: Sequence[frozenset[str]]) -> Kept:
        """Return the units that stay, by group, where the groups `without` are left whole."""
        groups = self.groups(without)
        keep = self.widths(groups, ties)
        return {g.name: self.rankings[g.name].keep(k) for g, k in zip(groups, keep, strict=True)}

    def plan(self, kept: Kept, guesses: Guesses) -> Plan:
        """Turn kept units into a plan."""
        changed = changes(self.known.flow, self.structure.alive(kept)) if self.settings.form == "module" else []
        new = attributes(self.model, changed, guesses)
        return plan.make(self.structure, kept, self.known.captured.shapes, new, _record(self.settings))

    def cut(self, model: nn.Module, kept: Kept, made: Plan) -> nn.Module:
        """Return a pruned copy of `model`, which is the probe or the model, in the form asked for."""
        if self.settings.form == "graph":
            return graph.cut(model, self.known, self.structure.alive(kept))
        return made.apply(model)

    def refitted(self, kept: Kept) -> "Job":
        """Return the job of the same network with the weights that read what goes fit anew, if that was asked for."""
        model = self.model if self.refit is None else self.refit(self.model, kept)
        return self if model is self.model else replace(self, model=model, probe=lively(model))

    def failed(self, proof: Proof, kept: Kept, pruned: nn.Module, inputs: Inputs) -> Failed:
        """Return a failed proof with all that can be learned from."""
        known = self.known
        run = pruned if self.settings.form == "module" else None
        return Failed(proof, self.model, known.captured, known.flow, known.structure, kept, run, inputs)

    def reference(self, kept: Kept) -> Reference:
        """Return the probe with everything else at zero."""
        state = {name: comparable(tensor) for name, tensor in tensors(self.probe).items()}
        return Reference(self.known.captured, self.known.flow, self.structure.alive(kept), state)


def _record(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON has them."""
    ratio = dict(settings.ratio) if isinstance(settings.ratio, Mapping) else settings.ratio
    return {
        **asdict(settings),
        "ratio": ratio,
        "ignore": list(settings.ignore),
        "granularity": list(settings.granularity),
        "sensitivity": settings.curves.digest if settings.curves else None,
    }
