from collections.abc import Sequence
from math import inf

import pytest
import torch
from torch import Tensor, nn

from pipeline.pruning import prune
from pipeline.pruning.groups import structure
from pipeline.pruning.plan import make
from pipeline.pruning.reference import Reference
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import capture, walk
from pipeline.pruning.verify import culprits, difference, noise, prove


def test_difference_is_relative_to_the_largest_value() -> None:
    a = torch.tensor([10.0, 1.0])
    assert difference([a], [a + torch.tensor([0.0, 0.1])]) == pytest.approx(0.01, rel=1e-5)
    assert difference([a, a], [a, 2 * a]) == pytest.approx(1.0)
    assert difference([a], [a[:1]]) == inf
    assert difference([a], [a * torch.nan]) == inf


@pytest.mark.parametrize("bad", [{"c"}, {"a", "h"}, {"d", "e"}, set()])
def test_culprits_that_fail_alone_are_found_exactly(bad: set[str]) -> None:
    assert set(culprits("abcdefgh", lambda names: not bad & set(names))) == bad


def test_groups_that_fail_only_together_are_returned_together() -> None:
    def holds(names: Sequence[str]) -> bool:
        return not {"b", "c"} <= set(names)

    assert {"b", "c"} <= set(culprits("abcdefgh", holds))


def test_noise_is_reproducible_and_leaves_indices_alone() -> None:
    x, index = torch.zeros(2, 3), torch.tensor([1, 2])
    first, second = noise((x, index)), noise((x, index))
    assert torch.equal(first[0], second[0])
    assert first[0].std() > 0
    assert torch.equal(first[1], index)


def test_a_wrong_plan_fails_the_proof() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x = torch.randn(1, 3, 8, 8)
    found = structure(flow := walk(captured := capture(model, x)))
    (group,) = found.groups
    reference = Reference(captured, flow, found.alive({group.name: (0, 1, 2, 3)}), tensors(model))
    right, wrong = (make(found, {group.name: units}, captured.shapes, {}, {}) for units in ((0, 1, 2, 3), (0, 1, 2, 4)))
    assert prove(right.apply(model), reference, (x,)).holds
    proof = prove(wrong.apply(model), reference, (x,))
    assert not proof.holds
    assert proof.max_rel_error > 1e-2


class Casting(nn.Module):
    """The forward makes a tensor in float32, whatever the weights are in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) @ torch.ones(8, 8, dtype=torch.float32))


def test_a_forward_that_cannot_run_in_double_precision_is_judged_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.pruning.verify.SUSPICIOUS", -1.0)  # look at every error again
    model = Casting().eval()
    result = prune(model, torch.randn(2, 4))
    assert result.proof.holds
    assert result.model(torch.randn(2, 4)).shape == (2, 3)
