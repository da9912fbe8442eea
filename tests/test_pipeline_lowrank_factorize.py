"""Factorised models: the same function at full energy, everything that must stay whole left whole, the rest proved."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruning_nets import NETS, built, relative
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.lowrank import Budget, Energy, LowRankPlan, LowRankResult, Vbmf, factorize
from pipeline.pruning import Plan, count, prune, replay


def lower(model: nn.Module, rank: int = 2) -> nn.Module:
    """Give every kernel and matrix a low rank, exactly, so that factorising loses nothing."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and getattr(module, "groups", 1) == 1:
            w = module.weight.detach().double().numpy()
            for mode in (0, 1):
                flat = np.moveaxis(w, mode, 0).reshape(w.shape[mode], -1)
                u = np.linalg.svd(flat, full_matrices=False)[0][:, :rank]
                w = np.moveaxis(np.tensordot(u @ u.T, w, (1, mode)), 0, mode)
            module.weight.data = torch.from_numpy(np.ascontiguousarray(w)).to(module.weight)
    return model


def whys(result: LowRankResult) -> dict[str, str]:
    return {layer.name: layer.why for layer in result.layers if layer.method == "whole"}


@pytest.mark.parametrize(("name", "method"), [*((name, "auto") for name in NETS), ("vgg", "svd"), ("vgg", "tucker")])
def test_what_has_low_rank_loses_nothing(name: str, method: str) -> None:
    model, x = built(name)
    model = lower(model)
    before = copy.deepcopy(model.state_dict())
    result = factorize(model, x, method=method, ranks=Energy(1 - 1e-10))
    assert any(layer.ranks for layer in result.layers)
    assert result.macs_after < result.macs_before
    assert relative(result.model(x), model(x)) < 1e-5
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())  # the model given is not changed


