"""Dead channels go and the function stays: checked against the original itself, and by exact widths."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pruning_nets import VGG, LeNet, MobileNetV2, ResNet, lively
from step_nets import STEP, Net, Step
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from pipeline.pruning import DeadResult, Plan, count, remove_dead
from pipeline.pruning.folding import plain

NETS = {
    "lenet": (LeNet, (2, 1, 28, 28)),
    "vgg": (VGG, (2, 3, 32, 32)),
    "mobilenetv2": (MobileNetV2, (2, 3, 32, 32)),
    "resnet_a": (lambda: ResNet(1, "A"), (2, 3, 32, 32)),
    "resnet_b": (lambda: ResNet(2, "B"), (2, 3, 32, 32)),
}


def zero_filters(model: nn.Module, share: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gone = torch.rand(module.weight.shape[0], generator=generator) < share
            module.weight.data[gone] = 0
    return model


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def checked(model: nn.Module, x: Tensor, tolerance: float = 1e-5) -> DeadResult:
    """Remove, and compare outputs for the inputs given; costs are what a fresh count finds."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = remove_dead(model, x, real_inputs=x)
    with torch.no_grad():
        assert relative(result.model.eval()(x), model.eval()(x)) <= tolerance
    assert result.max_rel_error <= tolerance
    counts = count(result.model, x)
    assert (counts.params, counts.macs) == (result.params_after, result.macs_after)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    return result


def widths(result: DeadResult) -> dict[str, tuple[int, int]]:
    return {g.name: (g.before, g.after) for g in result.plan.groups}


