"""Divergence without a unit against whole runs of copies with weights at zero; reruns of a graph's end."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.criteria.kl import Kl, mask, mixed_in
from pipeline.pruning.depth import sites, without
from pipeline.pruning.interpret import GraphRunner
from pipeline.pruning.rules.base import Role
from pipeline.pruning.samples import Samples
from pipeline.pruning.suffix import Suffixes
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import capture
from tests.coupled_nets import SIZES, data, evidence, pair, seen_by
from tests.pruning_nets import ResNet, built, lively

MADE_BY = {"stem": ("stem", "outer"), "inner": ("inner", "norm"), "left": ("left",), "right": ("right",)}


def masked(model: nn.Module, layers: tuple[str, ...], unit: int) -> nn.Module:
    """Return a copy in which layers give zero for a channel: its filter, scale and shift are zero."""
    result = copy.deepcopy(model)
    for name in layers:
        layer = result.get_submodule(name)
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.data[unit] = 0
    return result


def far(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """KL(other ‖ model) in plain loops, averaged over samples."""
    total = 0.0
    with torch.no_grad():
        for row, changed in zip(model(x).tolist(), other(x).tolist(), strict=True):
            q, p = ([math.exp(v) / sum(math.exp(w) for w in logits) for v in logits] for logits in (row, changed))
            total += sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True))
    return total / len(x)


@pytest.mark.parametrize("batch", [3, 12])
def test_scores_are_divergences_of_whole_runs_with_the_unit_at_zero(batch: int) -> None:
    plain, _ = pair()
    found = evidence(plain, batch=batch)
    ranked = Kl().rank(found.network.structure.groups, found)
    assert ranked.keys() == MADE_BY.keys()
    for name, layers in MADE_BY.items():
        wanted = [far(plain, masked(plain, layers, unit), data(12)[0]) for unit in range(SIZES[name])]
        assert ranked[name].scores.tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-12)


def test_the_direction_is_masked_against_original() -> None:
    plain, _ = pair()
    found = evidence(plain)
    score = Kl().rank(found.network.structure.groups, found)["stem"].scores[0]
    other = masked(plain, MADE_BY["stem"], 0)
    assert score == pytest.approx(far(plain, other, data(12)[0]), rel=1e-5)
    assert score != pytest.approx(far(other, plain, data(12)[0]), rel=1e-3)


def test_stage_channels_are_masked_in_every_block_and_in_the_projection() -> None:
    torch.manual_seed(0)
    model = lively(ResNet(2, "B")).double()
    x = torch.randn(4, 3, 8, 8).double()
    found = seen_by(model, x, torch.zeros(4, dtype=torch.int64), 2)
    stage = next(g for g in found.network.structure.groups if g.kind == "stage" and g.units == 32)
    scores = Kl().rank([stage], found)[stage.name].scores
    norms = ("stages.2.bn2", "stages.3.bn2", "stages.2.down.1")
    for unit in (0, 7, 31):
        assert scores[unit] == pytest.approx(far(model, masked(model, norms, unit), x), rel=1e-5)
        assert scores[unit] != pytest.approx(far(model, masked(model, norms[:1], unit), x), rel=1e-3)


class InPlace(nn.Module):
    """Ops that overwrite what is read again: a sum into the shortcut, an activation seen through an older view."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x.relu_())
        flat = x.flatten(1)
        x += self.two(x)
        F.relu_(x)
        y = self.two(x)
        y.add_(flat.view_as(y)).tanh_()
        return self.head(flat + y.flatten(1))


@pytest.mark.parametrize("name", ["own", "vgg", "resnet_b", "mobilenetv2", "densenet"])
def test_a_rerun_from_any_op_gives_the_same_and_spoils_nothing(name: str) -> None:
    torch.manual_seed(0)
    model, x = (InPlace().eval(), torch.randn(2, 3, 2, 2)) if name == "own" else built(name)
    given, captured = x.clone(), capture(model, x.clone())
    with torch.no_grad():
        wanted = model(x.clone())
        runner = Suffixes(captured, tensors(model))
        ops = [n for n in captured.graph.nodes if n.op != "placeholder"]
        for node in runner.stops([x], ops):
            for _ in range(2):
                torch.testing.assert_close(runner.rest(node)[0], wanted, rtol=0, atol=0)
    assert torch.equal(x, given)


