"""What each method would make of a layer: its ranks by a rule, what that costs, and the fit."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from pipeline.lowrank.base import Array, Method, Shape, relative_error
from pipeline.lowrank.ranks import Energy, Rule, Spectrum
from pipeline.lowrank.sites import Site

STEPS = 8  # ranks that are tried of a fit whose rank no spectrum tells


@dataclass(frozen=True)
class Proposal:
    """A factorisation of a layer, not yet made. Costs are of all its runs, without the bias."""

    candidate: "Candidate"
    ranks: Shape
    macs: int
    params: int
    allowed: float  # the relative error of the weights that its ranks promise at most


class Candidate(ABC):
    """A method for a layer."""

    def __init__(self, site: Site, method: Method, round_to: int = 1) -> None:
        self.site, self.method, self.round_to = site, method, round_to
        self.spectra: Sequence[Spectrum] = [Spectrum.of(m) for m in method.unfoldings(site.weight)]

    @abstractmethod
    def propose(self, rule: Rule) -> Proposal | str:
        """Return what the rule makes of the layer, or why it makes nothing of it."""

    def factors(self, ranks: Shape) -> tuple[Array, ...]:
        """Return the weights of the successive layers."""
        return self.method.factors(self.site.weight, ranks)

    def proposal(self, ranks: Shape, allowed: float) -> Proposal:
        """Return the factorisation at these ranks with its cost."""
        shape = self.site.shape
        macs = self.method.macs(shape, ranks, self.site.calls)
        return Proposal(self, ranks, macs, self.method.params(shape, ranks), allowed)

    def rounded(self, rank: int) -> int:
        """Return the next multiple."""
        return ceil(rank / self.round_to) * self.round_to


class Spectral(Candidate):
    """A method whose ranks are those of its unfoldings."""

    def propose(self, rule: Rule) -> Proposal | str:
        """Truncate the unfoldings; how much that keeps is known before any fit."""
        found = self.ranks(rule)
        if not all(found):
            return f"{rule} finds nothing but noise"
        pairs = zip(self.spectra, found, strict=True)
        ranks = tuple(min(self.rounded(rank), len(spectrum.values)) for spectrum, rank in pairs)
        return self.proposal(ranks, sqrt(max(1 - self.kept(ranks), 0.0)))

    def ranks(self, rule: Rule) -> Shape:
        """Return what the rule says of every unfolding."""
        return tuple(rule.rank(spectrum) for spectrum in self.spectra)

    def kept(self, ranks: Shape) -> float:
        """Return the share of the weight's energy that is left."""
        return self.spectra[0].kept(ranks[0])


class Both(Spectral):
    """A method of two ranks, of inputs and outputs: of all pairs that keep an energy, the one of least work.

    What a pair keeps is read off the whole weight in the bases of its unfoldings (the higher-order singular value
    decomposition: De Lathauwer, De Moor and Vandewalle, SIMAX 2000); the fit can only keep more.
    """

    def __init__(self, site: Site, method: Method, round_to: int = 1) -> None:
        super().__init__(site, method, round_to)
        inputs, outputs = (np.linalg.svd(m, full_matrices=False)[0] for m in method.unfoldings(site.weight))
        core = np.tensordot(inputs.T, np.tensordot(outputs.T, site.weight, 1), (1, 1))  # (inputs, outputs, *kernel)
        energy = np.square(core).sum(tuple(range(2, core.ndim)))
        self._kept = energy.cumsum(0).cumsum(1) / energy.sum()

    def ranks(self, rule: Rule) -> Shape:
        """Return the pair of least work that keeps the energy, or what another rule says of either unfolding."""
        if not isinstance(rule, Energy):
            return super().ranks(rule)
        pairs: list[Shape] = []
        for first in self._steps(len(self._kept)):
            enough = np.searchsorted(self._kept[first - 1], rule.share - 1e-12)
            if enough < self._kept.shape[1]:
                pairs.append((first, min(self.rounded(int(enough) + 1), self._kept.shape[1])))
        return min(pairs, key=lambda ranks: self.method.macs(self.site.shape, ranks, self.site.calls))

    def kept(self, ranks: Shape) -> float:
        """Return the share of the weight's energy that is left."""
        return float(self._kept[ranks[0] - 1, ranks[1] - 1])

    def _steps(self, full: int) -> list[int]:
        return sorted({min(rank, full) for rank in range(self.round_to, full + self.round_to, self.round_to)})


class Fitted(Candidate):
    """A method whose rank only fits can tell: the least of a few ranks whose fit keeps the energy asked for."""

    def __init__(self, site: Site, method: Method, round_to: int = 1) -> None:
        super().__init__(site, method, round_to)
        self._fits: dict[int, tuple[Array, ...]] = {}
        self._errors: dict[int, float] = {}

    @property
    def tried(self) -> range:
        """The ranks to choose from: even steps up to the last that costs less than the whole layer."""
        per_rank = self.method.macs(self.site.shape, (1,), self.site.calls)
        limit = (self.site.macs - 1) // per_rank
        step = self.rounded(max(ceil(limit / STEPS), 1))
        return range(step, limit + 1, step)

    def factors(self, ranks: Shape) -> tuple[Array, ...]:
        """Fit, once for each rank."""
        (rank,) = ranks
        if rank not in self._fits:
            self._fits[rank] = super().factors(ranks)
        return self._fits[rank]

    def error(self, rank: int) -> float:
        """Return the relative error of the fit of that rank."""
        if rank not in self._errors:
            self._errors[rank] = relative_error(self.site.weight, self.method.product(self.factors((rank,))))
        return self._errors[rank]

    def propose(self, rule: Rule) -> Proposal | str:
        """Halve the ranks to choose from until the least is left that keeps the energy."""
        if not all(rule.rank(s) for s in self.spectra):
            return f"{rule} finds nothing but noise"
        allowed = sqrt(max(1 - rule.energy(self.spectra), 0.0))
        low, high = 0, len(self.tried)
        while low < high:
            middle = (low + high) // 2
            if self.error(self.tried[middle]) <= allowed:
                high = middle
            else:
                low = middle + 1
        if low < len(self.tried):
            return self.proposal((self.tried[low],), allowed)
        if not self.tried:
            return "at any rank it would cost more"
        least = min(self._errors[r] for r in self.tried if r in self._errors)
        return f"the fit's error of {least:.2f} stays above the {allowed:.2f} that was asked for"


KINDS: Mapping[str, type[Candidate]] = {"svd": Spectral, "tucker": Both, "cp": Fitted}


def candidate(site: Site, method: Method, round_to: int = 1) -> Candidate:
    """Return the method for the layer."""
    return KINDS[method.name](site, method, round_to)