@pytest.mark.parametrize("name", NETS)
def test_the_function_stays(name: str) -> None:
    torch.manual_seed(0)
    factory, shape = NETS[name]
    result = checked(zero_filters(lively(factory()), 0.5), torch.randn(shape))
    assert result.macs_after < 0.7 * result.macs_before
    assert result.plan.added_bias == ()


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet_a"])
def test_nothing_goes_where_nothing_is_dead(name: str) -> None:
    torch.manual_seed(0)
    factory, shape = NETS[name]
    result = checked(lively(factory()), torch.randn(shape))
    assert result.plan.groups == ()
    assert result.macs_after == result.macs_before
    assert result.kept == ()


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(STEP, min_size=1, max_size=5),
    flatten=st.booleans(),
    share=st.sampled_from([0.2, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 9),
)
def test_any_net_keeps_its_function(steps: list[Step], flatten: bool, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = zero_filters(lively(Net(steps, flatten), seed), share, seed), torch.randn(2, 3, 6, 6)
    result = remove_dead(model, x)
    with torch.no_grad():
        wanted = model(x)
        assert (result.model(x) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert not any("not the same" in line for line in result.kept)  # the analysis needed no second thoughts


class Chain(nn.Module):
    """Two convolutions, a norm between if asked for, and a linear layer; `kind` is the second's padding."""

    def __init__(self, *, norm: bool = False, padding: int = 0, mode: str = "zeros", bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.second = nn.Conv2d(8, 6, 3, padding=padding, padding_mode=mode, bias=bias)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        return self.head(x.mean((2, 3)))


def chain(dead: dict[int, float], **options: bool | int | str) -> Chain:
    """A chain whose first convolution has filters of zeros that emit the given constants."""
    torch.manual_seed(0)
    model = lively(Chain(**options))
    model.first.weight.data[list(dead)] = 0
    for channel, value in dead.items():
        if isinstance(model.norm, nn.BatchNorm2d):
            model.norm.running_mean.data[channel] = 0
            model.norm.bias.data[channel] = value
        else:
            model.first.bias.data[channel] = value
    return model


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", [False, True])
def test_constants_fold_into_the_next_bias(norm: bool) -> None:
    model = chain({0: 0.7, 3: -0.2, 5: 1.3}, norm=norm)
    result = checked(model, X)
    assert widths(result) == {"first": (8, 5)}
    assert result.kept == ()
    assert list(result.model.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("mode", ["replicate", "reflect", "circular"])
def test_borders_that_repeat_are_exact(mode: str) -> None:
    assert widths(checked(chain({0: 0.7, 5: 1.3}, padding=1, mode=mode), X)) == {"first": (8, 6)}


def test_what_is_zero_after_the_activation_needs_no_folding_at_a_padded_border() -> None:
    result = checked(chain({0: -0.7, 5: 0.0}, padding=1), X)
    assert widths(result) == {"first": (8, 6)}
    assert result.kept == ()


def test_at_a_zero_padded_border_one_channel_carries_the_constants_of_all() -> None:
    result = checked(chain({0: 0.7, 2: 1.3, 3: -0.5, 5: 0.1}, padding=1), X)
    assert widths(result) == {"first": (8, 5)}
    assert positions(result, "first") == {1, 2, 4, 6, 7}  # 2 is the strongest
    assert result.kept == (
        "first: 1 dead channel stays: carries the constants of its group to layers that pad with zeros",
    )


def positions(result: DeadResult, layer: str) -> set[int]:
    return set(result.plan.kept[f"{layer}.weight"][0])


@pytest.mark.parametrize("padding", [0, 1])
def test_the_function_stays_for_other_sizes(padding: int) -> None:
    model = chain({0: 0.7, 2: 1.3, 3: -0.5}, padding=padding)
    small = X[:, :, :3, :3]  # at one position, a constant inside and one at the border look alike
    result = checked(model, small)
    assert relative(result.model(X), model(X)) < 1e-5


def test_a_layer_without_bias_in_front_of_a_norm_shifts_the_mean() -> None:
    class Net(nn.Sequential):
        def __init__(self) -> None:
            second = nn.Conv2d(8, 6, 3, bias=False)
            super().__init__(nn.Conv2d(3, 8, 1), nn.Sigmoid(), second, nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))

    torch.manual_seed(0)
    model = lively(Net())
    model[0].weight.data[2:5] = 0
    result = checked(model, X)
    assert widths(result) == {"0": (8, 5)}
    assert result.plan.added_bias == ()
    assert list(result.model.state_dict()) == list(model.state_dict())
    assert relative(result.model.train()(X), model.train()(X)) < 1e-5  # a batch's own mean takes it out as well


def test_a_layer_with_neither_bias_nor_norm_is_given_a_bias_and_the_plan_replays(tmp_path: Path) -> None:
    model = chain({0: 0.7, 5: 1.3}, bias=False)
    result = checked(model, X)
    assert result.plan.added_bias == ("second.bias",)
    assert widths(result) == {"first": (8, 6)}
    result.plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json").apply(plain(model))
    again.load_state_dict(result.model.state_dict())
    assert torch.equal(again(X), result.model(X))


def test_constants_pass_through_layers_that_are_dead_themselves() -> None:
    model = chain({0: 0.7, 5: 1.3})
    model.second.weight.data[[1, 4]] = 0
    model.second.weight.data[2] = 0
    model.second.weight.data[2, [0, 5]] = 1.0  # reads nothing but constants
    result = checked(model, X)
    assert widths(result) == {"first": (8, 6), "second": (6, 3)}


def test_channels_that_nobody_reads_go_and_so_does_what_only_they_read() -> None:
    model = chain({})
    model.head.weight.data[:, [1, 2]] = 0
    model.second.weight.data[[0, 3, 4, 5], 6] = 0  # only 1 and 2 read channel 6
    assert widths(checked(model, X)) == {"first": (8, 7), "second": (6, 4)}


def test_a_norm_whose_scale_is_zero_makes_its_channels_dead() -> None:
    model = chain({}, norm=True)
    model.norm.weight.data[[1, 2, 6]] = 0
    assert widths(checked(model, X)) == {"first": (8, 5)}


def test_no_layer_is_left_empty() -> None:
    model = chain({})
    model.second.weight.data[:] = 0
    result = checked(model, X)
    assert widths(result) == {"first": (8, 1), "second": (6, 1)}
    assert "second: 1 dead channel stays: no layer is left empty" in result.kept


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.a(x) + self.b(x)))


def test_a_sum_is_dead_where_all_its_branches_are() -> None:
    torch.manual_seed(0)
    model = lively(Sum())
    model.a.weight.data[:4] = 0
    model.b.weight.data[2:6] = 0
    result = checked(model, X)
    assert widths(result) == {"a": (8, 6)}
    assert result.kept == ("a: 4 dead channels stay: coupled with live channels before head reads them",)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) * F.relu(self.gate(x)))


