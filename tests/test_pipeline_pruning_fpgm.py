"""Geometric-median pruning against plain loops, on coupled units of several channels."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from pipeline.pruning import prune
from pipeline.pruning.criteria.fpgm import Fpgm
from pipeline.pruning.groups import Group
from pipeline.pruning.rules.base import Role
from tests.criteria_evidence import evidence, group_of
from tests.pruning_nets import built
from tests.test_pipeline_pruning_criteria import SEEN, channels_of, coupled, mean_of_relative


def distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


def distances(group: Group, tensors: Mapping[str, Tensor], roles: set[Role]) -> list[list[float]]:
    layers = []
    for units in channels_of(group, tensors, roles):
        filters = [[v for channel in unit for v in channel] for unit in units]
        layers.append([sum(distance(one, other) for other in filters) for one in filters])
    return layers


@pytest.mark.parametrize(("readers", "roles"), SEEN)
def test_distances_of_joint_filters_are_the_mean_over_coupled_layers(readers: bool, roles: set[Role]) -> None:
    group, tensors = coupled()
    wanted = mean_of_relative(distances(group, tensors, roles))
    assert Fpgm(readers=readers).score(group, tensors).tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("readers", "roles"), SEEN)
def test_a_real_stage_is_scored_by_all_its_layers(readers: bool, roles: set[Role]) -> None:
    found = evidence("resnet_b")
    group = group_of(found, "stages.2.conv2")
    made = [m.tensor for m in group.members if m.role is Role.OUT]
    assert made == [f"stages.{n}.weight" for n in ("2.conv2", "2.down.0", "3.conv2")]
    wanted = mean_of_relative(distances(group, found.tensors, roles))
    assert Fpgm(readers=readers).score(group, found.tensors).tolist() == pytest.approx(wanted, rel=1e-5)


def test_filters_alone_are_scored_as_in_the_paper() -> None:
    found = evidence("vgg")
    filters = [f.flatten().double().tolist() for f in found.model.features[0].weight]
    wanted = [sum(distance(one, other) for other in filters) for one in filters]
    scores = Fpgm(readers=False).score(group_of(found, "features.0"), found.tensors)
    assert (scores * sum(wanted) / len(wanted)).tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_copied_filter_goes_before_a_small_one() -> None:
    """Where a norm would drop the smallest filter, the redundant ones are those in the middle of the others."""
    model, x = built("vgg")
    weight = model.features[0].weight.data
    weight[:] = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 3
    weight[5] = weight[[i for i in range(16) if i != 5]].mean(0) + 0.01
    kept = prune(model, x, criterion="fpgm", ratio=1 / 16, granularity="filter").plan.kept["features.0.weight"][0]
    assert 5 not in kept.tolist()


def test_equal_filters_tie_and_the_first_stays() -> None:
    model, x = built("vgg")
    model.features[0].weight.data.fill_(0.5)
    alone = {"readers": False}
    kept = prune(model, x, criterion="fpgm", criterion_options=alone, ratio=0.5).plan.kept["features.0.weight"][0]
    assert kept.tolist() == list(range(8))
