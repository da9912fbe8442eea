"""Dead channels go and the function stays: checked against the original itself, and by exact widths."""

from pathlib import Path

import pytest
import torch
from dead_nets import X, chain, checked, positions, widths, zero_filters
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pruning_nets import NETS, Mixed, built, lively, relative
from step_nets import STEP, Net, Step
from torch import nn

from pipeline.pruning import Plan, remove_dead
from pipeline.pruning.folding import plain


@pytest.mark.parametrize("name", NETS)
def test_the_function_stays(name: str) -> None:
    model, x = built(name)
    result = checked(zero_filters(model, 0.5), x)
    assert result.macs_after < 0.7 * result.macs_before
    # the norm that would take a constant in its mean stands behind a pooling there
    assert result.plan.added_bias == (("transition.bias",) if name == "densenet" else ())


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet_a"])
def test_nothing_goes_where_nothing_is_dead(name: str) -> None:
    result = checked(*built(name))
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


def test_dead_channels_on_the_space_of_a_kernel_of_one_go_where_nobody_reads_them() -> None:
    model = lively(Mixed())
    model.head.weight.data[:, 5:8] = 0
    model.grow.weight.data[2] = 0
    model.mix.weight.data[4] = 0
    result = checked(model, torch.randn(2, 6, 4))
    assert widths(result)["stem"] == (16, 13)
