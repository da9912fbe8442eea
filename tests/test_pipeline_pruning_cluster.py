"""Self-expression against plain loops, planted subspaces that must be found, and one unit of each cluster."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.criteria import cluster
from pipeline.pruning.criteria.cluster import Cluster, expression, labels, representatives
from tests.criteria_evidence import evidence, inputs_of, ranked, recorded


def solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss with partial pivoting."""
    rows = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(len(rows)):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def expressed_by_the_others(x: list[list[float]], ridge: float) -> list[list[float]]:
    """Ridge regression of every column on all other columns, one after the other, by its normal equations."""
    units = len(x[0])
    result = [[0.0] * units for _ in range(units)]
    for j in range(units):
        others = [u for u in range(units) if u != j]
        normal = [[sum(row[a] * row[b] for row in x) + ridge * (a == b) for b in others] for a in others]
        for i, value in zip(others, solved(normal, [sum(row[a] * row[j] for row in x) for a in others]), strict=True):
            result[i][j] = value
    return result


def test_the_closed_form_is_ridge_regression_on_the_others() -> None:
    x = np.random.default_rng(0).standard_normal((12, 6))
    x[:, 5] = x[:, 0] - 2 * x[:, 1]
    wanted = expressed_by_the_others(x.tolist(), 0.1)
    assert expression(x.T @ x, 0.1) == pytest.approx(np.array(wanted), abs=1e-8)


def test_the_gram_matrix_is_of_all_positions_of_all_samples() -> None:
    found = evidence("vgg", n=6, batch_size=3)
    with recorded(found.model, "features.6") as seen, torch.no_grad():
        found.model(inputs_of(found))
    x = seen["features.6"].double().transpose(0, 1).flatten(1)
    ranking = ranked(Cluster(), found)["features.4"]
    assert ranking.scores == pytest.approx(x.norm(dim=1).numpy(), rel=1e-5)
    live = [u for u in range(32) if x[u].any()]
    unit = (x[live] / x[live].norm(dim=1, keepdim=True)).T
    c = np.abs(expressed_by_the_others_fast(unit.numpy(), 0.01))
    assert ranking.pick is not None
    affinity = ranking.pick.args[2]  # type: ignore[attr-defined]
    assert affinity == pytest.approx(c + c.T, abs=1e-5)


def expressed_by_the_others_fast(x: np.ndarray, ridge: float) -> np.ndarray:
    """The same regressions, each as a least-squares problem with rows for the ridge."""
    units = x.shape[1]
    result = np.zeros((units, units))
    for j in range(units):
        others = np.delete(np.arange(units), j)
        rows = np.vstack([x[:, others], np.sqrt(ridge) * np.eye(units - 1)])
        result[others, j] = np.linalg.lstsq(rows, np.append(x[:, j], np.zeros(units - 1)), rcond=None)[0]
    return result


def planted(sizes: tuple[int, ...], noise: float = 0.0) -> tuple[np.ndarray, list[int]]:
    """Maps from independent planes, several of each, in mixed order."""
    rng = np.random.default_rng(4)
    columns, owner = [], []
    for number, size in enumerate(sizes):
        plane = rng.standard_normal((60, 2))
        columns += [plane @ rng.standard_normal(2) for _ in range(size)]
        owner += [number] * size
    order = rng.permutation(len(owner))
    x = np.stack(columns, 1)[:, order]
    return x + noise * rng.standard_normal(x.shape), [owner[i] for i in order]


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_planted_subspaces_are_found_and_each_keeps_its_loudest(noise: float) -> None:
    x, owner = planted((6, 4, 5), noise)
    norms = np.linalg.norm(x, axis=0)
    ranking = cluster._ranking(x.T @ x, 0.01)
    wanted = [max((u for u in range(15) if owner[u] == k), key=lambda u: norms[u]) for k in range(3)]
    assert ranking.keep(3) == tuple(sorted(wanted))


@pytest.mark.parametrize("k", range(1, 16))
def test_every_number_of_units_can_stay_and_always_the_same(k: int) -> None:
    x, _ = planted((6, 4, 5))
    x[:, 3] = 0
    x[:, 7] = x[:, 8]
    rankings = [cluster._ranking(x.T @ x, 0.01) for _ in range(2)]
    kept = rankings[0].keep(k)
    assert len(set(kept)) == k
    assert kept == rankings[1].keep(k)
    assert 3 not in kept or k == 15


def test_clusters_that_come_out_empty_are_made_up_for() -> None:
    """Units that are all alike are one cluster, however many are asked for."""
    norms = np.array([1.0, 3.0, 2.0, 2.0, 0.0])
    alike = np.ones((4, 4)) - np.eye(4)
    kept = representatives(norms, np.arange(4), alike, 3)
    assert len(set(kept)) == 3
    assert 1 in kept
    assert 4 not in kept


def test_unconnected_units_are_clustered_without_a_warning() -> None:
    blocks = np.kron(np.eye(3), np.ones((4, 4))) - np.eye(12)
    found = labels(blocks, 3)
    assert [len(set(found[i : i + 4].tolist())) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(found.tolist())) == 3


def test_channels_that_copy_each_other_leave_one() -> None:
    """What a norm would do: keep both copies of the loudest channel, and lose the quiet ones."""
    found = evidence("vgg", n=6, batch_size=3)
    conv, norm = found.model.features[0], found.model.features[1]
    pairs = [(0, 8), (1, 9), (2, 10), (3, 11), (4, 12), (5, 13), (6, 14), (7, 15)]
    norm.bias.data.abs_()
    for a, b in pairs:
        conv.weight.data[b] = conv.weight.data[a]
        conv.bias.data[b] = conv.bias.data[a]
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data[b] = tensor.data[a]
    kept = ranked(Cluster(), found)["features.0"].keep(8)
    assert all(len({a, b} & set(kept)) == 1 for a, b in pairs)


def test_silent_groups_keep_the_first() -> None:
    found = evidence("vgg", n=4, batch_size=2)
    for tensor in (found.model.features[1].weight, found.model.features[1].bias):
        tensor.data.zero_()
    result = prune(found.model, found.seen.example, samples=found.seen, criterion="cluster")
    assert result.plan.kept["features.0.weight"][0].tolist() == list(range(8))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = evidence("vgg", n=4, batch_size=2)
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"criterion cluster: needs scikit-learn; pip install 'edgesmith\[criteria\]'"):
        ranked(Cluster(), found)


def test_linear_layers_are_clustered_too() -> None:
    from tests.criteria_evidence import seen_by

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    assert len(ranked(Cluster(), seen_by(model, x, 8))["0"].keep(4)) == 4
