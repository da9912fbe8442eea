"""The reference, checked by hand; who is blamed for a failure; what plans cost; batches like the example."""

import pytest
import torch
from pruning_nets import VGG, ResNet, reading_only
from pruning_nets import lively as noisy
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.blame import blame
from pipeline.pruning.costs import of_network
from pipeline.pruning.counters import count
from pipeline.pruning.groups import structure
from pipeline.pruning.plan import make
from pipeline.pruning.reference import Reference
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import capture, walk
from pipeline.pruning.verify import like, lively, prove


@pytest.mark.parametrize("factory", [VGG, ResNet])
def test_without_ops_over_channels_it_equals_zeros_where_layers_read(factory: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = noisy(factory()), torch.randn(2, 3, 32, 32)
    captured = capture(model, x)
    found = structure(flow := walk(captured))
    kept = {g.name: tuple(range(0, g.units, 2)) for g in found.groups}
    plan = make(found, kept, captured.shapes, {}, {})
    (y,) = Reference(captured, flow, found.alive(kept), tensors(model)).outputs([x])
    assert_close(y, reading_only(model, plan)(x), rtol=1e-4, atol=1e-5)


def test_a_layer_norm_sees_only_what_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    model[1].weight.data.normal_()
    model[1].bias.data.normal_()
    x, stays = torch.randn(4, 5), [0, 3, 4, 6]
    captured = capture(model, x)
    found = structure(flow := walk(captured))
    (y,) = Reference(captured, flow, found.alive({"0": stays}), tensors(model)).outputs([x])
    hidden = model[0](x)[:, stays]
    scaled = (hidden - hidden.mean(1, keepdim=True)) / (hidden.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = scaled * model[1].weight[stays] + model[1].bias[stays]
    assert_close(y, normed @ model[2].weight[:, stays].T + model[2].bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "amax", "std"])
def test_a_reduction_over_channels_sees_only_what_stays(reduction: str) -> None:
    class Reduced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 8)

        def forward(self, x: Tensor) -> Tensor:
            return getattr(self.a(x), reduction)(1)

    model, x = Reduced().eval(), torch.randn(4, 5)
    captured = capture(model, x)
    found = structure(flow := walk(captured))
    (y,) = Reference(captured, flow, found.alive({"a": [1, 2, 5]}), tensors(model)).outputs([x])
    assert_close(y, getattr(model.a(x)[:, [1, 2, 5]], reduction)(1))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(-1, 8))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), Half(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


def test_the_module_that_raised_and_holds_the_size_is_blamed() -> None:
    model, x = Two().eval(), torch.randn(2, 4)
    captured = capture(model, x)
    found = structure(flow := walk(captured))
    kept = {g.name: tuple(range(g.units // 2)) for g in found.groups}
    assert set(kept) == {"first", "second.a", "second.b"}
    pruned = make(found, kept, captured.shapes, {}, {}).apply(model)
    proof = prove(pruned, Reference(captured, flow, found.alive(kept), tensors(model)), (x,))
    assert proof.failed_in[-1] == ""
    assert "second" in proof.failed_in
    assert not proof.holds
    result = blame(model, flow, found, kept, proof.failed_in)
    assert (result.groups, result.kind) == ({"second.a"}, Half)
    assert prune(model, x).frozen == {"proof": ("second.a.weight",)}


def test_costs_foretell_what_is_counted_on_the_pruned_model() -> None:
    model, x = noisy(ResNet(1, "B")), torch.randn(1, 3, 32, 32)
    captured = capture(model, x)
    found = structure(flow := walk(captured))
    cost = of_network(captured, flow, found)
    for step in (2, 3, 7):
        keep = [len(range(0, g.units, step)) for g in found.groups]
        kept = {g.name: tuple(range(k)) for g, k in zip(found.groups, keep, strict=True)}
        pruned = make(found, kept, captured.shapes, {}, {}).apply(model)
        foretold, counted = cost.after(found.groups, keep), count(pruned, x)
        assert (foretold["params"], foretold["macs"]) == (counted.params, counted.macs)
        assert foretold["bytes"] == sum(t.numel() * t.itemsize for t in tensors(pruned).values())


def test_real_inputs_are_cut_into_batches_like_the_example() -> None:
    real, example = torch.arange(5.0)[:, None], torch.zeros(2, 1)
    assert [b[0].flatten().tolist() for b in like((real,), (example,))] == [[0, 1], [2, 3], [4, 0]]
    assert [b[0].flatten().tolist() for b in like((real[:1],), (example,))] == [[0, 0]]


@pytest.mark.parametrize(
    ("real", "message"),
    [
        ((torch.zeros(2, 3),), r"\(2, 3\) instead of \(2, 1\); only the batch may differ"),
        ((torch.zeros(0, 1),), r"\(0, 1\) instead of \(2, 1\)"),
        ((torch.zeros(2, 1), torch.zeros(2, 1)), "2 tensors"),
    ],
)
def test_real_inputs_of_another_form_are_refused(real: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"^the real inputs do not fit the example inputs: {message}"):
        list(like(real, (torch.zeros(2, 1),)))


def test_constant_parameters_are_made_lively_on_a_copy() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    nn.init.zeros_(model[0].weight)
    copied = lively(model)
    assert not model[0].weight.any()
    assert all(p.unique().numel() == p.numel() for p in copied.parameters())
    assert lively(copied) is copied
    assert_close(lively(model).state_dict(), copied.state_dict())