def test_a_product_is_dead_where_a_factor_is_zero() -> None:
    torch.manual_seed(0)
    model = lively(Gated())
    model.gate.weight.data[[0, 1, 2]] = 0
    model.gate.bias.data[:3] = torch.tensor([-1.0, 0.0, 1.0])  # the third multiplies by 1
    assert widths(checked(model, X)) == {"body": (8, 6)}


class Grouped(nn.Module):
    def __init__(self, groups: int, padding: int, multiplier: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.middle = nn.Conv2d(8, 8 * multiplier, 3, padding=padding, groups=groups)
        self.head = nn.Conv2d(8 * multiplier, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.middle(F.relu(self.first(x)))))


@pytest.mark.parametrize(("padding", "width"), [(0, 2), (1, 4)])
def test_depthwise_passes_constants_but_at_padded_borders(padding: int, width: int) -> None:
    torch.manual_seed(0)
    model = lively(Grouped(8, padding))
    model.first.weight.data[:4] = 0
    model.first.bias.data[:4] = torch.tensor([1.0, 0.5, -1.0, -2.0])
    model.middle.weight.data[5] = model.middle.weight.data[6] = 0
    result = checked(model, X)
    assert widths(result) == {"first": (8, width)}
    line = "first: 2 dead channels stay: their constant meets the zero padding of middle"
    assert result.kept == ((line,) if padding else ())


@pytest.mark.parametrize("padding", [0, 1])
def test_grouped_convolutions_lose_the_same_positions_of_every_group(padding: int) -> None:
    torch.manual_seed(0)
    model = lively(Grouped(2, padding))
    model.first.weight.data[[0, 4, 1, 5, 2]] = 0
    model.first.bias.data[[0, 4, 1, 5, 2]] = torch.tensor([1.0, 0.5, 2.0, 0.75, 3.0])
    result = checked(model, X)
    # 2 has no dead counterpart in the other group; at a padded border, 1 and 5 carry for 0 and 4
    assert widths(result) == {"first": (8, 4 if padding == 0 else 6)}


def test_a_depthwise_multiplier_goes_with_its_group() -> None:
    torch.manual_seed(0)
    model = lively(Grouped(8, 0, multiplier=2))
    model.first.weight.data[[1, 6]] = 0
    assert checked(model, X).model.head.in_channels == 12


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.twice(F.relu(self.twice(F.relu(self.first(x))))))


def test_a_layer_called_twice_takes_no_constant_in_for_one_call_only() -> None:
    torch.manual_seed(0)
    model = lively(Shared())
    for layer in (model.first, model.twice):
        layer.weight.data[:4] = 0
        layer.bias.data[:4] = torch.tensor([1.0, 2.0, -1.0, -2.0])
    result = checked(model, X)
    assert widths(result) == {"first": (8, 6)}
    assert result.kept == ("first: 2 dead channels stay: twice has no bias of its own that could take their constant",)


@pytest.mark.parametrize("keep_hooks", [True, False])
def test_masks_of_torch_prune_are_made_permanent(keep_hooks: bool) -> None:
    torch.manual_seed(0)
    model = lively(VGG())
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for module in convolutions:
        prune.ln_structured(module, "weight", 0.5, n=2, dim=0)
        prune.ln_structured(module, "weight", 0.2, n=2, dim=0)  # a container of two masks
        if not keep_hooks:
            prune.remove(module, "weight")
    x = torch.randn(2, 3, 32, 32)
    model(x)  # the masked weights are now computed tensors, which cannot be copied as they are
    result = checked(model, x)
    assert all("orig" not in name for name in result.model.state_dict())
    dead = [int((m.weight.flatten(1) == 0).all(1).sum()) for m in convolutions]
    names = ["features.0", "features.4", "features.7", "features.11"]
    for name, before, gone in zip(names, (16, 32, 32, 64), dead, strict=True):
        carrier = 0 if name == "features.11" else 1  # a linear layer follows, without borders
        assert widths(result)[name] == (before, before - gone + carrier)


