import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from pruning_nets import NETS, Mixed, built, lively, masked_by_hand, reading_only, relative
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.errors import UserError
from pipeline.pruning import Plan, count, prune, replay

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("name", NETS)
def test_pruned_equals_the_original_whose_layers_read_zeros(name: str, scope: str) -> None:
    model, x = built(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = prune(model, x, real_inputs=x, ratio=0.5, scope=scope, round_to=4)
    assert relative(result.model(x), reading_only(model, result.plan)(x)) < 1e-4
    assert result.proof.max_rel_error < 1e-4
    assert result.proof.real is not None
    assert result.frozen == {}
    assert result.achieved == pytest.approx(0.5, abs=0.05)
    assert result.macs_after < 0.6 * result.macs_before
    after = count(result.model, x)
    assert (after.params, after.macs) == (result.params_after, result.macs_after)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_module_attributes_say_what_the_tensors_are(name: str) -> None:
    model, x = built(name)
    pruned = prune(model, x, round_to=4).model
    assert list(pruned.state_dict()) == list(model.state_dict())
    for module in pruned.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean.shape == (module.num_features,)


def test_depthwise_follows_its_producer_and_residuals_share_one_set() -> None:
    model, x = built("mobilenetv2")
    result = prune(model, x, round_to=8)
    depthwise = result.model.features[3].conv[1][0]
    assert depthwise.groups == depthwise.out_channels == depthwise.in_channels == 48
    kept = result.plan.kept
    # blocks 2 and 3 are added: both projections keep the same channels
    projections = (kept[f"features.{i}.conv.2.weight"][0].tolist() for i in (2, 3))
    assert next(projections) == next(projections)


def test_flatten_expands_channels_to_their_positions() -> None:
    model, x = built("lenet")
    kept = prune(model, x, round_to=4).plan.kept
    channels = kept["conv2.weight"][0]
    assert kept["fc1.weight"][1].tolist() == [c * 25 + i for c in channels for i in range(25)]


def test_inputs_outputs_and_ignored_layers_keep_their_channels() -> None:
    model, x = built("vgg")
    result = prune(model, x, ratio=0.75, round_to=4, ignore=("features.0", "classifier.[0]"))
    first, head = result.model.features[0], result.model.classifier
    assert (first.in_channels, first.out_channels) == (3, 16)
    assert (head[0].out_features, head[3].out_features) == (64, 10)
    assert head[0].in_features < 256


def test_trains_and_prunes_again_and_replays_both_plans() -> None:
    model, x = built("resnet_b")
    first = prune(model, x, ratio=0.25, round_to=4)
    tuned = first.model.train()
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.1)
    before = tuned.conv1.weight.detach().clone()
    F.cross_entropy(tuned(x), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert not torch.equal(before, tuned.conv1.weight)
    second = prune(tuned, x, ratio=0.5, round_to=4)
    assert second.model.training
    fresh = replay([first.plan, second.plan], built("resnet_b")[0])
    fresh.load_state_dict(second.model.state_dict())
    assert_close(fresh.eval()(x), second.model.eval()(x))


def test_plan_replays_in_another_process(tmp_path: Path) -> None:
    model, x = built("mobilenetv2")
    result = prune(model, x, round_to=8)
    result.plan.save(tmp_path / "plan.json")
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import sys, numpy, torch; sys.path[:0] = sys.argv[2:]\n"
        "from test_pipeline_pruning_engine import built\n"
        "from pipeline.pruning import Plan\n"
        "model = Plan.load(sys.argv[1] + '/plan.json').apply(built('mobilenetv2')[0])\n"
        "x = torch.from_numpy(numpy.load(sys.argv[1] + '/x.npy'))\n"
        "numpy.save(sys.argv[1] + '/y.npy', model(x).detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path, ROOT / "tests", ROOT], check=True, cwd=tmp_path)
    assert_close(torch.from_numpy(np.load(tmp_path / "y.npy")), result.model(x).detach())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # inside torch's exporter
def test_exports_to_onnx(tmp_path: Path) -> None:
    model, x = built("lenet")
    pruned = prune(model, x, round_to=4).model
    torch.onnx.export(pruned, (x,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(y), pruned(x).detach(), rtol=1e-4, atol=1e-5)


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)
        self.c = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)).cumsum(1)
        return self.head(self.c(x).mean((2, 3)))


def test_an_op_without_a_rule_freezes_what_reaches_it_and_is_named() -> None:
    model, x = Unknown().eval(), torch.randn(1, 3, 9, 9)
    result = prune(model, x, round_to=1)
    assert result.frozen == {"aten.cumsum": ("b.weight",)}
    assert [g.name for g in result.plan.groups] == ["a", "c"]
    assert result.achieved == pytest.approx(8 / 24)
    assert relative(result.model(x), reading_only(model, result.plan)(x)) < 1e-4


