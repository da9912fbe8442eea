"""Geometric-median pruning against plain loops, on coupled units of several channels."""

import pytest
import torch

from pipeline.pruning import prune
from pipeline.pruning.criteria.fpgm import Fpgm
from tests.criteria_evidence import evidence, group_of
from tests.pruning_nets import built
from tests.test_pipeline_pruning_criteria import coupled


def distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


def test_distances_of_joint_filters_sum_over_coupled_layers() -> None:
    group, tensors = coupled()
    wanted = [0.0, 0.0]
    for tensor in ("a.weight", "b.weight"):
        joint = [
            [v for c in channels for v in tensors[tensor][c].double().flatten().tolist()]
            for channels in ((0, 2), (1, 3))
        ]
        for unit in range(2):
            wanted[unit] += sum(distance(joint[unit], other) for other in joint)
    assert Fpgm().score(group, tensors).tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_real_stage_is_scored_as_in_the_paper() -> None:
    found = evidence("resnet_b")
    group = group_of(found, "stages.2.conv2")
    wanted = [0.0] * group.units
    for name in ("stages.2.conv2", "stages.2.down.0", "stages.3.conv2"):
        filters = [f.flatten().double().tolist() for f in found.model.get_submodule(name).weight]
        for i, one in enumerate(filters):
            wanted[i] += sum(distance(one, other) for other in filters)
    assert Fpgm().score(group, found.tensors).tolist() == pytest.approx(wanted, rel=1e-5)


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
    kept = prune(model, x, criterion="fpgm", ratio=0.5).plan.kept["features.0.weight"][0]
    assert kept.tolist() == list(range(8))