@pytest.mark.parametrize(
    ("name", "method", "ranks"),
    [
        ("resnet_a", "auto", Vbmf()),
        ("resnet_a", "auto", Budget(0.7)),
        ("resnet_a", "tucker", Energy(0.6)),
        ("resnet_a", "svd", Budget(0.6, "params")),
        ("lenet", "cp", Energy(0.5)),
        ("lenet", "cp", Vbmf()),
        ("lenet", "cp", Budget(0.8)),
    ],
    ids=str,
)
def test_the_table_is_what_the_model_holds(name: str, method: str, ranks: Any) -> None:
    model, x = built(name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data += 3 * lower(copy.deepcopy(module), 1).weight.data  # noise and signal, for vbmf
    result = factorize(model, x, method=method, ranks=ranks)
    counts, new = count(result.model, x), count(model, x)
    assert (result.macs_before, result.macs_after) == (new.macs, counts.macs)
    assert (result.params_before, result.params_after) == (new.params, counts.params)
    weights = dict(model.named_modules())
    for layer in result.layers:
        part = result.model.get_submodule(layer.name)
        inside = sum(m for n, m in counts.per_layer.items() if n == layer.name or n.startswith(f"{layer.name}."))
        assert layer.macs_after == inside
        assert layer.macs_before == new.per_layer[layer.name]
        assert layer.params_after == sum(p.numel() for p in part.parameters())
        assert layer.params_before == sum(p.numel() for p in weights[layer.name].parameters())
        assert bool(layer.ranks) == (layer.macs_after < layer.macs_before) == (not layer.why)
        if isinstance(ranks, Energy) and layer.ranks:
            assert layer.rel_error <= (1 - ranks.share) ** 0.5 * 1.01
    if isinstance(ranks, Budget):
        after, before = (counts.macs, new.macs) if ranks.of == "macs" else (counts.params, new.params)
        assert 0.85 * ranks.share < after / before <= ranks.share
    assert result.proof.max_rel_error < 1e-5


def test_a_tighter_rule_never_costs_more() -> None:
    model, x = built("vgg")
    costs = [factorize(model, x, ranks=Energy(e)).macs_after for e in (0.3, 0.5, 0.7, 0.9, 1.0)]
    assert costs == sorted(costs)
    assert costs[-1] == count(model, x).macs  # random weights have full rank: nothing pays


def test_ranks_go_up_to_multiples() -> None:
    model, x = built("vgg")
    result = factorize(model, x, method="tucker", ranks=Energy(0.4), round_to=4)
    full = {n: m.weight.shape for n, m in model.named_modules() if hasattr(m, "weight") and m.weight.ndim > 1}
    found = [(layer, r) for layer in result.layers for r in layer.ranks]
    assert found
    assert all(r % 4 == 0 or r in full[layer.name] for layer, r in found)


class Odd(nn.Module):
    """Everything that is to stay whole, and a layer that runs twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = self.again = nn.Conv2d(16, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.transposed = nn.ConvTranspose2d(16, 16, 2, 2)
        self.read = nn.Conv2d(16, 16, 3, padding=1)
        self.tied = nn.Linear(16, 16)
        self.tie = nn.Linear(16, 16)
        self.tie.weight = self.tied.weight
        self.hooked = nn.Linear(16, 16)
        self.hooked.register_forward_hook(lambda module, args, out: out * 1)
        self.looks = nn.Linear(16, 16)
        self.auxiliary = nn.Linear(16, 3)
        self.zero = nn.Linear(16, 16)
        nn.init.zeros_(self.zero.weight)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.kept = nn.Linear(16, 16)
        self.head = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(torch.relu(self.shared(x)))
        x = self.transposed(self.grouped(x))
        x = self.read(x) + F.conv2d(x, self.read.weight.flip(-1), padding=1)
        y = x.mean((2, 3))
        if self.training:
            return self.auxiliary(y)
        y = self.hooked(self.tie(self.tied(y))) + self.looks(y) * self.looks.in_features
        y = y + self.zero(y) + self.attention(y[:, None], y[:, None], y[:, None])[0][:, 0]
        return self.head(self.kept(y))


def test_what_cannot_be_replaced_stays_and_says_why() -> None:
    torch.manual_seed(0)
    model, x = lower(Odd().eval()), torch.randn(2, 16, 6, 6)
    nn.init.zeros_(model.zero.weight)
    result = factorize(model, x, ranks=Energy(0.9999), ignore=("kep*",))
    assert whys(result) == {
        "grouped": "grouped",
        "transposed": "transposed",
        "read": "its weights are read outside of it",
        "tied": "its weights are read outside of it",
        "tie": "its weights are read outside of it",
        "hooked": "has hooks",
        "looks": "the model's forward needs the layer itself",
        "auxiliary": "does not run in evaluation mode",
        "zero": "all its weights are zero",
        "attention.out_proj": "a class of its own, NonDynamicallyQuantizableLinear",
        "kept": "ignored",
    }
    assert {layer.name for layer in result.layers if layer.ranks} == {"shared", "head"}
    assert result.model.shared is result.model.again
    assert relative(result.model(x), model(x)) < 1e-4
    shared = next(layer for layer in result.layers if layer.name == "shared")
    assert shared.macs_before == 2 * 2 * 16 * 16 * 9 * 36  # two runs on two images
    shaped = LowRankPlan(settings={}, layers=result.plan.layers).apply(Odd())
    shaped.load_state_dict(result.model.state_dict())
    torch.testing.assert_close(shaped.eval()(x), result.model(x))


def test_a_model_that_is_one_layer() -> None:
    layer, x = lower(nn.Linear(12, 10)), torch.randn(3, 12)
    result = factorize(layer, x, ranks=Energy(0.99999))
    assert isinstance(result.model, nn.Sequential)
    torch.testing.assert_close(result.model(x), layer(x), atol=1e-5, rtol=1e-3)
    shaped = result.plan.apply(nn.Linear(12, 10))
    shaped.load_state_dict(result.model.state_dict())
    assert torch.equal(shaped(x), result.model(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model, x = built("vgg")
    model, x = lower(model).to(dtype), x.to(dtype)
    result = factorize(model, x, ranks=Energy(0.99))
    assert result.macs_after < result.macs_before
    assert {p.dtype for p in result.model.parameters()} == {dtype}


def test_a_model_in_channels_last_stays_so() -> None:
    model, x = built("mobilenetv2")
    model = lower(model).to(memory_format=torch.channels_last)
    result = factorize(model, x, ranks=Energy(0.99))
    kernels = [p for p in result.model.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert len(kernels) > len([p for p in model.parameters() if p.ndim == 4])


def test_a_cp_fit_that_diverges_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks are chosen on good fits; what is then made of them is off."""
    from pipeline.lowrank import engine

    model, x = built("vgg")
    model = lower(model, 1)
    good = factorize(model, x, method="cp", ranks=Energy(0.7))
    assert any(layer.method == "cp" for layer in good.layers)
    real = engine.relative_error
    monkeypatch.setattr(engine, "relative_error", lambda w, p: 5 * real(w, p) + 0.9 if w.ndim == 4 else real(w, p))
    result = factorize(model, x, method="cp", ranks=Energy(0.7))
    assert not any(layer.method == "cp" for layer in result.layers)
    assert "is above the 0.55 of its ranks" in whys(result)["features.4"]


def test_a_rank_that_cannot_keep_the_energy_is_named_with_its_error() -> None:
    model, x = built("vgg")
    why = whys(factorize(model, x, method="cp", ranks=Energy(0.999)))
    assert all("stays above the 0.03 that was asked for" in why[n] for n in ("features.4", "features.7"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "tuker"}, "method: no method named 'tuker'; did you mean 'tucker'"),
        ({"round_to": 0}, "round_to: .* got 0"),
        ({"ignore": ("nothing",)}, "ignore: 'nothing' names no layer"),
        ({"ranks": Budget(0.01)}, r"budget: 0\.01 of the macs cannot be reached by factorising, the least is 0\.\d+"),
    ],
)
def test_impossible_settings_are_one_line(given: dict[str, Any], message: str) -> None:
    model, x = built("lenet")
    with pytest.raises(UserError, match=message) as error:
        factorize(model, x, **given)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_and_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = built("lenet")
    model.fc1.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"weights are not finite: fc1\.weight"):
        factorize(model, x)
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs tensorly and scipy: pip install 'edgesmith\[lowrank\]'"):
        factorize(model, x)


