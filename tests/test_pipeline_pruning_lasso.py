"""LASSO selection against slow proximal steps on the residuals, and the full refit that follows."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.pruning import prune
from pipeline.pruning.criteria.lasso import Lasso, path, pick, solve
from tests.reading_nets import Array, added, pair, seen_by, unfolded
from tests.test_pipeline_pruning_contributions import evidence


def slow_lasso(x: Array, penalty: float) -> NDArray[np.float64]:
    """Minimise ½‖y - Σ β_u x_u‖² + λ‖β‖₁ with y = Σ x_u, by proximal gradient steps, one number at a time."""
    y, beta = x.sum(0), np.zeros(len(x))
    step = 1 / np.linalg.norm(x, 2) ** 2
    for _ in range(20_000):
        left = y - beta @ x
        new = beta.copy()
        for u in range(len(x)):
            moved = beta[u] + step * float(x[u] @ left)
            new[u] = max(abs(moved) - step * penalty, 0) * (1 if moved > 0 else -1)
        done = np.abs(new - beta).max() < 1e-12
        beta = new
        if done:
            break
    return beta


@pytest.fixture(scope="module")
def responses() -> Array:
    model = pair()
    known = evidence(model, (3, 6, 6), n=2, batch=2)
    value = seen_by(model, ["b"], known.seen.example[0])["b"]
    x = added(model.b, value, [[c] for c in range(8)])
    return x / np.sqrt(np.square(x.sum(0)).sum())


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01])
def test_the_solution_is_that_of_proximal_gradients(responses: Array, share: float) -> None:
    gram = responses @ responses.T
    target = gram.sum(1)
    penalty = share * float(np.abs(target).max())
    beta = solve(gram, target, penalty, np.zeros(8))
    assert beta == pytest.approx(slow_lasso(responses, penalty), abs=1e-5)


def correlated(units: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(units, 3)) @ rng.normal(size=(3, 400)) + 0.05 * rng.normal(size=(units, 400))
    return x * rng.lognormal(sigma=1, size=(units, 1))


@pytest.mark.parametrize("seed", range(3))
def test_solutions_are_optimal_where_units_vary_together(seed: int) -> None:
    """The conditions of Karush, Kuhn and Tucker, which prove a minimum."""
    x = correlated(40, seed)
    gram = x @ x.T
    target = gram.sum(1)
    for penalty, beta in path(gram):
        slope = target - gram @ beta
        off = 1e-6 * np.abs(target).max()
        assert np.abs(slope).max() <= penalty + off
        assert np.abs(slope - penalty * np.sign(beta))[beta != 0].max(initial=0) <= off


def test_it_keeps_exactly_as_many_as_asked_for(responses: Array) -> None:
    for x in (responses, correlated(40, 0)):
        gram = x @ x.T
        found = path(gram)
        for k in range(1, len(gram)):
            units = pick(gram, found, k)
            assert len(set(units)) == k


def test_the_units_are_those_with_coefficients(responses: Array) -> None:
    gram = responses @ responses.T
    largest = float(np.abs(gram.sum(1)).max())
    supports = [np.flatnonzero(slow_lasso(responses, share * largest)).tolist() for share in (0.8, 0.5, 0.3, 0.1)]
    assert len({len(s) for s in supports}) > 2
    for units in supports:
        assert sorted(pick(gram, path(gram), len(units))) == units


def test_scores_fall_with_the_penalty_at_which_units_come_in() -> None:
    gram = np.diag([9.0, 1, 4, 0])
    ranked = Lasso().judge(gram)
    assert np.argsort(-ranked.scores).tolist() == [0, 2, 1, 3]
    assert ranked.scores[3] == 0
    assert ranked.keep(2) == (0, 2)


def test_of_equal_units_one_is_enough() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 50))
    x = np.stack([x[0], x[0], x[1], x[2]])
    kept = Lasso().judge(x @ x.T).keep(3)
    assert {2, 3} < set(kept)


def test_a_network_of_dead_channels_is_pruned_too() -> None:
    assert Lasso().judge(np.zeros((4, 4))).keep(2) == (0, 1)


def test_weights_are_then_fit_by_full_least_squares() -> None:
    model = pair()
    seen = evidence(model, (3, 8, 8)).seen
    options = {"positions": 100}
    result = prune(model, seen.example, samples=seen, criterion="lasso", criterion_options=options, ratio=0.5)
    stays = result.plan.kept["a.weight"][0]
    value = seen_by(model, ["b"], torch.cat([x for (x,), _ in seen.batches]))["b"]
    (patches,) = unfolded(model.b, value)
    weight = model.b.weight.detach().double().numpy().reshape(5, 8, 9)
    y = np.einsum("nck,ock->no", patches, weight)
    wanted = np.linalg.lstsq(patches[:, stays].reshape(len(patches), -1), y, rcond=None)[0].T
    got = result.model.b.weight.detach().double().numpy().reshape(5, -1)
    assert got == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert result.proof.holds
