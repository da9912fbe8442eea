"""From zeroed to removed: channels that compute nothing leave the model, and its function stays as it is.

A channel is dead where its value is the same for every input (a filter of zeros, a mask, a norm whose scale is
zero, and what activations, sums and further layers make of it) or where all weights that read it are zero. What
dead channels still emit is a constant, and is folded exactly into what reads them.
"""

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.pruning import costs, plan
from pipeline.pruning.analysis import Analysis, analyse
from pipeline.pruning.attributes import Guesses, attributes, changes
from pipeline.pruning.folding import duplicate, folded, new_biases, plain
from pipeline.pruning.liveness import Removal, choose
from pipeline.pruning.plan import Plan
from pipeline.pruning.reference import Reference
from pipeline.pruning.remains import remains
from pipeline.pruning.repair import Failed, Lessons
from pipeline.pruning.surgery import tensors, with_biases
from pipeline.pruning.trace import Inputs, as_inputs, capture, walk
from pipeline.pruning.verify import TOLERANCE, Proof, comparable, prove


@dataclass(frozen=True)
class DeadResult:
    """A model without its dead channels, and the evidence that it computes what the original does.

    `proof` compares with the original itself, masks and all. `kept` says of dead channels that stay why. The
    plan replays on a model without masks (`plain`); weights that constants were folded into are the result's
    own. Multiply-accumulates are those of one run on the example inputs.
    """

    model: nn.Module
    plan: Plan
    proof: Proof
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    kept: tuple[str, ...]

    @property
    def max_rel_error(self) -> float:
        """Largest difference to the original's outputs, relative to the largest of the same output."""
        return self.proof.max_rel_error


@dataclass(frozen=True)
class _Cut:
    """One way to remove channels, carried out."""

    analysis: Analysis
    removal: Removal
    plan: Plan
    model: nn.Module

    @property
    def names(self) -> list[str]:
        """The groups that lose units."""
        return [group.name for group in self.plan.groups]


def remove_dead(model: nn.Module, example_inputs: Any, real_inputs: Any = None) -> DeadResult:
    """Remove the dead channels from a copy of `model`, whose outputs stay the same to 1e-4 relative.

    Exact but for rounding, for inputs of any size: deadness is read off the weights, never sampled. Masks of
    `torch.nn.utils.prune` and parametrisations are made permanent. Constants go into the bias of the layer that
    reads them, or the running mean of the norm behind it, or a new bias. One that meets zero padding cannot;
    then one dead channel stays and takes over the weights of its group's others. In half precision the new
    biases are rounded as all weights are: the outputs stay the same to that precision's epsilon.

    Groups without which the outputs were to change on noise shaped like `example_inputs`, or on `real_inputs`,
    are left whole and named in `kept`. Raises UserError for a model that `torch.export` cannot capture, and
    real inputs that do not fit the example.
    """
    inputs, real = as_inputs(example_inputs), None if real_inputs is None else as_inputs(real_inputs)
    start, original = plain(model), _original(model, inputs)
    lessons = Lessons(tying=False)

    def attempt(without: Collection[str]) -> tuple[_Cut, Proof]:
        cut = _cut(start, inputs, without, lessons.guesses)
        return cut, prove(cut.model, original, inputs, real)

    def holds(names: Collection[str]) -> Callable[[Collection[str]], bool]:
        return lambda some: _equal(start, attempt({*lessons.unproven, *names} - set(some))[1])

    while True:
        cut, proof = attempt(lessons.unproven)
        if _equal(start, proof) or not cut.names:
            return _result(start, cut, proof, lessons.unproven)
        known, kept = cut.analysis, cut.analysis.kept(cut.removal)
        failed = Failed(proof, start, known.captured, known.flow, known.structure, kept, cut.model, inputs)
        lessons.learn(failed, holds(cut.names))


def _original(model: nn.Module, inputs: Inputs) -> Reference:
    """Return what to compare with: the model as it was given, masks and all."""
    model = duplicate(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)  # masked weights, set at every run
        captured = capture(model, inputs)
    flow = walk(captured)
    state = {name: comparable(tensor) for name, tensor in tensors(model).items()}
    return Reference(captured, flow, np.ones(flow.channels.size, bool), state)


def _cut(model: nn.Module, inputs: Inputs, whole: Collection[str], guesses: Guesses) -> _Cut:
    """Remove all that can be removed, but from the groups `whole`; give layers biases where constants need them."""
    added: tuple[str, ...] = ()
    while True:
        extended = with_biases(model, added)
        found = analyse(extended, inputs, whole)
        removal = choose(found.readers, found.units, found.candidates)
        needed = new_biases(found.readers, removal)
        if not needed:
            break
        added = (*added, *needed)
    kept = found.kept(removal)
    new = attributes(extended, changes(found.flow, found.structure.alive(kept)), guesses)
    made = plan.make(found.structure, kept, found.captured.shapes, new, {"dead": True})
    pruned = made.apply(folded(extended, found.readers, removal))
    made = replace(made, added_bias=added)
    return _Cut(found, removal, made, pruned)


def _result(start: nn.Module, cut: _Cut, proof: Proof, unproven: Collection[str]) -> DeadResult:
    found = cut.analysis
    kept = found.kept(cut.removal)
    groups = found.structure.groups
    cost = costs.of_network(found.captured, found.flow, found.structure)
    return DeadResult(
        model=cut.model,
        plan=cut.plan,
        proof=proof,
        macs_before=cost.after((), ())["macs"],
        macs_after=cost.after(groups, [len(kept[g.name]) for g in groups])["macs"],
        params_before=sum(p.numel() for p in start.parameters()),
        params_after=sum(p.numel() for p in cut.model.parameters()),
        kept=remains(found, cut.removal, unproven),
    )


def _equal(model: nn.Module, proof: Proof) -> bool:
    """Whether outputs are the same, up to the rounding of what is stored."""
    half = {t.dtype for t in model.parameters() if comparable(t) is not t}
    return not proof.failure and proof.max_rel_error <= max([TOLERANCE, *(torch.finfo(kind).eps for kind in half)])
