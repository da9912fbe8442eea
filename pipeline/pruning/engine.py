"""Structured pruning of any network that `torch.export` captures: plan, cut, prove."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from pipeline.errors import UserError
from pipeline.progress import SILENT, Progress
from pipeline.pruning import allocate, costs
from pipeline.pruning.criteria.base import Ranking
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.job import Job, Kept
from pipeline.pruning.network import network_of, network_on
from pipeline.pruning.plan import Plan
from pipeline.pruning.ranking import criterion_of, rankings
from pipeline.pruning.reconstruct import refit_of
from pipeline.pruning.repair import Lessons
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import CHANNELS, WEIGHT, Settings
from pipeline.pruning.shorten import Shorter, shorten
from pipeline.pruning.sparsity import SparseResult, sparsify
from pipeline.pruning.trace import Inputs, as_inputs, capture
from pipeline.pruning.verify import Proof, lively, prove

UNPROVEN_DEPTH = "proof of removal"  # its key for modules that could not be removed after all
UNPROVEN = "proof"  # the key of PruneResult.frozen for what would have broken the model's forward


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
    requested: float
    achieved: float
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    frozen: Mapping[str, tuple[str, ...]]  # op -> weights whose channels it kept from being pruned
    sparsity: SparseResult | None = None  # where single weights were set to zero
    batch: int | None = None  # the only batch that the model runs on, None for any; form "graph" may have one

    @property
    def hint(self) -> str:
        """What to try where the forward held sizes that could not be changed; empty where there is nothing to try."""
        if UNPROVEN not in self.frozen or self.settings.form == "graph":
            return ""
        return "form='graph' cuts the captured graph instead of the modules, so that sizes in the forward can change"


@dataclass(frozen=True)
class Scored:
    """What a criterion says of a model's groups; `model` is a trained copy where the criterion learns."""

    rankings: Mapping[str, Ranking]
    model: nn.Module


def groups_of(model: nn.Module, example_inputs: Any, **settings: Any) -> tuple[Group, ...]:
    """Return the groups that may go, in the order of the layers that make them. Raises UserError as `prune` does."""
    chosen = Settings(**settings)
    return network_on(model, example_inputs, chosen).structure.of_kinds(chosen.granularity)


