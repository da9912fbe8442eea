import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruning_nets import NETS, Windows, built, lively, reading_only, relative
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.errors import UserError
from pipeline.pruning import PruneResult, count, prune


def cut(model: nn.Module, x: object, **settings: object) -> PruneResult:
    return prune(lively(model), x, form="graph", **settings)


@pytest.mark.parametrize("name", NETS)
def test_a_pruned_graph_equals_the_original_whose_layers_read_zeros(name: str) -> None:
    model, x = built(name)
    result = prune(model, x, form="graph", round_to=4)
    assert relative(result.model(x), reading_only(model, result.plan)(x)) < 1e-4
    assert result.frozen == {}
    assert result.achieved == pytest.approx(0.5, abs=0.05)
    assert list(result.model.state_dict()) == list(model.state_dict())
    after = count(result.model, x)
    assert (after.params, after.macs) == (result.params_after, result.macs_after)


@pytest.mark.parametrize("name", NETS)
def test_a_pruned_graph_takes_any_batch(name: str) -> None:
    model, x = built(name)
    result = prune(model, x, form="graph", round_to=4)
    assert result.batch is None
    assert_close(result.model(torch.cat((x, x[:1])))[:2], result.model(x), atol=1e-4, rtol=1e-4)
    assert_close(result.model(x[:1]), result.model(x)[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("granularity", [("filter", "stage", "head"), ("filter", "stage")])
def test_sizes_in_the_forward_change(granularity: tuple[str, ...]) -> None:
    model, x = lively(Windows()), torch.randn(2, 3, 8, 8)
    module = prune(model, x, granularity=granularity)
    result = prune(model, x, form="graph", granularity=granularity)
    assert "proof" in module.frozen
    assert "form='graph'" in module.hint
    assert module.achieved < 0.3
    assert (result.frozen, result.hint) == ({}, "")
    assert result.achieved == pytest.approx(0.5)
    assert result.proof.max_rel_error < 1e-4
    assert_close(result.model(torch.cat((x, x[:1])))[:2], result.model(x), atol=1e-4, rtol=1e-4)


def test_the_width_of_attention_heads_goes_while_the_scale_stays() -> None:
    model, x = lively(Windows()), torch.randn(2, 3, 8, 8)
    result = prune(model, x, form="graph", granularity="filter", ignore=("stem", "proj"))
    places = result.plan.kept["qkv.weight"][0].reshape(3, 4, 4) % 8  # q, k and v of 4 heads keep 4 of 8 places
    assert (places == places[:, :1]).all()
    assert np.array_equal(places[0], places[1])
    assert result.proof.max_rel_error < 1e-4


class Constants(nn.Module):
    """A tensor that is no buffer, a tensor made in the forward, several results by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 1)
        self.b = nn.Conv2d(16, 5, 1)
        self.tied = nn.Conv2d(3, 16, 1)
        self.tied.weight = self.a.weight
        self.offset = torch.linspace(-1, 1, 16).view(1, 16, 1, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, object]:
        z = F.relu(self.a(x) + self.offset) * torch.full((16, 1, 1), 0.5)
        if y is not None:
            z = z + self.tied(y)
        return {"maps": self.b(z), "rest": (z.mean((1, 2, 3)), None)}


def test_constants_are_cut_and_results_keep_their_structure() -> None:
    model, x, y = lively(Constants()), torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    result = prune(model, (x, y), form="graph")
    assert result.frozen == {}
    assert result.achieved == 0.5
    pruned = result.model
    assert pruned.tied.weight is pruned.a.weight
    assert list(pruned.state_dict()) == list(model.state_dict())
    given = pruned(x, y=y)
    assert set(given) == {"maps", "rest"}
    assert given["rest"][1] is None
    assert given["maps"].shape == (2, 5, 6, 6)
    assert copy.deepcopy(pruned).tied.weight is not pruned.a.weight


class Fixed(nn.Module):
    """Takes no batch but the one it was written for."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 16)
        self.b = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(2, 3, 16))


def test_a_graph_that_takes_one_batch_only_says_so() -> None:
    result = cut(Fixed(), torch.randn(2, 3, 8))
    assert result.batch == 2
    assert result.achieved == 0.5
    assert result.model(torch.randn(2, 3, 8)).shape == (2, 3, 4)


def test_single_weights_and_graphs_do_not_go_together() -> None:
    with pytest.raises(UserError, match="leave out 'weight' or set form 'module'"):
        cut(Fixed(), torch.randn(2, 3, 8), granularity="weight")


def test_blocks_leave_before_the_graph_is_cut() -> None:
    model, x = built("resnet_b")
    result = prune(model, x, form="graph", granularity=("block", "filter"), ratio=0.5)
    assert result.plan.removed
    assert result.proof.max_rel_error < 1e-4
    assert_close(result.plan.apply(model, x)(x), result.model(x))
