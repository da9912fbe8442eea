"""Remove whole modules before channels, and prove it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import nn

from pipeline.pruning import depth
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import Captured, Inputs
from pipeline.pruning.verify import Proof, culprits, like, lively, prove


@dataclass(frozen=True)
class Shorter:
    """A model without some of its modules, and the evidence that it does what the rest of the original did."""

    model: nn.Module
    removed: tuple[str, ...]
    proof: Proof
    share: float  # of the target
    unproven: tuple[str, ...]  # modules without which the model's forward fails


Judge = Callable[[Collection[str]], Mapping[str, float] | None]  # modules -> how much each matters, if it can tell


def shorten(
    model: nn.Module,
    captured: Captured,
    settings: Settings,
    inputs: Inputs,
    real: Inputs | None,
    judge: Judge = lambda _: None,
) -> Shorter:
    """Remove the modules that matter least, those that `settings.ignore` names and the others inside them apart.

    `judge` says what matters; where it does not, influence, measured on real inputs where some are given, else on
    the example inputs.
    """
    probe = lively(model)
    found = [s for s in depth.sites(captured, settings.depth) if not settings.ignores(s.name)]
    scores = judge([s.name for s in found])
    if scores is None:
        scores = depth.influence(captured, model, found, [inputs] if real is None else like(real, inputs))
    shares = depth.shares(captured, model, found, settings.target)
    unproven: set[str] = set()

    def attempt(names: Collection[str]) -> Proof:
        sites = [s for s in found if s.name in names]
        return prove(depth.without(probe, names), depth.Bypass(captured, probe, sites), inputs, real)

    while True:
        candidates = [s for s in found if s.name not in unproven]
        names = [s.name for s in depth.pick(candidates, scores, shares, settings.depth_share)]
        proof = attempt(names)
        if proof.holds or not names:
            share = sum(shares[name] for name in names)
            return Shorter(depth.without(model, names), tuple(names), proof, share, tuple(sorted(unproven)))
        unproven |= set(culprits(names, lambda some: attempt(some).holds) or names)
