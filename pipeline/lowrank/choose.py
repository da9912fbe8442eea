"""From a rule to a factorisation of every layer that gains by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import UserError
from pipeline.lowrank.candidates import Candidate, Proposal
from pipeline.lowrank.ranks import Budget, Energy, Ranks, Rule
from pipeline.lowrank.sites import Site

HALVINGS = 40  # of the interval that holds the energy a budget leads to

Of = Literal["macs", "params"]
Choice = Mapping[str, Proposal | str]  # by layer: its factorisation, or why it stays whole


@dataclass(frozen=True)
class Options:
    """A layer and what each method could make of it."""

    site: Site
    candidates: Sequence[Candidate]

    def pick(self, rule: Rule, of: Of = "macs") -> Proposal | str:
        """Return the cheapest factorisation by the rule, or why there is none with less work than the layer has."""
        made = [candidate.propose(rule) for candidate in self.candidates]
        proposals = [p for p in made if isinstance(p, Proposal)]
        if not proposals:
            return next(reason for reason in made if isinstance(reason, str))
        paying = [p for p in proposals if p.macs < self.site.macs]
        if paying:
            return min(paying, key=lambda p: (p.macs, p.params) if of == "macs" else (p.params, p.macs))
        least = min(proposals, key=lambda p: p.macs)
        ranks = ", ".join(map(str, least.ranks))
        return f"rank {ranks} would cost {least.macs / self.site.macs:.0%} of its work"


def choose(layers: Sequence[Options], ranks: Ranks, total: Mapping[Of, int]) -> Choice:
    """Return the factorisation of every layer; `total` is what the whole model has.

    A budget is met by one energy for all layers, the highest that fits. Raises UserError where the least ranks there
    are exceed it.
    """
    if not isinstance(ranks, Budget):
        return {layer.site.name: layer.pick(ranks) for layer in layers}
    choice = _at(layers, 0.0, ranks.of)
    least = _left(layers, choice, ranks.of, total)
    if least > ranks.share:
        raise UserError(
            f"budget: {ranks.share:g} of the {ranks.of} cannot be reached by factorising, the least is {least:.3f}; "
            "ask for more, or prune too"
        )
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried = _at(layers, middle, ranks.of)
        if _left(layers, tried, ranks.of, total) <= ranks.share:
            low, choice = middle, tried
        else:
            high = middle
    return choice


def _at(layers: Sequence[Options], energy: float, of: Of) -> Choice:
    return {layer.site.name: layer.pick(Energy(energy), of) for layer in layers}


def _left(layers: Sequence[Options], choice: Choice, of: Of, total: Mapping[Of, int]) -> float:
    """Return the share of the whole model that a choice leaves."""
    saved = 0
    for layer in layers:
        proposal = choice[layer.site.name]
        if isinstance(proposal, Proposal):
            before, after = (layer.site.macs, proposal.macs) if of == "macs" else (layer.site.params, proposal.params)
            saved += before - after
    return (total[of] - saved) / total[of]