def score(
    model: nn.Module,
    example_inputs: Any,
    samples: Samples | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> Scored:
    """Score a model once, to prune it to several ratios; the keywords are the fields of `Settings`.

    Raises UserError as `prune` does.
    """
    chosen = Settings(**settings)
    known = network_on(model, example_inputs, chosen)
    return Scored(*rankings(Evidence(model, known, samples, chosen, progress)))


def prune(
    model: nn.Module,
    example_inputs: Any,
    real_inputs: Any = None,
    samples: Samples | None = None,
    progress: Progress = SILENT,
    scored: Scored | None = None,
    **settings: Any,
) -> PruneResult:
    """Remove whole channels from a copy of `model`; the keywords are the fields of `Settings`.

    The result is proved: it equals `model` with the same channels set to zero, on noise shaped like
    `example_inputs` and on `real_inputs`. Groups that fail, because the forward holds a size that no module
    attribute reaches, are left whole and named in `frozen`. Input channels and outputs of the model stay.
    With form "graph" the result runs the captured graph, and sizes in it can change.

    `samples` are what criteria that go by data look at, and what weights are fit to with `reconstruct`; the proof is
    then that of the fit weights, which a replay of the plan does not hold. `scored` is what `score` returned for
    the same model and settings: it is not scored again, and where the criterion learns, what it trained is pruned.

    Raises UserError for impossible settings, a criterion that cannot rank this model, weights that are not
    finite, real inputs that do not fit the example, and a model that `torch.export` cannot capture.
    """
    chosen = Settings(**settings)
    inputs = as_inputs(example_inputs)
    real = None if real_inputs is None else as_inputs(real_inputs)
    captured = capture(model, inputs)
    whole = costs.total(captured)
    shorter = None
    if chosen.depth:
        judge = partial(
            criterion_of(chosen.criterion, chosen.criterion_options).modules,
            model=model,
            samples=samples,
            progress=progress,
        )
        shorter = shorten(model, captured, chosen, inputs, real, judge)
    if shorter is not None and shorter.removed:
        model, captured = shorter.model, capture(shorter.model, inputs)
    known = network_of(model, captured, inputs, chosen)
    cost = costs.of_network(known.captured, known.flow, known.structure)
    evidence = Evidence(model, known, samples, chosen, progress)
    refit = refit_of(evidence)  # what it lacks, it says before any work
    scored = scored or Scored(*rankings(evidence))
    job = Job(scored.model, lively(scored.model), known, scored.rankings, cost, whole, chosen, refit)
    result = _proved(job, inputs, real)
    if shorter is not None:
        result = _with_depth(result, shorter)
    return _with_zeros(result) if WEIGHT in chosen.granularity else result


def _with_depth(result: PruneResult, shorter: Shorter) -> PruneResult:
    """Add what was removed before the channels to the plan and the proof."""
    settings = result.settings
    alone = settings.target == "ratio" and not set(settings.granularity) & set(CHANNELS)
    return replace(
        result,
        plan=replace(result.plan, removed=shorter.removed),
        proof=result.proof.worse(shorter.proof),
        achieved=shorter.share if alone else result.achieved,
        frozen={**result.frozen, **({UNPROVEN_DEPTH: shorter.unproven} if shorter.unproven else {})},
    )


def _with_zeros(result: PruneResult) -> PruneResult:
    """Set single weights of what is left to zero."""
    s = result.settings
    sparse = sparsify(result.model, s.weight_share, "global" if s.scope == "global" else "local", s.pattern, s.ignore)
    alone = s.target == "ratio" and set(s.granularity) == {WEIGHT}
    return replace(
        result,
        model=sparse.model,
        plan=replace(result.plan, zeroed=tuple(sparse.mask)),
        achieved=sparse.achieved if alone else result.achieved,
        sparsity=sparse,
    )


def _proved(job: Job, inputs: Inputs, real: Inputs | None) -> PruneResult:
    """Plan until the proof holds."""
    lessons = Lessons()

    def attempt(job: Job, kept: Kept) -> tuple[Plan, nn.Module, Proof]:
        made = job.plan(kept, lessons.guesses)
        pruned = job.cut(job.probe, kept, made)
        return made, pruned, prove(pruned, job.reference(kept), inputs, real)

    def holds(kept: Kept) -> Callable[[Collection[str]], bool]:
        return lambda names: attempt(job, {n: kept[n] for n in names})[2].holds

    while True:
        kept = job.choose(lessons.unproven, lessons.ties)
        made, pruned, proof = attempt(job, kept)
        if proof.holds or not made.groups:
            fit = job.refitted(kept)
            if fit is not job:
                made, pruned, proof = attempt(fit, kept)
                _check_fit(proof)
            final = pruned if fit.probe is fit.model else fit.cut(fit.model, kept, made)
            return _result(fit, kept, made, final, proof, lessons.unproven)
        lessons.learn(job.failed(proof, kept, pruned, inputs), holds(kept))


def _check_fit(proof: Proof) -> None:
    if not proof.holds:
        why = proof.failure or f"the pruned model differs by {proof.max_rel_error:.0e}"
        raise UserError(f"reconstruct: with the weights fit anew {why}; fit on more samples, or leave it off")


def _result(
    job: Job, kept: Kept, made: Plan, pruned: nn.Module, proof: Proof, unproven: Collection[str]
) -> PruneResult:
    groups = tuple(g for g in job.structure.groups if g.name in kept)
    keep = tuple(len(kept[g.name]) for g in groups)
    before, after = job.whole, job.cost.after(groups, keep)
    failed, unranked = (
        tuple(m.tensor for g in job.structure.groups if g.name in names for m in g.producers)
        for names in (unproven, job.unranked)
    )
    everything = job.groups()
    requested = job.settings.ratio
    if isinstance(requested, Mapping):
        gone = sum(job.settings.ratio_of(g.name) * g.channels for g in everything)
        requested = gone / max(job.structure.channels, 1)
    achieved = job.removed(groups, keep)
    return PruneResult(
        model=pruned,
        plan=made,
        proof=proof,
        settings=job.settings,
        requested=achieved if job.settings.scope in allocate.FREE else requested,
        achieved=achieved,
        macs_before=before["macs"],
        macs_after=after["macs"],
        params_before=before["params"],
        params_after=after["params"],
        frozen={
            **job.structure.frozen,
            **({UNPROVEN: failed} if failed else {}),
            **({f"criterion {job.settings.criterion}": unranked} if unranked else {}),
        },
        batch=job.known.fixed_batch,
    )
