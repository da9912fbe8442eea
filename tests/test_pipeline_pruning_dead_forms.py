"""Dead channels in every form of network: sums, gates, groups, shared layers, masks, half precision."""

import pytest
import torch
import torch.nn.functional as F
from dead_nets import X, chain, checked, widths, zero_filters
from pruning_nets import VGG, LeNet, ResNet, lively, relative
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from pipeline.pruning import remove_dead


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


class Aided(nn.Module):
    """An auxiliary head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head, self.aid = (nn.Linear(*s) for s in ((4, 8), (8, 8), (8, 3), (8, 3)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.relu(self.first(x))
        y = self.head(torch.relu(self.second(x)))
        return (y, self.aid(x)) if self.training else (y,)


def test_what_a_branch_of_training_reads_stays_and_training_goes_on_as_before() -> None:
    torch.manual_seed(0)
    model, x = lively(Aided()), torch.randn(2, 4)
    for layer in (model.first, model.second):
        layer.weight.data[:3] = 0
    result = remove_dead(model, x)
    assert widths(result) == {"second": (8, 5)}
    assert result.kept == ("first: 3 dead channels stay: a branch that only training runs reads them",)
    for wanted, got in zip(model.train()(x), result.model.train()(x), strict=True):
        assert relative(got, wanted) < 1e-5
