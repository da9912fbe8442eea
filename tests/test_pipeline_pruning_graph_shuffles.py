import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_nets import lively
from torch import Tensor, nn

from pipeline.pruning import Plan, prune, replay


class Shuffled(nn.Module):
    """Half of the channels pass a layer; then all are shuffled, as in ShuffleNet."""

    def __init__(self, width: int = 16, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.stem = nn.Conv2d(3, width, 1)
        self.branches = nn.ModuleList(nn.Conv2d(width // 2, width // 2, 1) for _ in range(3))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            a, b = x.chunk(2, 1)
            x = torch.cat((a, F.relu(branch(b))), 1)
            n, c, h, w = x.shape
            x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.mean((2, 3)))


@settings(max_examples=8)
@given(
    width=st.sampled_from([8, 12, 16]),
    groups=st.sampled_from([2, 4]),
    ratio=st.floats(0.1, 0.8),
    seed=st.integers(0, 2**32 - 1),
)
def test_shuffled_channels_leave_one_by_one(width: int, groups: int, ratio: float, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 4, 4)
    model = lively(Shuffled(width, groups))
    result = prune(model, x, form="graph", scope="global", ratio=ratio, real_inputs=x)
    assert result.proof.max_rel_error < 1e-4
    assert all(group.units == group.before for group in result.plan.groups)
    ops = {str(node.target) for node in result.model.graph.nodes}
    assert "aten.index_select.default" in ops
    assert "aten.transpose.int" not in ops
    again = Plan.apply(result.plan, model, x)
    assert torch.equal(again(x), result.model(x))


def test_shuffles_of_a_pruned_graph_are_cut_again() -> None:
    model, x = lively(Shuffled()), torch.randn(2, 3, 4, 4)
    first = prune(model, x, form="graph")
    second = prune(first.model, x, form="graph")
    assert second.frozen == {}
    assert second.achieved == pytest.approx(first.achieved, abs=0.1)
    assert {n for n, _ in second.model.named_buffers()} == {n for n, _ in first.model.named_buffers()}
    assert torch.equal(replay([first.plan, second.plan], model, x)(x), second.model(x))


def test_a_channel_shuffle_that_is_one_op_is_no_obstacle() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ChannelShuffle(4), nn.Conv2d(16, 5, 1))
    result = prune(lively(model), torch.randn(2, 3, 4, 4), form="graph")
    assert result.frozen == {}
    assert result.achieved == 0.5
    assert result.proof.max_rel_error < 1e-4
