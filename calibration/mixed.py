"""Mixed precision: which layers stay in float so that the accuracy holds, at the least cost in speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.errors import CalibrationError

LEVELS = 1024  # steps in which the noise to be removed is counted
Judge = Callable[[frozenset[str]], float]


@dataclass(frozen=True)
class Candidate:
    """A layer that could stay in float: how much of the noise would go, and what that costs."""

    name: str
    noise: float  # what the layer in int8 adds to the outputs, see `sensitivity`; only ratios matter
    cost: float  # latency lost with it in float, or multiply-accumulates; only ratios matter


@dataclass(frozen=True)
class Mixed:
    """What a search found. `trail` has every set that was judged, in order, with its accuracy."""

    excluded: frozenset[str]  # the layers that stay in float
    accuracy: float
    met: bool  # False: even with all candidates in float the accuracy is below the floor
    trail: tuple[tuple[frozenset[str], float], ...]


def mixed(candidates: Sequence[Candidate], judge: Judge, floor: float, evaluations: int = 40) -> Mixed:
    """Leave the cheapest set of layers in float with which `judge(names)` is `floor` or more.

    Noise that layers add to the outputs independently adds up in power, so the cheapest set that removes a
    given share of it is a knapsack, solved by dynamic programming over 1,024 levels; a bisection over the
    level finds the least one that the judge accepts, in 12 evaluations at most. Then each layer, the most
    expensive first, is put back into int8 if the judge still accepts, until `evaluations` have been spent in
    all. No set is judged twice.

    The result meets the floor unless `met` is False, which says that all candidates in float do not either.
    Where leaving more in float never lowers the accuracy and the evaluations suffice, no layer of the result
    could go back. Raises CalibrationError for two candidates of one name, and for noise or costs that are
    negative or not finite.
    """
    _check(candidates)
    asked = _Asked(judge)
    none, every = frozenset[str](), frozenset(candidate.name for candidate in candidates)
    if asked(none) >= floor:
        return Mixed(none, asked(none), True, asked.trail)
    if asked(every) < floor:
        return Mixed(every, asked(every), False, asked.trail)
    names = _bisected(candidates, asked, floor)
    while (fewer := _one_back(names, candidates, asked, (floor, evaluations))) is not None:
        names = fewer
    return Mixed(names, asked(names), True, asked.trail)


class _Asked:
    """The judge, asked once about each set."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: dict[frozenset[str], float] = {}

    def __call__(self, names: frozenset[str]) -> float:
        if names not in self._known:
            self._known[names] = self._judge(names)
        return self._known[names]

    def __contains__(self, names: frozenset[str]) -> bool:
        return names in self._known

    @property
    def trail(self) -> tuple[tuple[frozenset[str], float], ...]:
        return tuple(self._known.items())


def _bisected(candidates: Sequence[Candidate], asked: _Asked, floor: float) -> frozenset[str]:
    """The set of the least level that meets the floor; all candidates meet it."""
    choose = _Knapsack(candidates)
    best = frozenset(candidate.name for candidate in candidates)
    low, high = 0, choose.levels
    while low < high:
        middle = (low + high) // 2
        names = choose(middle)
        if asked(names) >= floor:
            best, high = names, middle
        else:
            low = middle + 1
    # the last level was only assumed to do; all candidates do, and may be more than it takes
    final = choose(high)
    return final if asked(final) >= floor else best


def _one_back(
    names: frozenset[str], candidates: Sequence[Candidate], asked: _Asked, limits: tuple[float, int]
) -> frozenset[str] | None:
    """`names` without the most expensive layer that can go back into int8; None if there is none, or no time."""
    floor, evaluations = limits
    for candidate in sorted(candidates, key=lambda c: (-c.cost, c.noise, c.name)):
        fewer = names - {candidate.name}
        if fewer == names or (fewer not in asked and len(asked.trail) >= evaluations):
            continue
        if asked(fewer) >= floor:
            return fewer
    return None


class _Knapsack:
    """The cheapest sets that remove at least so much noise, for every level of noise."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = candidates
        noise = np.array([candidate.noise for candidate in candidates])
        whole = bool((noise == np.rint(noise)).all()) and noise.sum() <= LEVELS
        # rounded down, so that what is promised is removed; counts that fit are kept as they are
        steps = noise if whole else np.floor(noise / (noise.sum() or 1.0) * LEVELS)
        self._gains = steps.astype(np.int64)
        self.levels = int(self._gains.sum())
        self._taken = self._solve()

    def _solve(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """`[i, level]`: whether the cheapest set of the first i + 1 candidates for that level takes candidate i."""
        least = np.full(self.levels + 1, np.inf)
        least[0] = 0.0
        taken = np.zeros((len(self._candidates), self.levels + 1), np.bool_)
        for i, (gain, candidate) in enumerate(zip(self._gains, self._candidates, strict=True)):
            # removing more than the level asks for is as good
            before = least[np.maximum(np.arange(self.levels + 1) - gain, 0)] + candidate.cost
            taken[i] = before < least
            least = np.where(taken[i], before, least)
        return taken

    def __call__(self, level: int) -> frozenset[str]:
        """Return the cheapest set that removes `level` steps of noise."""
        names = set()
        for i in reversed(range(len(self._candidates))):
            if self._taken[i, level]:
                names.add(self._candidates[i].name)
                level = max(level - int(self._gains[i]), 0)
        return frozenset(names)


def _check(candidates: Sequence[Candidate]) -> None:
    if len({candidate.name for candidate in candidates}) != len(candidates):
        raise CalibrationError("two candidates for float have one name: name the model's nodes")
    for candidate in candidates:
        if not (np.isfinite((candidate.noise, candidate.cost)).all() and min(candidate.noise, candidate.cost) >= 0):
            raise CalibrationError(
                f"candidate {candidate.name!r}: noise {candidate.noise} and cost {candidate.cost} must be 0 or more"
            )
