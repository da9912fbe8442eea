"""Channel pruning by LASSO (He, Zhang & Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.contributions import ContributionCriterion, Gram
from pipeline.pruning.criteria.base import Ranking

Vector = NDArray[np.float64]

_STEP = 2.0**-0.25  # from one penalty to the next
_STEPS = 64  # down to 1.5e-5 of the largest
_HALVINGS = 20
_SWEEPS = 500


@dataclass(frozen=True)
class Lasso(ContributionCriterion):
    """Keeps the channels that a LASSO rebuilds the next layer's outputs from, whose weights are then fit anew.

    min ½‖Y − Σ β_u X_u‖² + λ‖β‖₁ over what the units add to all outputs of their readers. Of a coupled group:
    one β for all readers, each relative to the energy of its outputs. The units that stay are those with β ≠ 0
    at the λ that leaves as many, by |β| where several leave at once, by their energy where β has too few. Scores
    are the largest λ on the path at which β_u ≠ 0.
    """

    reconstructs: ClassVar[Literal["scale", "full"] | None] = "full"

    def judge(self, gram: Gram) -> Ranking:
        """Rank by the path of penalties."""
        found = path(gram)
        scores = np.zeros(len(gram))
        for penalty, beta in reversed(found):
            scores[beta != 0] = penalty
        return Ranking(scores, partial(pick, gram, found))


def path(gram: Gram) -> list[tuple[float, Vector]]:
    """Return the coefficients at falling penalties, from the one at which all are zero."""
    target = gram.sum(1)
    largest = float(np.abs(target).max())
    found = [(largest, np.zeros(len(gram)))]
    if largest == 0:
        return found
    alive = np.count_nonzero(_alive(gram))
    for step in range(1, _STEPS + 1):
        penalty = largest * _STEP**step
        found.append((penalty, solve(gram, target, penalty, found[-1][1])))
        if np.count_nonzero(found[-1][1]) == alive:
            break
    return found


def pick(gram: Gram, found: Sequence[tuple[float, Vector]], k: int) -> Sequence[int]:
    """Return the `k` units that stay; the penalty is halved into the step of the path where they are as many."""
    enough = next((i for i, (_, beta) in enumerate(found) if np.count_nonzero(beta) >= k), len(found) - 1)
    (high, _), (low, best) = found[max(enough - 1, 0)], found[enough]
    target = gram.sum(1)
    for _ in range(_HALVINGS if np.count_nonzero(best) > k else 0):
        middle = (high * low) ** 0.5
        beta = solve(gram, target, middle, best)
        if np.count_nonzero(beta) < k:
            high = middle
        else:
            low, best = middle, beta
        if np.count_nonzero(best) == k:
            break
    order = np.lexsort((-gram.diagonal(), -np.abs(best)))
    return [int(unit) for unit in order[:k]]


def solve(gram: Gram, target: Vector, penalty: float, start: Vector) -> Vector:
    """Minimise ½βᵀGβ − βᵀt + λ‖β‖₁: sweeps of coordinate descent, each followed by a step on the signs it found.

    That step solves for the nonzeros exactly (Lee et al., Efficient Sparse Coding Algorithms, NIPS 2006), which
    coordinates that vary together would take very many sweeps for. Units without energy stay at zero.
    """
    beta, own = start.copy(), gram.diagonal()
    left, enough = target - gram @ beta, 1e-9 * float(np.abs(target).max())
    units = np.flatnonzero(_alive(gram)).tolist()
    for _ in range(_SWEEPS):
        moved = 0.0
        for u in units:
            whole = left[u] + own[u] * beta[u]
            new = max(abs(whole) - penalty, 0.0) / own[u] * (1 if whole > 0 else -1)
            if (by := new - beta[u]) != 0:
                left -= gram[u] * by
                beta[u] = new
                moved = max(moved, abs(by) * own[u])
        if moved <= enough:
            break
        beta = _on_signs(gram, target, penalty, beta)
        left = target - gram @ beta
    return beta


def _alive(gram: Gram) -> NDArray[np.bool_]:
    """Return which units add anything to the outputs."""
    own = gram.diagonal()
    return np.asarray(own > 1e-12 * own.max())


def _on_signs(gram: Gram, target: Vector, penalty: float, beta: Vector) -> Vector:
    """Go to the minimum for the nonzeros as they are signed, or as far as the first of them that gets zero."""
    some = np.flatnonzero(beta)
    if not len(some):
        return beta
    now, square = beta[some], gram[np.ix_(some, some)]
    square[np.diag_indices(len(some))] += 1e-10 * square.diagonal().mean()  # of equal units, either will do
    best = np.linalg.solve(square, target[some] - penalty * np.sign(now))
    crossing = np.sign(best) != np.sign(now)
    result = beta.copy()
    if crossing.any():
        reach = now[crossing] / (now[crossing] - best[crossing])
        best = now + reach.min() * (best - now)
        best[np.flatnonzero(crossing)[reach == reach.min()]] = 0
    result[some] = best
    return result
