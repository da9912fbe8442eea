"""Structured pruning of any network that `torch.export` captures: plan, cut, prove."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.errors import UserError
from pipeline.plugins import did_you_mean, find
from pipeline.pruning import allocate, plan
from pipeline.pruning.counters import work
from pipeline.pruning.criteria.base import Criterion, Evidence
from pipeline.pruning.groups import Group, Structure, ignore, structure
from pipeline.pruning.plan import Plan
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import Inputs, as_inputs, capture, walk
from pipeline.pruning.verify import Proof, culprits, prove

UNPROVEN = "proof"  # the key of PruneResult.frozen for what would have broken the model's forward
CHOICES = {"scope": ("local", "global"), "target": ("ratio", "macs", "params")}


@dataclass(frozen=True)
class Settings:
    """How much to prune, and by what. Raises UserError for a value that cannot be.

    `ratio` is the share to remove of what `target` names: channels, multiply-accumulates or parameters.
    `scope` "local" takes the same share of every group; "global" ranks all channels by score, relative to
    their group's mean. Kept widths are the nearest multiples of `round_to`, not below `min_width`; a group
    never loses its last unit. `ignore` names layers whose output channels stay, wildcards allowed.
    """

    ratio: float = 0.5
    criterion: str = "l1"
    scope: str = "local"
    target: str = "ratio"
    round_to: int = 8
    min_width: int = 1
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise UserError(f"ratio: the share to remove must be at least 0 and below 1, got {self.ratio}")
        for key, known in CHOICES.items():
            if (value := getattr(self, key)) not in known:
                raise UserError(f"{key}: no {key} named {value!r}{did_you_mean(str(value), known)}")
        for key in ("round_to", "min_width"):
            if (number := getattr(self, key)) < 1:
                raise UserError(f"{key}: must be at least 1, got {number}")


@dataclass(frozen=True)
class PruneResult:
    """A pruned model, how it came about, and the evidence that it does what the original's rest did.

    Multiply-accumulates are those of one run on the example inputs. `requested` and `achieved` are shares
    removed of what `settings.target` names; of channels, those that an op without a rule keeps count too.
    """

    model: nn.Module
    plan: Plan
    proof: Proof
    settings: Settings
    achieved: float
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    frozen: Mapping[str, tuple[str, ...]]  # op -> weights whose channels it kept from being pruned

    @property
    def requested(self) -> float:
        """The share that was to be removed."""
        return self.settings.ratio


@dataclass(frozen=True)
class _Job:
    """Everything that planning needs, gathered once."""

    model: nn.Module
    structure: Structure
    scores: Mapping[str, NDArray[np.float64]]
    cost: allocate.Cost
    settings: Settings

    def widths(self, groups: tuple[Group, ...]) -> allocate.Keep:
        """Return how many units each of `groups` keeps; all others keep theirs."""
        s = self.settings
        scores = [self.scores[g.name] for g in groups]

        def keep_at(ratio: float) -> allocate.Keep:
            if s.scope == "global":
                wanted = allocate.global_wants(groups, scores, ratio)
            else:
                wanted = allocate.local_wants(groups, ratio)
            return allocate.rounded(groups, wanted, s.round_to, s.min_width)

        if s.scope == "local" and s.target == "ratio":
            return keep_at(s.ratio)
        return allocate.closest(keep_at, lambda keep: self.removed(groups, keep), s.ratio)

    def removed(self, groups: tuple[Group, ...], keep: allocate.Keep) -> float:
        """Return the share of the target that is gone."""
        if self.settings.target == "ratio":
            gone = sum((g.units - k) * g.channels_per_unit for g, k in zip(groups, keep, strict=True))
            return gone / max(self.structure.channels, 1)
        index = ("params", "macs").index(self.settings.target)
        return 1 - self.cost.after(groups, keep)[index] / max(self.cost.after((), ())[index], 1)

    def choose(self, without: Collection[str]) -> dict[str, tuple[int, ...]]:
        """Return the units that stay, by group, where the groups `without` are left whole."""
        groups = tuple(g for g in self.structure.groups if g.name not in without)
        keep = self.widths(groups)
        return {g.name: allocate.best(self.scores[g.name], k) for g, k in zip(groups, keep, strict=True)}

    def plan(self, kept: Mapping[str, tuple[int, ...]]) -> Plan:
        """Turn kept units into a plan."""
        settings = {**asdict(self.settings), "ignore": list(self.settings.ignore)}
        return plan.make(self.structure, kept, self.cost.shapes, settings)


def prune(model: nn.Module, example_inputs: Any, real_inputs: Any = None, **settings: Any) -> PruneResult:
    """Remove whole channels from a copy of `model`; the keywords are the fields of `Settings`.

    The result is proved: it equals `model` with the same channels set to zero, on noise shaped like
    `example_inputs` and on `real_inputs`. Groups that fail, because the forward holds a size that no module
    attribute reaches, are left whole and named in `frozen`. Input channels and outputs of the model stay.

    Raises UserError for impossible settings, weights that are not finite, and a model that `torch.export`
    cannot capture.
    """
    chosen = Settings(**settings)
    inputs = as_inputs(example_inputs)
    captured = capture(model, inputs)
    flow = walk(captured)
    ignore(flow, chosen.ignore)
    found = structure(flow)
    cost = allocate.Cost(captured.shapes, captured.parameters, work(captured))
    job = _Job(model, found, _scores(model, found, chosen), cost, chosen)
    kept, proof, unproven = _proved(job, inputs, None if real_inputs is None else as_inputs(real_inputs))
    return _result(job, kept, proof, unproven)


def _scores(model: nn.Module, found: Structure, settings: Settings) -> dict[str, NDArray[np.float64]]:
    criterion = find("pipeline.pruning.criteria", settings.criterion, Criterion)()
    evidence = Evidence(tensors(model))
    scores = {}
    for group in found.groups:
        values = criterion(group, evidence).detach().double().cpu().numpy()
        if not np.isfinite(values).all():
            names = ", ".join(m.tensor for m in group.producers)
            raise UserError(f"weights are not finite: {names}; the checkpoint holds NaN or Inf, train it again")
        scores[group.name] = values
    return scores


Kept = dict[str, tuple[int, ...]]


def _proved(job: _Job, inputs: Inputs, real: Inputs | None) -> tuple[Kept, Proof, set[str]]:
    """Plan until the proof holds, leaving whole the groups that fail it; return those too."""

    def attempt(kept: Kept) -> Proof:
        return prove(job.model, job.plan(kept), inputs, real)

    def holds(kept: Kept) -> Callable[[Collection[str]], bool]:
        return lambda names: attempt({n: kept[n] for n in names}).holds

    unproven: set[str] = set()
    while True:
        kept = job.choose(unproven)
        proof = attempt(kept)
        cut = [g.name for g in job.structure.groups if len(kept.get(g.name, ())) in range(1, g.units)]
        if proof.holds or not cut:
            return kept, proof, unproven
        unproven |= set(culprits(cut, holds(kept)) or cut)


def _result(job: _Job, kept: Kept, proof: Proof, unproven: set[str]) -> PruneResult:
    groups = tuple(g for g in job.structure.groups if g.name in kept)
    keep = tuple(len(kept[g.name]) for g in groups)
    (params_before, macs_before), (params_after, macs_after) = (
        job.cost.after((), ()),
        job.cost.after(groups, keep),
    )
    failed = tuple(m.tensor for g in job.structure.groups if g.name in unproven for m in g.producers)
    final = job.plan(kept)
    return PruneResult(
        model=final.apply(job.model),
        plan=final,
        proof=proof,
        settings=replace(job.settings),
        achieved=job.removed(groups, keep),
        macs_before=macs_before,
        macs_after=macs_after,
        params_before=params_before,
        params_after=params_after,
        frozen={**job.structure.frozen, **({UNPROVEN: failed} if failed else {})},
    )