class Shared(nn.Module):
    """One module called twice, tied weights, a parameter outside modules, a buffer-like constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.tied = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.tied.weight = self.twice.weight
        self.scale = nn.Parameter(torch.rand(16, 1, 1) + 0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.twice(F.relu(self.twice(x)))) * self.scale
        return self.head(F.silu(self.tied(x)).mean((2, 3)))


def test_shared_and_tied_weights_are_cut_once_and_stay_tied() -> None:
    model, x = lively(Shared()), torch.randn(2, 3, 8, 8)
    result = prune(model, x, round_to=4)
    pruned = result.model
    assert pruned.tied.weight is pruned.twice.weight
    assert tuple(pruned.twice.weight.shape) == (8, 8, 3, 3)
    assert tuple(pruned.scale.shape) == (8, 1, 1)
    assert result.params_after == sum(p.numel() for p in pruned.parameters())
    assert result.proof.max_rel_error < 1e-4


class Grouped(nn.Module):
    def __init__(self, width: int, groups: int, multiplier: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.mid = nn.Conv2d(width, width * multiplier, 3, groups=groups)
        self.tail = nn.Conv2d(width * multiplier, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(F.relu(self.mid(F.relu(self.stem(x))))).amax((2, 3))


@pytest.mark.parametrize(
    ("width", "groups", "multiplier", "left"),
    [(32, 2, 1, 2), (32, 8, 1, 4), (16, 16, 2, 8), (32, 4, 2, 4)],
    ids=["positions", "whole groups", "depth multiplier", "positions, wider"],
)
def test_grouped_convolutions_stay_valid(width: int, groups: int, multiplier: int, left: int) -> None:
    model, x = lively(Grouped(width, groups, multiplier)), torch.randn(2, 3, 6, 6)
    result = prune(model, x, round_to=1)
    mid = result.model.mid
    assert mid.groups == left
    assert (mid.in_channels, mid.out_channels) == (width // 2, width * multiplier // 2)
    assert result.model.stem.out_channels == width // 2
    assert result.proof.max_rel_error < 1e-4


@pytest.mark.parametrize("form", ["module", "graph"])
def test_channels_on_the_space_of_a_kernel_of_one_go(form: str) -> None:
    model, x = lively(Mixed()), torch.randn(2, 6, 4)
    result = prune(model, x, form=form)
    assert {(g.name, g.width) for g in result.plan.groups} == {("stem", "16 -> 8"), ("mix", "8 -> 4")}
    assert relative(result.model(x), masked_by_hand(model, result.plan, result.model)(x)) < 1e-4
    after = count(result.model, x)
    assert (after.params, after.macs) == (result.params_after, result.macs_after)
    assert result.frozen == {}


def test_half_precision_and_biasless_models() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.ReLU(), nn.Conv2d(16, 4, 3, bias=False)).half().eval()
    result = prune(model, torch.randn(1, 3, 8, 8).half())
    assert result.model[0].weight.dtype == torch.float16
    assert result.model[0].out_channels == 8
    assert result.proof.max_rel_error < 1e-4


def test_modes_and_requires_grad_carry_over() -> None:
    model, x = built("vgg")
    model.features.train()
    model.features[0].weight.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    pruned = prune(model, x).model
    assert [m.training for m in pruned.modules()] == modes == [m.training for m in model.modules()]
    assert not pruned.features[0].weight.requires_grad
    assert pruned.features[4].weight.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, "ratio: .* below 1, got 1.0"),
        ({"scope": "globl"}, "scope: .*did you mean 'global'"),
        ({"target": "flops"}, "target: no target named 'flops'; have: ratio, macs, params"),
        ({"criterion": "l3"}, "no criterion named 'l3'"),
        ({"round_to": 0}, "round_to: must be at least 1"),
        ({"ignore": ("hed",)}, "ignore: 'hed' names no layer .* conv1, conv2, fc1, fc2, head"),
    ],
)
def test_impossible_settings_are_one_clear_line(settings: dict[str, object], message: str) -> None:
    model, x = built("lenet")
    with pytest.raises(UserError, match=message):
        prune(model, x, **settings)


def test_weights_that_are_not_finite_are_named() -> None:
    model, x = built("lenet")
    model.conv2.weight.data[3, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"not finite: conv2\.weight"):
        prune(model, x)


def test_a_model_that_does_not_run_on_its_inputs_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^cannot capture LeNet: [^\n]+$"):
        prune(built("lenet")[0], torch.randn(1, 3, 28, 28))


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("target", ["macs", "params"])
def test_budgets_are_met_within_a_rounding_step(target: str, scope: str) -> None:
    model, x = built("resnet_b")
    result = prune(model, x, ratio=0.4, target=target, scope=scope, round_to=2)
    before, after = getattr(result, f"{target}_before"), getattr(result, f"{target}_after")
    assert 1 - after / before == pytest.approx(result.achieved)
    assert result.achieved == pytest.approx(result.requested, abs=0.02)


def test_a_deep_copy_of_the_plan_means_the_same() -> None:
    model, x = built("resnet_a")
    result = prune(model, x)
    assert_close(copy.deepcopy(result.plan).apply(model)(x), result.model(x))
    assert isinstance(result.plan, Plan)
