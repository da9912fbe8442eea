"""Attention heads: which of the dimensions of a view carries channels, whatever the spelling of the view."""

import pytest
import torch
from pruning_nets import masked_by_hand
from random_blocks import Spot
from random_tokens import Fused, Separate
from rule_calls import frozen, run, same
from torch import nn
from torch.testing import assert_close

from pipeline.pruning import prune
from pipeline.pruning.boxes import settle
from pipeline.pruning.rules.base import Flow

SPELLINGS = [(kind, variant) for kind in (Fused, Separate) for variant in range(3)]


def net(kind: type, variant: int, width: int = 24) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), kind(Spot(12, width, variant)), nn.Linear(12, 3)).eval()


@pytest.mark.parametrize(("kind", "variant"), SPELLINGS)
def test_whole_heads_leave_queries_keys_values_and_what_reads_them(kind: type, variant: int) -> None:
    model, x = net(kind, variant), torch.randn(2, 4, 5)
    result = prune(model, x, granularity="head", ratio=0.5)
    assert result.frozen == {}
    (group,) = result.plan.groups
    assert (group.kind, group.units) == ("head", 6 if kind is Fused else 12)
    assert 2 * group.after == group.before
    rows = result.model[1].qkv.out_features if kind is Fused else 3 * result.model[1].q.out_features
    assert (rows, result.model[1].proj.in_features) == (36, 12)
    assert_close(result.model(x), masked_by_hand(model, result.plan, result.model)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", range(3))
def test_without_heads_each_loses_the_same_places_of_its_width(variant: int) -> None:
    model, x = net(Fused, variant, 8), torch.randn(2, 4, 5)
    result = prune(model, x, granularity=("filter", "stage"), ratio=0.5, ignore=("0", "1.proj"))
    assert result.model[1].heads == 2
    assert result.proof.holds


def test_shared_keys_and_values_lose_whole_sets_of_heads() -> None:
    model, x = net(Separate, 3), torch.randn(2, 4, 5)
    result = prune(model, x, granularity="head", ratio=0.5)
    pruned = result.model[1]
    assert pruned.q.out_features == 2 * pruned.k.out_features == 2 * pruned.v.out_features == 12
    assert result.proof.holds


def test_views_that_talk_to_each_other_agree_on_the_dimension_that_carries() -> None:
    flow = Flow()
    a, b = flow.tensor("a", (12,)), flow.tensor("b", (12,))
    first = run(flow, "view", (3, 4), self=a)
    second = run(flow, "view", (3, 4), self=b)
    total = run(flow, "add", (3, 4), self=first, other=second)
    again = run(flow, "view", (12,), self=run(flow, "transpose", (4, 3), self=total, dim0=0, dim1=1))
    settle(flow)
    roots = flow.channels.roots()
    assert same(flow, a.dims[0], b.dims[0])
    assert roots[a.dims[0]].tolist() == [*roots[total.dims[1]]] * 3
    assert roots[again.dims[0]].reshape(4, 3).tolist() == [[r] * 3 for r in roots[total.dims[1]]]
    assert all(frozen(flow, total.dims[0]))


def test_a_carrier_that_is_kept_elsewhere_leaves_the_other_dimension() -> None:
    flow = Flow()
    a = flow.tensor("a", (12,))
    apart = run(flow, "view", (3, 4), self=a)
    run(flow, "softmax", (3, 4), self=apart, dim=1)
    settle(flow)
    assert flow.channels.roots()[a.dims[0]].tolist() == [0] * 4 + [4] * 4 + [8] * 4
    assert not any(frozen(flow, a.dims[0]))
