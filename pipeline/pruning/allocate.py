"""How many units every group keeps, and which: ratios, budgets, rounding and exact selection."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.counters import Work, macs
from pipeline.pruning.groups import Group
from pipeline.pruning.rules.base import Shape

Scores = Sequence[NDArray[np.float64]]  # one array per group
Keep = tuple[int, ...]  # units that stay, one number per group


@dataclass(frozen=True)
class Cost:
    """What a model costs in parameters and multiply-accumulates once groups have shrunk: exact, no trace."""

    shapes: Mapping[str, Shape]  # of every parameter and buffer
    parameters: frozenset[str]
    work: tuple[Work, ...]

    def after(self, groups: Sequence[Group], keep: Keep) -> tuple[int, int]:
        """Return parameters and multiply-accumulates when group i keeps `keep[i]` units."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        for group, k in zip(groups, keep, strict=True):
            for m in group.members:
                shapes[m.tensor][m.dim] -= (group.units - k) * m.index.shape[1]
        params = sum(prod(shapes[name]) for name in self.parameters)
        return params, macs(self.work, {name: tuple(shape) for name, shape in shapes.items()})


def allowed(group: Group, round_to: int, min_width: int) -> NDArray[np.int64]:
    """Return the unit counts a group may keep, ascending: multiples of `round_to` channels, or all of it."""
    step = round_to // gcd(round_to, group.channels_per_unit)
    least = -(-min_width // group.channels_per_unit)
    smaller = np.arange(step, group.units, step)
    return np.append(smaller[smaller >= least], group.units)


def nearest(options: NDArray[np.int64], wanted: float, debt: float) -> int:
    """Return the option nearest to `wanted`; of two equally near ones the one that pays back `debt`.

    `debt` is what groups before this one kept beyond what they wanted, so that ties do not add up.
    """
    distance = np.abs(options - wanted)
    tied = options[distance <= distance.min() + 1e-9]
    return int(tied[0] if debt > 0 else tied[-1])


def rounded(groups: Sequence[Group], wanted: Sequence[float], round_to: int, min_width: int) -> Keep:
    """Round wanted unit counts to allowed ones."""
    debt, keep = 0.0, []
    for group, want in zip(groups, wanted, strict=True):
        k = nearest(allowed(group, round_to, min_width), want, debt)
        debt += (k - want) * group.channels_per_unit
        keep.append(k)
    return tuple(keep)


def local_wants(groups: Sequence[Group], ratio: float) -> list[float]:
    """Take the same share of every group."""
    return [group.units * (1 - ratio) for group in groups]


def global_wants(groups: Sequence[Group], scores: Scores, ratio: float) -> list[float]:
    """Take the lowest scores of the whole network until `ratio` of all channels is gone.

    Scores are divided by their group's mean: norms grow with fan-in and are not comparable as they are.
    """
    if not groups:
        return []
    relative = np.concatenate([s / (s.mean() or 1.0) for s in scores])
    owner = np.repeat(np.arange(len(groups)), [g.units for g in groups])
    weight = np.array([g.channels_per_unit for g in groups])[owner]
    order = np.argsort(relative, kind="stable")
    gone = order[np.cumsum(weight[order]) <= ratio * weight.sum() + 1e-9]
    lost = np.bincount(owner[gone], minlength=len(groups))
    return [group.units - float(n) for group, n in zip(groups, lost, strict=True)]


def closest(keep_at: Callable[[float], Keep], removed: Callable[[Keep], float], goal: float) -> Keep:
    """Return the allocation, over ratios in [0, 1], that removes the share nearest to `goal`.

    Rounding makes groups of one width jump together; so the step across the goal is taken group by group.
    """
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if removed(keep_at(middle)) < goal else (low, middle)
    less, more = keep_at(low), keep_at(high)
    between = [more[:i] + less[i:] for i in range(len(less) + 1)]
    return min(between, key=lambda keep: abs(removed(keep) - goal))


def best(scores: NDArray[np.float64], k: int) -> tuple[int, ...]:
    """Return the `k` highest scores' positions, ascending; exactly `k`, the first of equal ones."""
    return tuple(np.sort(np.argsort(-scores, kind="stable")[:k]).tolist())
