"""What is done about a failed proof: guess anew where sizes come from, tie groups, then leave groups whole."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from pipeline.pruning.attributes import GUESSES, NONE
from pipeline.pruning.blame import blame, merged, ties
from pipeline.pruning.divergence import divergence
from pipeline.pruning.groups import Structure
from pipeline.pruning.rules.base import Flow
from pipeline.pruning.trace import Captured, Inputs
from pipeline.pruning.verify import Proof, culprits

PATIENCE = 3  # modules of one class to give up one by one, before all of them


@dataclass(frozen=True)
class Failed:
    """A failed proof of what groups keep. `pruned` is what was run, None where it is no copy of the model."""

    proof: Proof
    model: nn.Module
    captured: Captured
    flow: Flow
    structure: Structure
    kept: Mapping[str, Sequence[int]]
    pruned: nn.Module | None
    inputs: Inputs

    def where(self) -> tuple[str, ...]:
        """Return the modules that it failed in, innermost first; empty where that is not known."""
        if self.pruned is None or self.proof.failed_in:
            return self.proof.failed_in if self.pruned is not None else ()
        return divergence(self.captured, self.flow, self.structure.alive(self.kept), self.pruned, self.inputs)


@dataclass
class Lessons:
    """What failures have taught so far. `tying` says whether the caller can keep one share of several groups."""

    tying: bool = True
    guesses: dict[type, int] = field(default_factory=dict)  # class of modules -> where its sizes come from
    unproven: set[str] = field(default_factory=set)  # groups to leave whole
    _tied: dict[type, list[frozenset[str]]] = field(default_factory=dict)
    _single: Counter[type] = field(default_factory=Counter)  # modules of a class that were given up one by one

    @property
    def ties(self) -> list[frozenset[str]]:
        """Sets of groups that have to keep one share of their units."""
        return merged([tie for some in self._tied.values() for tie in some])

    def learn(self, failed: Failed, holds: Callable[[Collection[str]], bool]) -> None:
        """Draw a lesson from a failed proof; `holds` proves a plan that cuts some of its groups only."""
        structure, kept = failed.structure, failed.kept
        cut = [g.name for g in structure.groups if len(kept.get(g.name, g.classes)) < g.units]
        found = blame(failed.model, failed.flow, structure, kept, failed.where())
        if found.kind and (following := self.guesses.get(found.kind, NONE) + 1) < len(GUESSES):
            self.guesses[found.kind] = following
        elif found.kind and self.tying and found.kind not in self._tied:
            self._tied[found.kind] = ties(failed.model, failed.flow, structure, found.kind)
            self.guesses[found.kind] = NONE
        else:
            alone = found.kind is not None and bool(self._tied.get(found.kind)) and self._single[found.kind] < PATIENCE
            if alone and found.kind:
                self._single[found.kind] += 1
            guilty = found.here if alone else found.groups
            self.unproven |= (guilty & set(cut)) or set(culprits(cut, holds) or cut)
