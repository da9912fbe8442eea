"""What a pruned graph goes through after it is cut: training, another cut, a replay, the export."""

import copy
import json
from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import write_project
from pruning_nets import Windows, lively
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline import checkpoint, recipe
from pipeline.core import PREVIOUS
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.pruning import Plan, prune, replay
from pipeline.store import Artifact
from targets.backends.cpu import Cpu


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
