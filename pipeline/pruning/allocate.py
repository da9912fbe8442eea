"""How many units every group keeps, and which: ratios, budgets, rounding and exact selection."""

from collections.abc import Callable, Mapping, Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.criteria.base import Ranking
from pipeline.pruning.groups import Group

Rankings = Sequence[Ranking]  # one per group
Keep = tuple[int, ...]  # units that stay, one number per group
Rounding = tuple[int, int]  # multiples to round widths to, and the least width


def allowed(group: Group, round_to: int, min_width: int) -> NDArray[np.int64]:
    """Return the unit counts a group may keep, ascending: multiples of `round_to` channels, or all of it."""
    step = round_to // gcd(round_to, group.channels_per_unit)
    least = -(-min_width // group.channels_per_unit)
    smaller = np.arange(step, group.units, step)
    return np.append(smaller[smaller >= least], group.units)


def nearest(options: NDArray[np.float64], wanted: float, debt: float) -> float:
    """Return the option nearest to `wanted`; of two equally near ones the one that pays back `debt`.

    `debt` is what groups before this one kept beyond what they wanted, so that ties do not add up.
    """
    distance = np.abs(options - wanted)
    tied = options[distance <= distance.min() + 1e-9]
    return float(tied[0] if debt > 0 else tied[-1])


def rounded(
    groups: Sequence[Group], wanted: Sequence[float], rounding: Rounding, ties: Sequence[frozenset[str]] = ()
) -> Keep:
    """Round wanted unit counts to allowed ones. The groups of a tie keep one share of their units."""
    debt, keep = 0.0, dict[str, int]()
    together = {name: tie for tie in ties for name in tie}
    by_name = {group.name: (group, want) for group, want in zip(groups, wanted, strict=True)}
    for group in groups:
        if group.name in keep:
            continue
        some = [by_name[name] for name in sorted(together.get(group.name, {group.name})) if name in by_name]
        whole = sum(g.channels for g, _ in some)
        share = sum(w * g.channels_per_unit for g, w in some) / whole
        options = _common(together[group.name], some, rounding) if group.name in together else _alone(group, rounding)
        chosen = nearest(options, share, debt)
        debt += (chosen - share) * whole
        keep |= {g.name: round(chosen * g.units) for g, _ in some}
    return tuple(keep[group.name] for group in groups)


def _alone(group: Group, rounding: Rounding) -> NDArray[np.float64]:
    return allowed(group, *rounding) / group.units


def _common(tie: frozenset[str], some: Sequence[tuple[Group, float]], rounding: Rounding) -> NDArray[np.float64]:
    """Return the shares that all groups of a tie can keep; all of it where one of them is to stay whole."""
    if len(some) < len(tie):
        return np.ones(1)
    steps = gcd(*(g.units for g, _ in some))
    shares = np.arange(1, steps + 1) / steps
    fits = [np.isin(np.round(shares * g.units).astype(int), allowed(g, *rounding)) for g, _ in some]
    return shares[np.logical_and.reduce(fits)]


def local_wants(groups: Sequence[Group], _: Rankings, ratio: float) -> list[float]:
    """Take the same share of every group."""
    return [group.units * (1 - ratio) for group in groups]


def global_wants(groups: Sequence[Group], rankings: Rankings, ratio: float) -> list[float]:
    """Take the lowest scores of the whole network until `ratio` of all channels is gone.

    Scores are divided by their group's mean, since norms grow with fan-in, unless the criterion says that they
    are comparable as they are.
    """
    if not groups:
        return []
    relative = np.concatenate([r.scores / (1.0 if r.comparable else r.scores.mean() or 1.0) for r in rankings])
    owner = np.repeat(np.arange(len(groups)), [g.units for g in groups])
    weight = np.array([g.channels_per_unit for g in groups])[owner]
    order = np.argsort(relative, kind="stable")
    gone = order[np.cumsum(weight[order]) <= ratio * weight.sum() + 1e-9]
    lost = np.bincount(owner[gone], minlength=len(groups))
    return [group.units - float(n) for group, n in zip(groups, lost, strict=True)]


def isomorphic_wants(groups: Sequence[Group], rankings: Rankings, ratio: float) -> list[float]:
    """Rank among groups of equal structure only (Fang et al., Isomorphic Pruning, ECCV 2024).

    Groups are of equal structure when the same kinds of tensor dimensions meet in them, whatever their sizes.
    """
    alike: dict[object, list[int]] = {}
    for i, group in enumerate(groups):
        alike.setdefault((group.kind, group.form), []).append(i)
    wanted = [0.0] * len(groups)
    for places in alike.values():
        some = global_wants([groups[i] for i in places], [rankings[i] for i in places], ratio)
        for i, want in zip(places, some, strict=True):
            wanted[i] = want
    return wanted


WANTS: Mapping[str, Callable[[Sequence[Group], Rankings, float], list[float]]] = {
    "local": local_wants,
    "isomorphic": isomorphic_wants,
    "global": global_wants,
}


def closest(keep_at: Callable[[float], Keep], removed: Callable[[Keep], float], goal: float) -> Keep:
    """Return the allocation, over ratios in [0, 1], that removes the share nearest to `goal`.

    Rounding makes groups of one width jump together; so the step across the goal is taken group by group.
    """
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if removed(keep_at(middle)) < goal else (low, middle)
    less, more = keep_at(low), keep_at(high)
    first, last = 0, len(less)  # the more groups take the step, the more is removed
    while last - first > 1:
        middle_group = (first + last) // 2
        if removed(more[:middle_group] + less[middle_group:]) < goal:
            first = middle_group
        else:
            last = middle_group
    between = [more[:i] + less[i:] for i in (first, last)]
    return min(between, key=lambda keep: abs(removed(keep) - goal))
