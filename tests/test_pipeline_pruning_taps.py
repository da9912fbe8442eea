"""Where activations are looked at: after the ReLU, at every place that reads a group, in its units."""

import pytest
import torch

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.criteria.apoz import Apoz
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.network import network_of
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import Settings
from pipeline.pruning.taps import makers, maps, readers
from pipeline.pruning.trace import capture, op_name
from tests.pruning_nets import built


def evidence(name: str, n: int = 6) -> Evidence:
    model, x = built(name)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(n, *x.shape[1:], generator=generator)
    seen = Samples.of(inputs, torch.zeros(n, dtype=torch.int64), batch_size=n // 2)
    return Evidence(model, network_of(model, capture(model, (x,)), (x,), Settings()), seen)


def test_feature_maps_are_seen_before_pooling_and_flattening() -> None:
    found = evidence("vgg")
    network = found.watched
    last = next(g for g in network.structure.groups if g.name == "features.11")
    (read,), (seen,) = readers(network, last), maps(network, last)
    assert read.weight == "classifier.0.weight"
    assert read.index.shape == (64, 4)  # of the flattened 2 × 2 map
    assert op_name(seen.node) == "relu"
    assert seen.index.tolist() == [[c] for c in range(64)]
    (made,) = makers(network, last)
    assert op_name(made.node) == "batch_norm"


@pytest.mark.parametrize("name", ["resnet_b", "vgg", "mobilenetv2", "densenet"])
def test_taps_of_a_group_see_its_channels_and_no_others(name: str) -> None:
    """Zeroing a unit's channels everywhere zeroes what the taps see of it, and leaves the other units."""
    found = evidence(name)
    for group in found.watched.structure.groups:
        for tap in [*readers(found.watched, group), *maps(found.watched, group)]:
            labels = found.watched.flow.values[tap.node]
            roots = found.watched.structure.roots[labels.dims[tap.dim]]  # type: ignore[union-attr,index]
            for unit, positions in enumerate(tap.index):
                assert (roots[positions] == group.classes[unit]).all()
            assert tap.index.size == (roots[:, None] == group.classes).sum()


def test_apoz_is_the_share_of_zeros_after_the_relu() -> None:
    found = evidence("vgg")
    groups = found.network.structure.groups
    ranked = Apoz().rank(groups, found)
    seen: dict[str, torch.Tensor] = {}
    model = found.model
    for number in (2, 6, 9, 13):
        relu = model.get_submodule(f"features.{number}")
        relu.register_forward_hook(
            lambda _m, _i, out, name=f"features.{number - 2}": seen.__setitem__(name, out.clone())
        )
    with torch.no_grad():
        model(torch.cat([x for (x,), _ in found.seen.batches]))
    assert seen.keys() == {g.name for g in groups if g.name.startswith("features")}
    for name, value in seen.items():
        for unit in range(value.shape[1]):
            maps_of_unit = value[:, unit]
            wanted = sum(float(v) != 0 for v in maps_of_unit.flatten()) / maps_of_unit.numel()
            assert ranked[name].scores[unit] == pytest.approx(wanted, abs=1e-5)


def test_apoz_without_a_relu_is_refused() -> None:
    found = evidence("lenet")
    with pytest.raises(UserError, match="apoz: counts what a ReLU sets to zero"):
        Apoz().rank(found.network.structure.groups, found)


def test_linear_bottlenecks_are_left_whole_and_named() -> None:
    found = evidence("mobilenetv2")
    result = prune(found.model, found.seen.example, samples=found.seen, criterion="apoz")
    assert result.frozen["criterion apoz"]
    assert result.macs_after < result.macs_before