def test_values_put_in_place_of_others_reach_the_output() -> None:
    model, x = built("vgg")
    captured = capture(model, x)
    runner = Suffixes(captured, tensors(model))
    node = next(n for n in captured.graph.nodes if n.op == "call_function")
    with torch.no_grad():
        for stop in runner.stops([x], [runner.after(node)]):
            first = model.features[0]
            got = runner.rest(stop, {node: first(x) * 2})[0]
        doubled = copy.deepcopy(model)
        for p in doubled.features[0].parameters():
            p.mul_(2)
        torch.testing.assert_close(got, doubled(x))


def test_where_an_op_runs_over_channels_all_slices_of_a_unit_are_masked() -> None:
    plain, _ = pair()
    found = evidence(plain)
    groups = {g.name: g for g in found.watched.structure.groups}
    assert {m.role for m in mask(groups["stem"], mixed_in(found.watched))} == {Role.IN}
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 4)).eval()
    x = torch.randn(6, 6)
    other = seen_by(model, x, torch.zeros(6, dtype=torch.int64), 3)
    (group,) = other.network.structure.groups
    assert mask(group, mixed_in(other.watched)) == list(group.members)
    scores = Kl().rank([group], other)[group.name].scores
    for unit in range(5):
        assert scores[unit] == pytest.approx(far(model, masked(model, ("0", "1"), unit), x), rel=1e-3)


def blocks() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return lively(ResNet(3, "B")).double(), torch.randn(4, 3, 8, 8).double()


def test_blocks_are_scored_by_the_divergence_of_the_bypassed_network() -> None:
    model, x = blocks()
    seen = Samples.of(x, torch.zeros(4, dtype=torch.int64), batch_size=2)
    names = [s.name for s in sites(capture(model, x[:1]), ("block",))]
    criterion = Kl()
    scores = criterion.modules(names, model, seen, evidence(pair()[0]).progress)
    assert list(scores) == names
    for name in names:
        assert scores[name] == pytest.approx(far(model, without(model, [name]), x), rel=1e-5)


def test_blocks_go_by_divergence_where_that_is_the_criterion_and_by_influence_elsewhere() -> None:
    model, x = blocks()
    seen = Samples.of(x, torch.zeros(4, dtype=torch.int64), batch_size=2)
    options = {"ratio": 0.3, "granularity": "block"}
    removed = prune(model, x[:2], samples=seen, criterion="kl", **options).plan.removed
    names = [s.name for s in sites(capture(model, x[:1]), ("block",))]
    least = sorted(names, key=lambda name: far(model, without(model, [name]), x))
    assert set(removed) == set(least[: len(removed)])
    plain = prune(model, x[:2], samples=seen, **options)
    assert plain.plan.removed == prune(model, x[:2], **options).plan.removed
    with pytest.raises(UserError, match="criterion kl: looks at samples"):
        prune(model, x[:2], criterion="kl", **options)


def test_outputs_without_classes_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).eval()
    x = torch.randn(4, 3)
    with pytest.raises(UserError, match=r"criterion kl: compares class probabilities .* gives \(4, 1\)"):
        prune(model, x, samples=Samples.of(x, torch.zeros(4, dtype=torch.int64)), criterion="kl")


def test_weights_come_back_after_they_were_masked() -> None:
    plain, _ = pair()
    found = evidence(plain)
    before = {n: t.clone() for n, t in plain.state_dict().items()}
    twice = [Kl().rank(found.network.structure.groups, found)["inner"].scores.tolist() for _ in range(2)]
    assert twice[0] == twice[1]
    assert all(torch.equal(t, before[n]) for n, t in plain.state_dict().items())
    with torch.no_grad():
        runner = GraphRunner(found.watched.captured, found.tensors)
        assert torch.equal(runner.outputs([found.seen.example[0]])[0], plain(found.seen.example[0]))


def test_branches_that_only_training_runs_are_left_whole() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
            self.aux = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.relu(self.body(x))
            return self.head(hidden) + self.aux(hidden) if self.training else self.head(hidden)

    torch.manual_seed(0)
    model, x = Auxiliary().eval(), torch.randn(4, 4)
    found = seen_by(model, x, torch.zeros(4, dtype=torch.int64), 2)
    groups = found.network.structure.groups
    assert {g.name for g in groups} == {"body", "aux.0"}
    ranked = Kl().rank(groups, found)
    assert list(ranked) == ["body"]
    wanted = [far(model, masked(model, ("body",), unit), x) for unit in range(6)]
    assert ranked["body"].scores.tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-9)