def test_a_plan_replays_reads_back_and_is_readable(tmp_path: Path) -> None:
    model, x = built("lenet")
    result = factorize(lower(model), x, ranks=Energy(0.999), round_to=2)
    for name in ("a", "b"):
        result.plan.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert LowRankPlan.load(tmp_path / "a") == result.plan
    text = json.loads((tmp_path / "a").read_text())
    assert text["schema"] == "edgesmith.lowrank/1"
    assert text["settings"] == {"method": "auto", "ranks": "energy 0.999", "ignore": [], "round_to": 2}
    assert {"name": "fc1", "shape": [120, 400], "method": "svd", "ranks": [2]} in text["layers"]
    shaped = result.plan.apply(built("lenet")[0])
    assert shaped.fc1[0].weight.isnan().all()  # whoever forgets to load the weights sees it
    shaped.load_state_dict(result.model.state_dict())
    assert torch.equal(shaped.eval()(x), result.model(x))


def test_a_model_that_does_not_fit_is_refused() -> None:
    model, x = built("lenet")
    plan = factorize(lower(model), x, ranks=Energy(0.999)).plan
    with pytest.raises(UserError, match=r"does not fit MobileNetV2: it has no module 'conv1'"):
        plan.apply(built("mobilenetv2")[0])
    with pytest.raises(UserError, match="is a Sequential, not a layer to factorise"):
        plan.apply(plan.apply(model))
    narrow = prune(model, x, round_to=4).model
    with pytest.raises(UserError, match=r"the plan was made for \(.*\); apply successive plans in their order"):
        plan.apply(narrow)


@pytest.mark.parametrize(("name", "form"), [("vgg", "module"), ("vgg", "graph"), ("mobilenetv2", "module")])
def test_factorised_then_pruned_replays(name: str, form: str, tmp_path: Path) -> None:
    model, x = built(name)
    model = lower(model, 6)
    first = factorize(model, x, ranks=Energy(0.9999))
    second = prune(first.model, x, ratio=0.4, round_to=1, min_width=2, form=form)
    assert any(".0.weight" in t for t in second.plan.tensors)
    check_replay(built(name)[0], [first.plan, second.plan], second.model, x, tmp_path)


@pytest.mark.parametrize("name", ["vgg", "resnet_a"])
def test_pruned_then_factorised_replays(name: str, tmp_path: Path) -> None:
    model, x = built(name)
    first = prune(model, x, ratio=0.4, round_to=2, min_width=2)
    second = factorize(first.model, x, ranks=Energy(0.6))
    assert second.plan.layers
    check_replay(built(name)[0], [first.plan, second.plan], second.model, x, tmp_path)


def check_replay(fresh: nn.Module, plans: list[Plan | LowRankPlan], expected: nn.Module, x: Tensor, at: Path) -> None:
    from pipeline import plans as kinds

    for i, plan in enumerate(plans):
        plan.save(at / str(i))
    read = [kinds.load(at / str(i)) for i in range(len(plans))]
    assert read == plans
    shaped = replay(read, fresh, x)
    shaped.load_state_dict(expected.state_dict())
    torch.testing.assert_close(shaped.eval()(x), expected.eval()(x))
