import numpy as np
import pytest
import torch

from pipeline.plugins import find, names
from pipeline.pruning.criteria.base import Criterion, Evidence
from pipeline.pruning.groups import Group, Member
from pipeline.pruning.rules.base import Role

CRITERIA = "pipeline.pruning.criteria"


def coupled() -> tuple[Group, Evidence]:
    """Two convolutions that make the same four channels, in units of two that lie apart."""
    generator = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(4, k, 3, 3, generator=generator) for n, k in (("a.weight", 3), ("b.weight", 5))}
    tensors |= {"a.bias": torch.full((4,), 1e6), "c.weight": torch.full((6, 4, 1, 1), 1e6)}
    index = np.array([[0, 2], [1, 3]])
    roles = {
        "a.weight": (0, Role.OUT),
        "b.weight": (0, Role.OUT),
        "a.bias": (0, Role.ALONG),
        "c.weight": (1, Role.IN),
    }
    members = tuple(Member(n, dim, role, index) for n, (dim, role) in roles.items())
    return Group("a", 2, 2, members), Evidence(tensors)


@pytest.mark.parametrize(("name", "norm"), [("l1", 1), ("l2", 2)])
def test_norms_sum_over_every_coupled_producer_and_nothing_else(name: str, norm: int) -> None:
    group, evidence = coupled()
    wanted = [0.0, 0.0]
    for unit, channels in enumerate([(0, 2), (1, 3)]):
        for tensor in ("a.weight", "b.weight"):
            for c in channels:
                values = [abs(v) for v in evidence.tensors[tensor][c].flatten().double().tolist()]
                wanted[unit] += sum(v**norm for v in values) ** (1 / norm)
    scores = find(CRITERIA, name, Criterion)()(group, evidence)
    assert scores.tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", names(CRITERIA))
def test_every_criterion_gives_one_finite_score_per_unit(name: str) -> None:
    group, evidence = coupled()
    scores = find(CRITERIA, name, Criterion)()(group, evidence)
    assert scores.shape == (2,)
    assert torch.isfinite(scores).all()
    assert not scores.requires_grad
