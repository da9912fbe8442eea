import copy
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import write_project
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_nets import NETS, built, lively, reading_only, relative
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline import checkpoint, recipe
from pipeline.core import PREVIOUS
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.pruning import Plan, PruneResult, count, prune, replay
from pipeline.store import Artifact
from targets.backends.cpu import Cpu


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


class Windows(nn.Module):
    """Attention in windows of 16 places, its sizes, heads and batch written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 1)
        self.qkv = nn.Linear(32, 96)
        self.proj = nn.Linear(32, 24)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        windows = x.view(x.size(0), 2, 4, 2, 4, 32).permute(0, 1, 3, 2, 4, 5).reshape(x.size(0) * 4, 16, 32)
        q, k, v = self.qkv(windows).view(-1, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.size(0) * 4, 16, 32)
        y = self.norm(self.proj(y)).view(x.size(0), 64, 24)
        return self.head(y.mean(1))


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
    result = cut(model, torch.randn(2, 3, 4, 4))
    assert result.frozen == {}
    assert result.achieved == 0.5
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


class Modes(nn.Module):
    """Everything that training mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16, momentum=0.25)
        self.own = nn.InstanceNorm2d(16, affine=True, track_running_stats=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.own(F.relu(self.norm(self.conv(x)))).mean((2, 3))))


def test_a_pruned_graph_trains_as_pruned_modules_do() -> None:
    model, x = lively(Modes()), torch.randn(4, 3, 8, 8) + 1
    model.conv.bias.requires_grad_(False)
    one, other = prune(model, x).model, prune(model, x, form="graph").model
    for pruned in (one, other):
        pruned.train()
        torch.manual_seed(1)
        pruned(x).square().sum().backward()
    assert list(one.state_dict()) == list(other.state_dict())
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert a.requires_grad == b.requires_grad, name
        if a.requires_grad:
            assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
    for name, value in one.state_dict().items():
        assert_close(other.state_dict()[name], value, msg=name)
    assert not torch.equal(other(x), other(x))
    other.eval()
    assert torch.equal(other(x), other(x))
    other.drop.train()
    assert not torch.equal(other(x), other(x))


def test_modes_carry_over_to_the_graph_and_its_copies() -> None:
    model, x = lively(Modes()), torch.randn(4, 3, 8, 8)
    model.train()
    model.norm.eval()
    pruned = prune(model, x, form="graph").model
    for made in (pruned, copy.deepcopy(pruned)):
        modes = {name: module.training for name, module in made.named_modules()}
        assert modes == {name: module.training for name, module in model.named_modules()}
        before = made.norm.running_mean.clone()
        made(x)
        assert torch.equal(before, made.norm.running_mean)


def test_a_pruned_graph_is_pruned_again_in_both_forms_and_replayed(tmp_path: Path) -> None:
    model, x = lively(Windows()), torch.randn(2, 3, 8, 8)
    first = prune(model, x, form="graph", ratio=0.25)
    second = prune(first.model, x, form="graph", ratio=0.5)
    third = prune(second.model, x, ratio=0.5)
    assert second.achieved > 0.35  # of three heads, two stay
    assert third.proof.max_rel_error < 1e-4
    for i, result in enumerate((first, second, third)):
        result.plan.save(tmp_path / f"{i}.json")
    plans = [Plan.load(tmp_path / f"{i}.json") for i in range(3)]
    fresh = replay(plans, model, torch.cat((x, x)))  # on another batch than they were made on
    assert_close(fresh(x), third.model(x), atol=1e-5, rtol=1e-4)
    assert list(fresh.state_dict()) == list(third.model.state_dict())


def test_a_plan_of_a_graph_needs_inputs_and_the_same_graph() -> None:
    model, x = lively(Windows()), torch.randn(2, 3, 8, 8)
    plan = prune(model, x, form="graph").plan
    with pytest.raises(UserError, match=r"give apply\(model, example_inputs\)"):
        plan.apply(model)

    class Other(Windows):
        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x).mean((2, 3))

    with pytest.raises(UserError, match=r"the plan does not fit Other: .*\n?"):
        plan.apply(Other(), x)


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


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # inside torch's exporter
def test_a_pruned_graph_exports(tmp_path: Path) -> None:
    model, x = lively(Windows()), torch.randn(2, 3, 8, 8)
    pruned = prune(model, x, form="graph").model
    batch = torch.export.Dim("batch")
    program = torch.export.export(pruned, (x,), dynamic_shapes=({0: batch},))
    three = torch.cat((x, x[:1]))
    assert_close(program.module()(three), pruned(three))
    torch.onnx.export(pruned, (x,), tmp_path / "m.onnx", dynamo=True, verbose=False, dynamic_shapes=({0: batch},))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: three.numpy()})
    assert_close(torch.from_numpy(got), pruned(three).detach(), atol=1e-4, rtol=1e-4)


def test_prune_to_export_in_graph_form(tmp_path: Path) -> None:
    loaded = recipe.load(
        write_project(tmp_path),
        ["stages.prune.form=graph", "stages.prune.min_width=2", "stages.finetune.epochs=1", "stages.export.batch=3"],
    )
    shared = {"model": loaded.model_spec(), "data": loaded.data_spec(), "scheme": recipe.scheme_of(Cpu())}
    previous: dict[str, Artifact] = {}
    for stage in ("source", "prune", "finetune", "calibrate", "export"):
        folder = tmp_path / stage
        folder.mkdir()
        loaded.stage(stage, shared).run(previous, folder, SILENT)
        previous = {PREVIOUS: Artifact(folder, "")}
    figures = json.loads((tmp_path / "prune" / "info.json").read_text())["figures"]
    assert figures["achieved_ratio"] == pytest.approx(0.5)
    model, (plan,) = checkpoint.load(tmp_path / "finetune", shared["model"], shared["data"])
    assert plan.form == "graph"
    x = torch.randn(3, 1, 12, 12)
    session = onnxruntime.InferenceSession(tmp_path / "finetune" / "model.onnx")
    (got,) = session.run(None, {"input": x[:1].numpy()})
    assert_close(torch.from_numpy(got), model.eval()(x[:1]).detach(), atol=1e-4, rtol=1e-4)
    (int8,) = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx").run(None, {"input": x.numpy()})
    assert int8.shape == (3, 3)


def test_single_weights_and_graphs_do_not_go_together() -> None:
    with pytest.raises(UserError, match="leave out 'weight' or set form 'module'"):
        cut(Fixed(), torch.randn(2, 3, 8), granularity="weight")


def test_blocks_leave_before_the_graph_is_cut() -> None:
    model, x = built("resnet_b")
    result = prune(model, x, form="graph", granularity=("block", "filter"), ratio=0.5)
    assert result.plan.removed
    assert result.proof.max_rel_error < 1e-4
    assert_close(result.plan.apply(model, x)(x), result.model(x))
