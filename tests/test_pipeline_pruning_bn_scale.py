"""Network slimming's score: the scale of every norm on the way, and a layer of tiny ones that must not vanish."""

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.criteria.bn_scale import BnScale
from tests.criteria_evidence import evidence, ranked
from tests.pruning_nets import built


def test_scores_are_the_mean_scale_of_all_norms_of_the_group() -> None:
    found = evidence("resnet_b")
    scores = {name: r.scores for name, r in ranked(BnScale(), found).items()}
    norms = {
        "conv1": ("bn1", "stages.0.bn2", "stages.1.bn2"),
        "stages.2.conv2": ("stages.2.bn2", "stages.2.down.1", "stages.3.bn2"),
        "stages.3.conv1": ("stages.3.bn1",),
    }
    for name, modules in norms.items():
        for unit, score in enumerate(scores[name].tolist()):
            wanted = [abs(found.model.get_submodule(m).weight[unit].item()) for m in modules]
            assert score == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)


def test_a_norm_after_a_concat_counts_for_every_group_in_it() -> None:
    found = evidence("densenet")
    scores = {name: r.scores for name, r in ranked(BnScale(), found).items()}
    first = {"stem": (0, (0, 1, 2, 3)), "layers.0": (16, (1, 2, 3)), "layers.1": (24, (2, 3)), "layers.2": (32, (3,))}
    for name, (start, norms) in first.items():
        for unit, score in enumerate(scores[name].tolist()):
            wanted = [abs(found.model.norms[n].weight[start + unit].item()) for n in norms]
            assert score == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)


def test_groups_without_a_norm_stay_whole_and_are_named() -> None:
    model, x = built("vgg")
    result = prune(model, x, criterion="bn_scale")
    assert result.frozen["criterion bn_scale"] == ("classifier.0.weight",)
    assert result.model.classifier[0].out_features == 64


def test_a_network_without_batch_norms_is_refused() -> None:
    model, x = built("lenet")
    with pytest.raises(UserError, match="criterion bn_scale: goes by the scales of batch norms") as error:
        prune(model, x, criterion="bn_scale")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("min_width", "left"), [(1, 1), (4, 4)])
def test_a_layer_of_tiny_scales_does_not_vanish_under_one_global_threshold(min_width: int, left: int) -> None:
    model, x = built("vgg")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(1.0)
    tiny = model.features[5]
    tiny.weight.data = torch.linspace(1e-6, 2e-6, 32)
    result = prune(model, x, criterion="bn_scale", scope="global", ratio=0.3, min_width=min_width)
    assert result.proof.holds
    assert result.plan.kept["features.4.weight"][0].tolist() == list(range(32 - left, 32))


def test_one_threshold_compares_scales_as_they_are() -> None:
    """Relative to its own mean, no channel of an evenly tiny layer would go."""
    model, x = built("vgg")
    for number, scale in ((1, 1.0), (5, 0.01), (8, 1.0), (12, 1.0)):
        model.features[number].weight.data.fill_(scale)
    result = prune(model, x, criterion="bn_scale", scope="global", ratio=16 / 208)
    assert [g.name for g in result.plan.groups] == ["features.4"]