class Masked(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.arange(len(weight)) % 2)[:, None, None, None]


def test_parametrisations_are_made_permanent() -> None:
    torch.manual_seed(0)
    model = lively(LeNet())
    parametrize.register_parametrization(model.conv2, "weight", Masked())
    result = checked(model, torch.randn(2, 1, 28, 28))
    assert widths(result) == {"conv2": (16, 8)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exact_but_for_the_rounding_of_what_is_stored(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = zero_filters(lively(VGG()), 0.5).to(dtype)
    x = torch.randn(2, 3, 32, 32).to(dtype)
    result = remove_dead(model, x)
    assert result.max_rel_error <= torch.finfo(dtype).eps
    assert result.macs_after < 0.4 * result.macs_before
    assert {t.dtype for t in result.model.parameters()} == {dtype}


def test_memory_formats_do_not_matter() -> None:
    torch.manual_seed(0)
    model = zero_filters(lively(ResNet(1, "B")), 0.5)
    x = torch.randn(2, 3, 32, 32)
    plainly = checked(model, x)
    model = model.to(memory_format=torch.channels_last)
    model.fc.weight = nn.Parameter(model.fc.weight.detach().T.contiguous().T)
    assert widths(checked(model, x.to(memory_format=torch.channels_last))) == widths(plainly)


def test_a_model_in_training_stays_in_training_and_can_be_trained() -> None:
    model = chain({0: 0.7, 2: 1.3}, bias=False).train()
    result = remove_dead(model, X)
    assert result.model.training
    result.model(X).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in result.model.parameters())


class Framed(nn.Module):
    """A border of zeros that an op of its own puts around, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.second(F.pad(F.relu(self.first(x)), (1, 0, 1, 0)))))


def test_carriers_serve_any_border() -> None:
    torch.manual_seed(0)
    model = lively(Framed())
    for layer in (model.first, model.second):
        layer.weight.data[:4] = 0
        layer.bias.data[:4] = torch.tensor([1.0, 2.0, -1.0, 0.5])
    assert widths(checked(model, X)) == {"first": (8, 5), "second": (6, 3)}


class Normed(nn.Module):
    """A layer norm counts every channel it sees, a sum over channels adds them up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.third = (
            nn.Linear(9, 8),
            nn.LayerNorm(8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x))) * self.third(x[..., :8]).sum(-1, keepdim=True)


def test_ops_over_channels_keep_the_dead_ones_they_count() -> None:
    torch.manual_seed(0)
    model = lively(Normed())
    for layer in (model.first, model.third):
        layer.weight.data[:3] = 0
    result = checked(model, X)
    assert result.plan.groups == ()
    assert set(result.kept) == {
        "first: 3 dead channels stay: aten.layer_norm reads them",
        "third: 3 dead channels stay: aten.sum reads them",
    }


class Activations(nn.Sequential):
    def __init__(self) -> None:
        kinds = [nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softshrink, nn.Hardshrink, nn.LeakyReLU, nn.PReLU]
        kinds += [nn.Mish, nn.GELU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.LogSigmoid, nn.Softsign, nn.Tanh]
        super().__init__(*(layer for kind in kinds for layer in (nn.Conv2d(4, 4, 1), kind())), nn.Conv2d(4, 4, 1))


def test_no_activation_hides_that_a_channel_depends_on_the_input() -> None:
    torch.manual_seed(0)
    result = remove_dead(Activations(), torch.randn(1, 4, 3, 3))
    assert result.plan.groups == ()
    assert result.kept == ()


class Odd(nn.Module):
    """The forward holds a size that no module attribute reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)).reshape(-1, 8, 81).reshape(-1, 8, 9, 9)
        return self.head(torch.relu(self.second(x)))


def test_what_cannot_be_shown_to_be_equal_stays_and_is_named() -> None:
    torch.manual_seed(0)
    model = zero_filters(lively(Odd()), 0.5, seed=1)
    model.head.weight.data.normal_()
    result = checked(model, X)
    assert "first" not in widths(result)
    assert "second" in widths(result)
    assert any(line.startswith("first: ") and "not the same without them" in line for line in result.kept)
