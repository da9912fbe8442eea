"""Criteria that train: against plain loops that put the penalty into the loss, in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.criteria.group_sparse import GroupSparse, rise
from pipeline.pruning.criteria.slimming import Slimming
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.learning import Learning
from pipeline.pruning.samples import Samples
from tests.coupled_nets import data, evidence, pair
from tests.pruning_nets import built

FAST = {"epochs": 3, "lr": 0.05, "weight_decay": 1e-3}
# every parameter that goes with unit u of a group, as indices: written by hand for the net of `coupled_nets`
SLICES: dict[str, Callable[[nn.Module, int], list[Tensor]]] = {
    "stem": lambda m, u: [
        *(m.stem.weight[u], m.stem.bias[u], m.outer.weight[u], m.outer.bias[u]),
        *(m.inner.weight[:, u], m.left.weight[:, u], m.right.weight[:, u]),
    ],
    "inner": lambda m, u: [m.inner.weight[u], m.norm.weight[u], m.norm.bias[u], m.outer.weight[:, u]],
    "left": lambda m, u: [m.left.weight[u], m.left.bias[u], m.head.weight[:, 4 * u : 4 * u + 4]],
    "right": lambda m, u: [m.right.weight[u], m.right.bias[u], m.head.weight[:, 16 + 4 * u : 20 + 4 * u]],
}
SIZES = {"stem": 6, "inner": 7, "left": 4, "right": 5}


def by_hand(model: nn.Module, seen: Samples, criterion: Learning, penalty: Callable[[nn.Module], Tensor]) -> nn.Module:
    """Train with a penalty in the loss, whose gradient autograd finds."""
    model = copy.deepcopy(model).train()
    momenta = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    torch.manual_seed(0)
    order = [n for _ in range(criterion.epochs) for n in torch.randperm(len(seen.batches)).tolist()]
    for step, number in enumerate(order):
        (x,), y = seen.batches[number]
        model.zero_grad()
        (F.cross_entropy(model(x), y) + penalty(model)).backward()
        rate = criterion.lr * (1 if 2 * step < len(order) else 0.1 if 4 * step < 3 * len(order) else 0.01)
        with torch.no_grad():
            for name, p in model.named_parameters():
                assert p.grad is not None
                momenta[name] = criterion.momentum * momenta[name] + p.grad + criterion.weight_decay * p
                p.sub_(rate * momenta[name])
    return model.eval()


def learned(criterion: Learning, found: Evidence) -> Evidence:
    torch.manual_seed(5)  # whatever was drawn before
    return criterion.learn(found)


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-8, msg=name)


def test_slimming_descends_the_loss_with_an_l1_penalty_on_the_scales_alone() -> None:
    plain, _ = pair()
    found, criterion = evidence(plain), Slimming(**FAST, sparsity=0.05)
    after = learned(criterion, found)
    wanted = by_hand(plain, found.seen, criterion, lambda m: 0.05 * m.norm.weight.abs().sum())
    assert_equal(after.model, wanted)
    ranked = criterion.rank(found.network.structure.groups, after)
    assert list(ranked) == ["inner"]  # the others have no norm
    assert ranked["inner"].scores.tolist() == pytest.approx([abs(v) for v in wanted.norm.weight.tolist()], rel=1e-5)


def test_slimming_makes_scales_small_that_the_loss_does_not_need() -> None:
    plain, _ = pair()
    found = evidence(plain)
    with torch.no_grad():
        plain.outer.weight[:, :3] = 0  # nothing reads them
    options = {"epochs": 30, "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
    free, pressed = (
        learned(Slimming(**options, sparsity=s), found).model.norm.weight.detach().abs() for s in (0.0, 0.3)
    )
    assert pressed[:3].sum() < 0.7 * free[:3].sum()


def test_slimming_needs_batch_norms() -> None:
    model, x = built("lenet")
    seen = Samples.of(torch.randn(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(UserError, match="criterion slimming: trains the scales of batch norms"):
        prune(model, x, samples=seen, criterion="slimming")


@pytest.mark.parametrize("growth", [0.0, 4.0])
def test_group_sparse_presses_every_parameter_of_a_unit_by_its_weakness(growth: float) -> None:
    plain, _ = pair()
    found, criterion = evidence(plain), GroupSparse(**FAST, strength=0.02, growth=growth)

    def penalty(model: nn.Module) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for name, slices in SLICES.items():
            parts = [sum((t.square().sum() for t in slices(model, u)), total * 0) for u in range(SIZES[name])]
            values = [p.item() for p in parts]
            for part, value in zip(parts, values, strict=True):
                gamma = 2 ** (growth * (max(values) - value) / (max(values) - min(values)))
                total = total + 0.02 * gamma * part / 2
        return total

    after = learned(criterion, found)
    wanted = by_hand(plain, found.seen, criterion, penalty)
    assert_equal(after.model, wanted)
    ranked = criterion.rank(found.network.structure.groups, after)
    assert ranked.keys() == SLICES.keys()
    for name, slices in SLICES.items():
        norms = [sum(t.square().sum().item() for t in slices(wanted, u)) ** 0.5 for u in range(SIZES[name])]
        assert ranked[name].scores.tolist() == pytest.approx(norms, rel=1e-5)


def test_the_strongest_unit_is_pressed_once_and_the_weakest_sixteen_times() -> None:
    assert rise(torch.tensor([1.0, 3.0, 2.0]), 4).tolist() == [16, 1, 4]
    assert rise(torch.ones(3), 4).tolist() == [1, 1, 1]  # none is weaker


@pytest.mark.parametrize("criterion", [Slimming(**FAST), GroupSparse(**FAST)])
def test_training_is_of_a_copy_and_the_same_every_time(criterion: Learning) -> None:
    plain, _ = pair()
    plain.left.weight.requires_grad_(False)
    before = {n: t.clone() for n, t in plain.state_dict().items()}
    found = evidence(plain)
    first, second = (learned(criterion, found).model for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))  # noqa: B905
    assert not torch.equal(first.stem.weight, plain.stem.weight)
    assert torch.equal(first.left.weight, plain.left.weight)  # it is frozen
    assert not torch.equal(first.norm.running_mean, plain.norm.running_mean)
    assert not any(m.training for m in first.modules())
    assert all(torch.equal(t, before[n]) for n, t in plain.state_dict().items())


def test_nothing_to_train_and_losses_that_diverge_are_refused() -> None:
    plain, _ = pair()
    found = evidence(plain)
    with pytest.raises(UserError, match=r"the loss of the samples is nan.*lower lr"):
        GroupSparse(lr=1e30).learn(found)
    for p in plain.parameters():
        p.requires_grad_(False)
    with pytest.raises(UserError, match="every parameter is frozen"):
        GroupSparse().learn(found)


def test_the_trained_copy_is_what_is_pruned() -> None:
    plain, _ = pair()
    model = plain.float()
    x, y = data(12)
    seen = Samples.of(x.float(), y, batch_size=4)
    result = prune(model, x[:2].float(), samples=seen, criterion="group_sparse", criterion_options=FAST)
    kept = list(result.plan.kept["stem.weight"][0])
    trained = GroupSparse(**FAST).learn(evidence(model, double=False)).model
    torch.testing.assert_close(result.model.stem.bias, trained.stem.bias[kept])
    assert not torch.allclose(result.model.stem.bias, model.stem.bias[kept])
