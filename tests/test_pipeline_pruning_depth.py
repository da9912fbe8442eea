import copy
from pathlib import Path

import pytest
import torch
from pruning_nets import VGG, MobileNetV2, ResNet, lively
from torch import nn
from torch.testing import assert_close

from pipeline.errors import UserError
from pipeline.pruning import Plan, count, prune
from pipeline.pruning.depth import influence, sites
from pipeline.pruning.trace import capture


def resnet() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return lively(ResNet(3, "B")), torch.randn(2, 3, 16, 16)


def by_hand(model: nn.Module, removed: tuple[str, ...]) -> nn.Module:
    """Return a copy whose removed modules are jumped over by hooks; nothing is taken out."""
    masked = copy.deepcopy(model)
    for name in removed:
        masked.get_submodule(name).register_forward_hook(lambda _, args, __: args[0].clone())
    return masked


def test_blocks_go_where_the_identity_is_valid_and_nothing_else_changes(tmp_path: Path) -> None:
    model, x = resnet()
    result = prune(model, x, ratio=0.5, granularity="block")
    removed = result.plan.removed
    assert removed
    assert not {"stages.3", "stages.6"} & set(removed)  # they change shape
    assert_close(result.model(x), by_hand(model, removed)(x))
    assert result.achieved == pytest.approx(0.5, abs=0.1)
    assert not result.plan.groups
    counts = count(result.model, x)
    assert (counts.macs, counts.params) == (result.macs_after, result.params_after)
    result.plan.save(tmp_path / "plan.json")
    assert_close(Plan.load(tmp_path / "plan.json").apply(model)(x), result.model(x))


def test_a_block_after_an_activation_that_its_input_lacks_is_none() -> None:
    torch.manual_seed(0)
    model, x = lively(MobileNetV2()), torch.randn(2, 3, 32, 32)
    blocks = {site.name for site in sites(capture(model, x), ("block",))}
    assert blocks == {"features.3"}  # the only one with a shortcut: linear, so any input passes


def test_layers_are_modules_that_keep_a_shape_and_leave_a_plain_network_running() -> None:
    torch.manual_seed(0)
    model, x = lively(VGG()), torch.randn(2, 3, 32, 32)
    assert {site.name for site in sites(capture(model, x), ("layer",))} == {"features.7"}  # the one 32 -> 32
    result = prune(model, x, ratio=0.9, granularity="layer")
    assert result.plan.removed == ("features.7",)
    assert_close(result.model(x), by_hand(model, ("features.7",))(x))


def test_blocks_and_channels_share_a_budget_in_one_plan_and_prove_it() -> None:
    model, x = resnet()
    granularity = ("filter", "stage", "block")
    result = prune(model, x, ratio=0.6, target="macs", granularity=granularity)
    assert result.plan.removed
    assert result.plan.groups
    assert result.proof.holds
    assert 1 - result.macs_after / result.macs_before == pytest.approx(0.6, abs=0.05)
    assert result.achieved == pytest.approx(0.6, abs=0.05)
    assert_close(result.plan.apply(model)(x), result.model(x))


def test_ignored_blocks_stay_with_all_that_is_in_them() -> None:
    model, x = resnet()
    result = prune(model, x, ratio=0.95, granularity="block", ignore=("stages.1", "stages.4.conv1"))
    assert set(result.plan.removed) == {"stages.2", "stages.5", "stages.7", "stages.8", "stages.0"}


def test_influence_is_measured_on_real_inputs_where_some_are_given() -> None:
    model, x = resnet()
    with torch.no_grad():
        for name in ("stages.1", "stages.2"):
            model.get_submodule(name).bn2.weight.zero_()
            model.get_submodule(name).bn2.bias.zero_()
    captured = capture(model, x)
    found = sites(captured, ("block",))
    scores = influence(captured, model, found, [(x,)])
    assert scores["stages.1"] == pytest.approx(0, abs=1e-6)  # it adds nothing
    assert scores["stages.4"] > 1e-3
    real = torch.randn(4, 3, 16, 16) * 3 + 2
    batches = [(real[:2],), (real[2:],)]
    each = [influence(captured, model, found, [batch])["stages.4"] for batch in batches]
    assert influence(captured, model, found, batches)["stages.4"] == pytest.approx(sum(each) / 2)
    assert scores["stages.4"] != pytest.approx(sum(each) / 2)


def test_shares_per_layer_are_no_shares_of_blocks() -> None:
    model, x = resnet()
    with pytest.raises(UserError, match="give one number to remove blocks or layers"):
        prune(model, x, ratio={"*": 0.5}, granularity=("filter", "block"))


def test_a_plan_that_removes_what_a_model_lacks_is_refused() -> None:
    model, x = resnet()
    plan = prune(model, x, ratio=0.5, granularity="block").plan
    with pytest.raises(UserError, match="has no module"):
        plan.apply(VGG())
