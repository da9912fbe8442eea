"""Ranks of feature maps against elimination in plain loops, and what the score must not depend on."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.criteria.hrank import Hrank, ranks
from pipeline.pruning.samples import Samples
from tests.criteria_evidence import evidence, inputs_of, ranked, recorded, seen_by


def rank_by_elimination(matrix: list[list[float]], tolerance: float) -> int:
    """Gauss with full pivoting; every column is scaled back by the largest entry, not by a singular value."""
    rows = [list(row) for row in matrix]
    largest = max(abs(v) for row in rows for v in row)
    rank = 0
    while rank < min(len(rows), len(rows[0])):
        value, i, j = max((abs(rows[i][j]), i, j) for i in range(rank, len(rows)) for j in range(rank, len(rows[0])))
        if value <= tolerance * largest:
            break
        rows[rank], rows[i] = rows[i], rows[rank]
        for row in rows:
            row[rank], row[j] = row[j], row[rank]
        for k in range(rank + 1, len(rows)):
            factor = rows[k][rank] / rows[rank][rank]
            rows[k] = [a - factor * b for a, b in zip(rows[k], rows[rank], strict=True)]
        rank += 1
    return rank


class Strips(nn.Module):
    """Not square maps, of which a wide average makes low rank; one channel is dead, and one is its input once more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.next = nn.Conv2d(6, 4, 3)
        self.conv.weight.data[4], self.conv.bias.data[4] = 0.0, -1.0
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.next(torch.relu(self.conv(x)))).mean((2, 3)))


def low_rank_images(n: int) -> Tensor:
    """Images of rank 1 to n, so that ranks differ between samples."""
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randn(2, 9, r, generator=generator) @ torch.randn(2, r, 7, generator=generator) for r in range(1, n + 1)
    ]
    return torch.stack(images)


def test_score_is_the_mean_rank_over_images() -> None:
    model, images = Strips(), low_rank_images(5)
    with recorded(model, "conv") as seen:
        model(images)
    scores = ranked(Hrank(), seen_by(model, images, 5))["conv"].scores
    for unit in range(6):
        found = (
            [rank_by_elimination(m.double().tolist(), 1e-5) for m in seen["conv"].relu()[:, unit]] if unit != 4 else [0]
        )
        assert scores[unit] == pytest.approx(sum(found) / len(found), abs=1e-5)
    assert scores[4] == 0
    assert len(set(scores.tolist())) > 2


def test_a_coupled_stage_has_the_mean_over_the_maps_that_are_read() -> None:
    found = evidence("resnet_b", n=4, batch_size=2)
    model, relus = found.model, []
    hook = nn.modules.module.register_module_forward_hook(
        lambda m, _, out: relus.append(out) if type(m).__name__ == "Block" else None
    )
    model(inputs_of(found))
    hook.remove()
    maps = [relus[2], relus[3]]  # the blocks of the second stage
    scores = ranked(Hrank(), found)["stages.2.conv2"].scores
    for unit in range(0, 32, 9):
        wanted = [rank_by_elimination(one[unit].double().tolist(), 1e-5) for m in maps for one in m]
        assert scores[unit] == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)


def test_order_and_size_of_batches_change_nothing() -> None:
    model, images = Strips(), low_rank_images(8)
    shuffled = images[torch.tensor([5, 2, 7, 0, 4, 1, 6, 3])]
    scores = [
        ranked(Hrank(), seen_by(model, x, size))["conv"].scores for x, size in ((images, 8), (images, 2), (shuffled, 4))
    ]
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])


def test_ranks_are_exact_where_the_tolerance_says_what_counts() -> None:
    u, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    matrix = u @ torch.diag(torch.tensor([1.0, 1e-1, 1e-2, 1e-3, 0, 0, 0, 0])) @ u.T
    many = torch.stack([matrix, matrix * 1e6, matrix * 1e-6, torch.zeros(8, 8)])
    assert ranks(many, 1e-4).tolist() == [4, 4, 4, 0]
    assert ranks(many, 0.05).tolist() == [2, 2, 2, 0]


def test_tied_late_maps_keep_the_first() -> None:
    found = evidence("vgg", n=4, batch_size=2)
    ranking = ranked(Hrank(tolerance=0.9), found)["features.11"]  # as good as every map has rank 1
    tied = np.flatnonzero(ranking.scores == ranking.scores.max())
    assert len(tied) > 8
    assert ranking.keep(4) == tuple(tied[:4].tolist())


def test_linear_layers_stay_whole_and_a_network_of_them_is_refused() -> None:
    found = evidence("vgg", n=4, batch_size=2)
    assert "classifier.0" not in ranked(Hrank(), found)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 6)
    with pytest.raises(UserError, match="criterion hrank: goes by feature maps with height and width"):
        prune(model, x, samples=Samples.of(x, torch.zeros(4, dtype=torch.int64)), criterion="hrank")


def test_activations_that_are_not_finite_are_told() -> None:
    found = evidence("vgg", n=4, batch_size=2)
    found.model.features[4].weight.data[3] = torch.nan
    with pytest.raises(UserError, match=r"weights are not finite: features\.4\.weight"):
        prune(found.model, found.seen.example, samples=found.seen, criterion="hrank")
