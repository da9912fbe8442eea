"""How many units every group keeps, and which: ratios, budgets, rounding and exact selection."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.pruning.criteria.base import Ranking
from pipeline.pruning.curves import Sensitivity
from pipeline.pruning.groups import Group

Rankings = Sequence[Ranking]  # one per group
Keep = tuple[int, ...]  # units that stay, one number per group
Wants = Callable[[Sequence[Group], Rankings, float], list[float]]  # how many units each group would keep at a ratio
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
    return cheapest(groups, [r.scores / (1.0 if r.comparable else r.scores.mean() or 1.0) for r in rankings], ratio)


def cheapest(groups: Sequence[Group], prices: Sequence[NDArray[np.float64]], ratio: float) -> list[float]:
    """Take the units of lowest price, wherever they are, until `ratio` of all channels is gone.

    `prices` has one array per group, (units,); only how many of a group go counts, not which. Of equal prices
    those go first whose groups have lost the smaller share by then, and of those the first.
    """
    if not groups:
        return []
    price = np.concatenate(prices)
    lost_by_then = np.concatenate([np.argsort(np.argsort(p, kind="stable")) / len(p) for p in prices])
    owner = np.repeat(np.arange(len(groups)), [g.units for g in groups])
    weight = np.array([g.channels_per_unit for g in groups])[owner]
    order = np.lexsort((lost_by_then, price))
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


def energy_wants(groups: Sequence[Group], rankings: Rankings, ratio: float) -> list[float]:
    """Keep as many units as directions that hold one share of every group's energy (PFA-En, arXiv 1807.10585).

    The share is the same for all groups, and such that `ratio` of all channels goes. Raises UserError for
    rankings without eigenvalues.
    """
    return cheapest(groups, [_tails(_spectrum(r, "energy")) for r in rankings], ratio)


def kl_wants(groups: Sequence[Group], rankings: Rankings, _: float) -> list[float]:
    """Keep the fewer units the less evenly energy is spread, whatever the ratio (PFA-KL, arXiv 1807.10585).

    Of C units stay C·(1 − KL / log C), with KL the divergence of the eigenvalues' shares from 1/C each: all of
    them where responses are uncorrelated and vary alike, next to none where one direction has everything.
    Raises UserError for rankings without eigenvalues.
    """
    return [g.units * _evenness(_spectrum(r, "pfa_kl")) for g, r in zip(groups, rankings, strict=True)]


def _spectrum(ranking: Ranking, scope: str) -> NDArray[np.float64]:
    if ranking.spectrum is None:
        raise UserError(f"scope {scope}: sets widths by eigenvalues, which this criterion does not give; choose pfa")
    return ranking.spectrum


def _tails(spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of energy that is gone with the 1, 2, … smallest eigenvalues."""
    tails = np.cumsum(np.sort(spectrum))
    return tails / (tails[-1] or 1.0)


def _evenness(spectrum: NDArray[np.float64]) -> float:
    """Return 1 − KL(shares ‖ uniform) / log C, which is the shares' entropy over its largest; of no energy 0."""
    if len(spectrum) == 1:
        return 1.0
    shares = spectrum[spectrum > 0] / (spectrum.sum() or 1.0)
    return float(-(shares * np.log(shares)).sum() / np.log(len(spectrum)))


WANTS: Mapping[str, Wants] = {
    "local": local_wants,
    "isomorphic": isomorphic_wants,
    "global": global_wants,
    "energy": energy_wants,
    "pfa_kl": kl_wants,
}
FREE = ("pfa_kl",)  # what goes follows from the network alone


def wants(scope: str, curves: Sensitivity | None) -> Wants:
    """Return the rule of a scope; `curves` are for scope "sensitivity" alone."""
    return WANTS[scope] if curves is None else partial(sensitivity_wants, curves)


def sensitivity_wants(curves: Sensitivity, groups: Sequence[Group], _: Rankings, ratio: float) -> list[float]:
    """Take from each group as much as costs no more than one threshold, such that `ratio` of all channels goes.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2, with the threshold for a dial.
    Raises UserError for curves of another network.
    """
    prices = [curves.prices(group) for group in groups]
    if groups and np.isinf(np.concatenate(prices)).all():
        raise UserError("sensitivity: has a curve for none of the groups that may go; measure this network")
    return cheapest(groups, prices, ratio)


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
