"""Forwards that write to their inputs and buffers: what criteria and proofs look at stays as it was."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.plugins import names
from pipeline.pruning import Samples, prune, remove_dead, score
from pipeline.pruning.interpret import GraphRunner
from pipeline.pruning.ranking import CRITERIA
from pipeline.pruning.sensitivity import Probe, sensitivity
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import capture
from tests.pruning_nets import lively

SHORT = {name: {"epochs": 1} for name in ("slimming", "group_sparse", "gates")}


class Writing(nn.Module):
    """Scales its input in place, shifts a part of it through a view, and counts its runs."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        x.mul_(2)
        x[:, :1].sub_(1.5)
        return self.rest(x)

    def rest(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.second(self.first(x)).mean((2, 3)))
        return y


class Pure(Writing):
    """The same without writing anything."""

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(2 * x - torch.tensor([1.5, 0.0, 0.0])[:, None, None])


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    writing, pure = lively(Writing()), Pure()
    pure.load_state_dict(writing.state_dict())
    return writing, pure


def inputs(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def seen() -> Samples:
    return Samples.of(inputs(12, seed=1), torch.arange(12) % 4, batch_size=4)


def everything(model: nn.Module, samples: Samples, *others: Tensor) -> list[Tensor]:
    """Return copies of all that nothing may change."""
    held = [*tensors(model).values(), *(t for (x,), y in samples.batches for t in (x, y)), *others]
    return [t.detach().clone() for t in held]


def test_a_run_gives_what_the_module_gives_and_can_be_repeated(pair: tuple[nn.Module, nn.Module]) -> None:
    writing, pure = pair
    x, wanted = inputs(2), pure.eval()(inputs(2))
    runner = GraphRunner(capture(writing, (x,)), tensors(writing))
    for _ in range(2):
        torch.testing.assert_close(runner.outputs([x])[0], wanted)
    assert torch.equal(x, inputs(2))
    assert writing.get_buffer("count").item() == 0


@pytest.mark.parametrize("name", names(CRITERIA))
def test_every_criterion_sees_what_it_sees_of_the_same_network_that_writes_nothing(
    name: str, pair: tuple[nn.Module, nn.Module]
) -> None:
    options = SHORT.get(name, {})
    found = [score(model, inputs(2), seen(), criterion=name, criterion_options=options).rankings for model in pair]
    assert found[0].keys() == found[1].keys() != set()
    for group in found[0]:
        assert found[0][group].scores == pytest.approx(found[1][group].scores, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", names(CRITERIA))
def test_pruning_changes_neither_samples_nor_model_and_is_proved(name: str, pair: tuple[nn.Module, nn.Module]) -> None:
    model, samples, example, real = pair[0], seen(), inputs(2), inputs(5, seed=2)
    before = everything(model, samples, example, real)
    options = {"criterion": name, "criterion_options": SHORT.get(name, {})}
    result = prune(model, example, real, samples=samples, **options)
    assert result.proof.holds
    assert result.achieved == pytest.approx(0.5, abs=0.05)
    after = everything(model, samples, example, real)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_sensitivity_measures_the_same(pair: tuple[nn.Module, nn.Module]) -> None:
    samples = seen()
    before = everything(pair[0], samples)
    curves = [sensitivity(model, Probe(samples), criterion="l1").curves for model in pair]
    assert curves[0] == curves[1]
    assert all(torch.equal(a, b) for a, b in zip(before, everything(pair[0], samples), strict=True))


def test_dead_channels_leave_alike(pair: tuple[nn.Module, nn.Module]) -> None:
    with torch.no_grad():
        for model in pair:
            model.get_parameter("second.1.weight")[:2] = 0
            model.get_parameter("second.1.bias")[:2] = 0
    example, real = inputs(2), inputs(5, seed=2)
    emptied = [remove_dead(model, (example,), (real,)) for model in pair]
    assert emptied[0].macs_after == emptied[1].macs_after < emptied[0].macs_before
    assert torch.equal(example, inputs(2))
    assert torch.equal(real, inputs(5, seed=2))
    assert pair[0].get_buffer("count").item() == 0
