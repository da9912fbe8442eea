"""Every criterion on every kind of network that it may meet, and the norms against plain loops."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.plugins import names
from pipeline.pruning import PruneResult, prune, score
from pipeline.pruning.criteria.base import Cost, FilterCriterion
from pipeline.pruning.criteria.fpgm import Fpgm
from pipeline.pruning.criteria.l1 import L1
from pipeline.pruning.criteria.l2 import L2
from pipeline.pruning.groups import Group, Member
from pipeline.pruning.network import network_of
from pipeline.pruning.ranking import CRITERIA, criterion_of
from pipeline.pruning.rules.base import Role
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import capture
from tests.attention_net import Attention
from tests.pruning_nets import built, lively

REFUSED = {  # nothing that it could rank: no ReLU follows a linear bottleneck, no norm or ReLU is inside an attention
    ("apoz", "mobilenetv2", "stage"),
    *((name, "attention", "head") for name in ("apoz", "bn_scale", "slimming")),
}
CASES = [*product(["resnet_b", "vgg", "mobilenetv2", "densenet"], ["filter", "stage"]), ("attention", "head")]
QUICK: dict[str, dict[str, object]] = {  # options that make learning criteria short
    "slimming": {"epochs": 1},
    "group_sparse": {"epochs": 1},
    "gates": {"epochs": 1},
}


def samples(example: torch.Tensor, n: int = 12) -> Samples:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, *example.shape[1:], generator=generator)
    return Samples.of(inputs, torch.randint(0, 10, (n,), generator=generator), batch_size=6)


def attention() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return lively(Attention()), torch.randn(2, 3, 16, 16)


def network_groups(model: torch.nn.Module, x: torch.Tensor) -> tuple[Group, ...]:
    return network_of(model, capture(model, (x,)), (x,), Settings()).structure.groups


@pytest.mark.parametrize(("net", "granularity"), CASES)
@pytest.mark.parametrize("name", names(CRITERIA))
def test_every_criterion_prunes_every_kind_of_network(name: str, net: str, granularity: str) -> None:
    model, x = attention() if net == "attention" else built(net)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    options = QUICK.get(name, {})

    def pruned() -> PruneResult:
        seen = samples(x)
        return prune(model, x, samples=seen, criterion=name, criterion_options=options, granularity=granularity)

    if (name, net, granularity) in REFUSED:
        with pytest.raises(UserError, match=f"criterion {name}: "):
            pruned()
        return
    result = pruned()
    assert result.proof.holds
    kinds = {g.kind for g in network_groups(model, x)}
    if granularity in kinds and f"criterion {name}" not in result.frozen:
        assert result.macs_after < result.macs_before
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_heads_leave_as_wholes() -> None:
    model, x = attention()
    result = prune(model, x, granularity="head")
    (group,) = result.plan.groups
    kept = np.asarray(result.plan.kept["qkv.weight"][0]).reshape(3, 2, 6)  # of queries, keys and values, two heads
    heads = kept[0, :, 0] // 6
    assert group.kind == "head"
    assert (kept == np.arange(3)[:, None, None] * 24 + heads[:, None] * 6 + np.arange(6)).all()


@pytest.mark.parametrize("name", names(CRITERIA))
def test_what_needs_samples_says_so(name: str) -> None:
    model, x = built("vgg")
    if criterion_of(name, {}).cost is Cost.WEIGHTS:
        assert prune(model, x, criterion=name).proof.holds
    else:
        with pytest.raises(UserError, match=f"criterion {name}: looks at samples"):
            prune(model, x, criterion=name)


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(UserError, match="criterion l1: unknown key 'p'"):
        criterion_of("l1", {"p": 3})


def coupled() -> tuple[Group, dict[str, torch.Tensor]]:
    """Two convolutions that make the same four channels, in units of two that lie apart."""
    generator = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(4, k, 3, 3, generator=generator) for n, k in (("a.weight", 3), ("b.weight", 5))}
    tensors |= {"a.bias": torch.full((4,), 1e6), "c.weight": torch.randn(6, 4, 1, 1, generator=generator)}
    index = np.array([[0, 2], [1, 3]])
    roles = {
        "a.weight": (0, Role.OUT),
        "b.weight": (0, Role.OUT),
        "a.bias": (0, Role.ALONG),
        "c.weight": (1, Role.IN),
    }
    members = tuple(Member(n, dim, role, index) for n, (dim, role) in roles.items())
    return Group("a", 2, 2, members), tensors


def channels_of(group: Group, tensors: Mapping[str, torch.Tensor], roles: set[Role]) -> list[list[list[list[float]]]]:
    """Per layer, unit and channel of it, the weights that make or read the channel."""
    found = []
    for member in (m for m in group.members if m.role in roles):
        weight = tensors[member.tensor].detach().double()
        units = member.index.tolist()
        found.append([[weight.select(member.dim, c).flatten().tolist() for c in unit] for unit in units])
    return found


def mean_of_relative(layers: list[list[float]]) -> list[float]:
    """Each layer over its mean, then the mean over layers, by unit."""
    shares = [[v / (sum(layer) / len(layer)) for v in layer] for layer in layers]
    return [sum(unit) / len(unit) for unit in zip(*shares, strict=True)]


SEEN = [(False, {Role.OUT}), (True, {Role.OUT, Role.IN})]


@pytest.mark.parametrize(("readers", "roles"), SEEN)
@pytest.mark.parametrize(("criterion", "norm"), [(L1, 1), (L2, 2)])
def test_norms_are_the_mean_over_coupled_layers_each_relative_to_its_own(
    criterion: type[FilterCriterion], norm: int, readers: bool, roles: set[Role]
) -> None:
    group, tensors = coupled()
    layers = []
    for layer in channels_of(group, tensors, roles):
        layers.append([sum(sum(abs(v) ** norm for v in c) ** (1 / norm) for c in unit) for unit in layer])
    found = criterion(readers=readers).score(group, tensors)
    assert found.tolist() == pytest.approx(mean_of_relative(layers), rel=1e-5)


@pytest.mark.parametrize("criterion", [L1, L2, Fpgm])
def test_the_scale_of_a_coupled_layer_changes_nothing_and_a_layer_of_zeros_says_nothing(
    criterion: type[FilterCriterion],
) -> None:
    group, tensors = coupled()
    scores = criterion().score(group, tensors)
    scaled = criterion().score(group, {**tensors, "b.weight": tensors["b.weight"] * 1e3})
    assert scaled.tolist() == pytest.approx(scores.tolist(), rel=1e-6)
    silent = criterion().score(group, {**tensors, "b.weight": torch.zeros_like(tensors["b.weight"])})
    assert silent.isfinite().all()
    assert silent.sum() < scores.sum()


def test_scored_once_and_pruned_twice_is_as_scored_each_time() -> None:
    model, x = built("vgg")
    seen = samples(x)
    scored = score(model, x, seen, criterion="apoz")
    for ratio in (0.3, 0.6):
        again = prune(model, x, samples=seen, criterion="apoz", ratio=ratio)
        assert prune(model, x, scored=scored, criterion="apoz", ratio=ratio).plan == again.plan
