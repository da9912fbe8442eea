"""Taylor importance against explicit gates on the activations that layers read, in plain float64 autograd."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.criteria.taylor import Taylor, gate
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group, Member
from pipeline.pruning.network import network_of
from pipeline.pruning.rules.base import Role
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import capture
from tests.coupled_nets import SIZES, data, evidence, pair
from tests.pruning_nets import built


def by_gates(model: nn.Module, batch: int, of: Callable[[float], float]) -> dict[str, list[float]]:
    x, y = data(12)
    totals = {name: [0.0] * size for name, size in SIZES.items()}
    count = len(x) // batch
    for start in range(0, len(x), batch):
        gates = {name: torch.ones(size, dtype=torch.float64, requires_grad=True) for name, size in SIZES.items()}
        loss = F.cross_entropy(model(x[start : start + batch], gates), y[start : start + batch])
        loss.backward()
        for name, value in gates.items():
            assert value.grad is not None
            for unit, slope in enumerate(value.grad.tolist()):
                totals[name][unit] += of(slope) / count
    return totals


@pytest.mark.parametrize("batch", [1, 4, 12])
@pytest.mark.parametrize(("of", "power"), [("square", 2), ("abs", 1)])
def test_importance_is_the_derivative_by_a_gate_at_every_reader(of: str, power: int, batch: int) -> None:
    plain, gated = pair()
    found = evidence(plain, batch=batch)
    ranked = Taylor(of).rank(found.network.structure.groups, found)  # type: ignore[arg-type]
    wanted = by_gates(gated, batch, lambda slope: abs(slope) ** power)
    assert ranked.keys() == wanted.keys()
    for name, scores in wanted.items():
        assert ranked[name].scores.tolist() == pytest.approx(scores, rel=1e-5, abs=1e-12)


def test_what_one_reader_wants_and_another_does_not_cancels_before_the_square() -> None:
    """Two linear layers read a unit with opposite weights into one sum: no gate on it changes the loss."""

    class Opposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.plus, self.minus = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.make(x))
            return self.plus(hidden) + self.minus(hidden)

    torch.manual_seed(0)
    model = Opposed().eval()
    with torch.no_grad():
        model.minus.weight[:, 1] = -model.plus.weight[:, 1]
    x, y = torch.randn(8, 3), torch.randint(0, 5, (8,))
    found = Evidence(model, network_of(model, capture(model, (x,)), (x,), Settings()), Samples.of(x, y))
    scores = Taylor().rank(found.network.structure.groups, found)["make"].scores
    assert scores[1] == pytest.approx(0, abs=1e-12)
    assert (np.delete(scores, 1) > 1e-9).all()


def test_gradients_of_a_batch_are_averaged_before_they_are_squared() -> None:
    plain, _ = pair()
    single, whole = (
        Taylor().rank(found.network.structure.groups, found)["stem"].scores
        for found in (evidence(plain, batch=1), evidence(plain, batch=12))
    )
    assert (single > whole).all()


def test_groups_that_nobody_reads_take_what_makes_them() -> None:
    index = np.array([[0], [1]])

    def along(name: str) -> Member:
        return Member(name, 0, Role.ALONG, index)

    rows, bias, norm = Member("q.weight", 0, Role.OUT, index), along("q.bias"), along("norm.weight")
    names = {"q.weight", "q.bias", "norm.weight"}
    assert gate(Group("q", 2, 1, (rows, bias)), names) == [rows, bias]
    assert gate(Group("q", 2, 1, (rows, bias, norm, along("norm.running_mean"))), names) == [norm]


def test_frozen_parameters_and_the_model_itself_are_left_as_they_were() -> None:
    plain, _ = pair()
    plain.train()
    plain.stem.weight.requires_grad_(False)
    before = {n: t.clone() for n, t in plain.state_dict().items()}
    found = evidence(plain)
    Taylor().rank(found.network.structure.groups, found)
    assert plain.training
    assert not plain.stem.weight.requires_grad
    assert all(p.grad is None for p in plain.parameters())
    assert all(torch.equal(t, before[n]) for n, t in plain.state_dict().items())


def test_a_loss_that_is_no_number_is_refused() -> None:
    model, x = built("vgg")
    seen = Samples.of(torch.full_like(x, float("nan")), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match="criterion taylor: the loss of the samples is nan"):
        prune(model, x, samples=seen, criterion="taylor")
