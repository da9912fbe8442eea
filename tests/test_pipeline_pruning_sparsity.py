import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pruning_nets import LeNet, MobileNetV2
from torch import nn

from pipeline.errors import UserError
from pipeline.pruning.sparsity import Zeros, hold, sparsify

ratios = st.floats(0, 0.999)


def linear(values: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(values[0]), len(values), bias=False)
    layer.weight.data = torch.tensor(values)
    return layer


@given(ratios, st.integers(0, 4))
def test_local_zeroes_exactly_the_share_of_every_layer_whatever_the_ties(ratio: float, values: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Conv2d(3, 4, 3), nn.ConvTranspose1d(4, 6, 2))
    for layer in model:  # few different magnitudes, none of them zero: nearly all are ties
        layer.weight.data = torch.randint(1, 2 + values, layer.weight.shape) * torch.randn_like(layer.weight).sign()
    result = sparsify(model, ratio)
    for zeros in result.per_layer.values():
        assert zeros.zeros == min(round(ratio * zeros.weights), zeros.weights - 1)
    assert result.total.weights == 35 + 108 + 48


@given(ratios)
def test_global_zeroes_exactly_the_share_of_all_and_the_smallest(ratio: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))
    result = sparsify(model, ratio, scope="global")
    assert result.total.zeros == min(round(ratio * 800), 799)
    magnitudes = torch.cat([layer.weight.abs().flatten() for layer in model])
    stays = torch.cat([m.flatten() for m in result.mask.values()])
    if 0 < result.total.zeros < 800:
        assert magnitudes[stays].min() >= magnitudes[~stays].max()


def test_what_stays_is_untouched_and_so_is_the_model_given() -> None:
    torch.manual_seed(0)
    model = LeNet()
    before = copy.deepcopy(model.state_dict())
    result = sparsify(model, 0.7)
    after = result.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        mask = result.mask.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(after[name], tensor * mask)
    assert set(result.mask) == {n for n in after if n.endswith("weight")}
    assert result.achieved == pytest.approx(0.7, abs=1e-3)


@given(st.sampled_from([(2, 4), (1, 4), (3, 4), (1, 2), (4, 8)]), st.booleans())
def test_of_every_m_successive_inputs_the_n_largest_stay(pattern: tuple[int, int], ties: bool) -> None:
    n, m = pattern
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 5), nn.Conv2d(32, 6, 3, groups=2), nn.ConvTranspose2d(16, 4, 2, groups=2))
    for layer in model:
        layer.weight.data.abs_()
        if ties:
            layer.weight.data.fill_(1)
    result = sparsify(model, 1 - n / m, pattern=f"{n}:{m}")
    for layer, mask, inputs in zip(model, result.mask.values(), (1, 1, 0), strict=True):
        rows = layer.weight.detach().movedim(inputs, -1).reshape(-1, m)
        stays = mask.movedim(inputs, -1).reshape(-1, m)
        assert (stays.sum(1) == n).all()
        assert (rows.masked_fill(~stays, 9).min(1).values >= rows.masked_fill(stays, 0).max(1).values).all()
    assert result.achieved == 1 - n / m


def test_layers_that_a_pattern_does_not_fit_stay_dense_and_count() -> None:
    result = sparsify(MobileNetV2(), pattern="2:4")
    assert result.per_layer["features.0.0.weight"] == Zeros(0, 16 * 3 * 9)
    assert result.per_layer["features.1.conv.0.0.weight"] == Zeros(0, 16 * 9)  # depthwise: one input each
    assert result.per_layer["classifier.1.weight"] == Zeros(320, 640)
    assert 0 < result.achieved < 0.5


def test_ignored_layers_are_left_out() -> None:
    result = sparsify(LeNet(), 0.5, ignore=("conv*", "head"))
    assert set(result.per_layer) == {"fc1.weight", "fc2.weight"}
    assert result.model.conv1.weight.all()
    with pytest.raises(UserError, match="'nose' names no layer with parameters"):
        sparsify(LeNet(), ignore=("nose",))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)


def test_shared_weights_count_once_and_attention_is_looked_at() -> None:
    result = sparsify(Tied())
    assert set(result.per_layer) == {"first.weight", "attention.in_proj_weight", "attention.out_proj.weight"}
    assert result.model.second.weight is result.model.first.weight
    assert result.model.norm.weight.all()


def test_zeros_that_were_there_go_first_and_count() -> None:
    result = sparsify(linear([[0.0, 3.0, 0.0, 2.0]]), 0.75)
    assert result.mask["weight"].tolist() == [[False, True, False, False]]
    assert sparsify(linear([[0.0, 3.0, 0.0, 2.0]]), 0.25).achieved == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_keep_theirs(dtype: torch.dtype) -> None:
    model = nn.Linear(16, 8).to(dtype)
    for result in (sparsify(model), sparsify(model, scope="global"), sparsify(model, pattern="2:4")):
        assert result.model.weight.dtype == dtype
        assert result.achieved == 0.5


def test_no_layer_and_no_ratio_change_nothing() -> None:
    assert sparsify(nn.ReLU(), scope="global").achieved == 0
    assert sparsify(nn.Linear(4, 4), 0).achieved == 0


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_held_zeros_survive_training(optimizer: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    result = sparsify(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), pattern="2:4")
    model = result.model
    extra = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    step = optimizer(model.parameters(), lr=0.1, weight_decay=0.1, **extra)
    handles = hold(model, result.mask)
    start = model[0].weight.detach().clone()
    for _ in range(5):
        step.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        step.step()
    for name, stays in result.mask.items():
        assert torch.equal(model.get_parameter(name) != 0, stays)
    assert not torch.equal(model[0].weight, start)
    for handle in handles:
        handle.remove()
    model(torch.randn(4, 8)).sum().backward()
    assert model[0].weight.grad[~result.mask["0.weight"]].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1}, "ratio: the share to remove must be at least 0 and below 1, got 1"),
        ({"scope": "globl"}, "scope: no scope named 'globl'.*global"),
        ({"pattern": "4:2"}, "'4:2' is no N:M"),
        ({"pattern": "half"}, "'half' is no N:M"),
        ({"pattern": "1:4"}, "give ratio=0.75"),
        ({"pattern": "2:4", "scope": "global"}, "leave scope at 'local'"),
    ],
)
def test_impossible_settings_are_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sparsify(nn.Linear(4, 4), **settings)


@pytest.mark.parametrize("settings", [{}, {"scope": "global"}, {"pattern": "2:4"}])
def test_weights_that_are_not_finite_are_refused(settings: dict[str, object]) -> None:
    model = linear([[1.0, float("nan"), 2.0, 3.0]])
    with pytest.raises(UserError, match="weights are not finite: weight; "):
        sparsify(model, **settings)
