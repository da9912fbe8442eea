"""What units add to the layers that read them, against plain loops over every output."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.contributions import Gram, contributions
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.moments import Moments, readings
from pipeline.pruning.network import network_of
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import capture
from tests.pruning_nets import built, lively
from tests.reading_nets import added, pair, seen_by

UNEVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even")
ALL = 10_000  # more places than any layer has


def evidence(model: nn.Module, shape: tuple[int, ...], n: int = 6, batch: int = 3) -> Evidence:
    inputs = torch.randn(n, *shape, generator=torch.Generator().manual_seed(2))
    seen = Samples.of(inputs, torch.zeros(n, dtype=torch.int64), batch_size=batch)
    x = inputs[:2]
    return Evidence(model, network_of(model, capture(model, (x,)), (x,), Settings()), seen)


def found(known: Evidence, positions: int = ALL, outputs: int = 0) -> dict[str, Gram]:
    return contributions(known.network.structure.groups, known, positions, outputs)


class Odd(nn.Module):
    """Readers with strides, dilations, uneven padding, groups and a flatten; two that read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.c = nn.Conv2d(8, 8, 3, padding="same", groups=2)
        self.d = nn.Conv2d(8, 6, 2, padding="same", dilation=1)
        self.head = nn.Linear(6 * 5 * 8, 4)
        self.other = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.a(x))
        return self.head(F.relu(self.b(x)).flatten(1)), self.other(self.d(self.c(x)).permute(0, 2, 3, 1))


READERS = {  # of Odd: group -> the layers that read it, and the channels there of every unit
    "a": [("b", [[c, c + 4] for c in range(4)]), ("c", [[c, c + 4] for c in range(4)])],
    "b": [("head", [list(range(40 * c, 40 * c + 40)) for c in range(6)])],
    "c": [("d", [[c, c + 4] for c in range(4)])],
    "d": [("other", [[c] for c in range(6)])],
}


@UNEVEN
def test_contributions_are_those_of_plain_loops() -> None:
    model = lively(Odd())
    known = evidence(model, (3, 12, 12))
    got = found(known)
    values = seen_by(model, ["b", "c", "d", "head", "other"], torch.cat([x for (x,), _ in known.seen.batches]))
    assert got.keys() == READERS.keys()
    for group, reading in READERS.items():
        wanted = np.zeros_like(got[group])
        for layer, units in reading:
            x = added(model.get_submodule(layer), values[layer], units)
            wanted += x @ x.T / np.square(x.sum(0)).sum()
        assert got[group] == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def test_layers_that_read_several_groups_are_relative_to_all_of_it() -> None:
    known = evidence(*(built("densenet")[0], (3, 16, 16)))
    got = found(known)
    layers = ["layers.0", "layers.1", "layers.2", "transition"]
    values = seen_by(known.model, layers, torch.cat([x for (x,), _ in known.seen.batches]))
    wanted = np.zeros((8, 8))
    for layer in layers[2:]:
        module = known.model.get_submodule(layer)
        x = added(module, values[layer], [[24 + c] for c in range(8)])
        whole = added(module, values[layer], [list(range(values[layer].shape[1]))])
        wanted += x @ x.T / np.square(whole).sum()
    assert got["layers.1"] == pytest.approx(wanted, rel=1e-5, abs=1e-7)


class Twice(nn.Module):
    """A layer that is called twice, with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x))) + self.b(torch.tanh(self.a(x)))


def test_calls_of_one_layer_add_up() -> None:
    model = lively(Twice())
    known = evidence(model, (7, 5))
    hidden = model.a(torch.cat([x for (x,), _ in known.seen.batches])).detach()
    units = [[c] for c in range(6)]
    x = np.concatenate([added(model.b, value, units) for value in (F.relu(hidden), torch.tanh(hidden))], 1)
    assert found(known)["a"] == pytest.approx(x @ x.T / np.square(x.sum(0)).sum(), rel=1e-5)


@pytest.mark.parametrize("outputs", [0, 1])
@pytest.mark.parametrize("name", ["vgg", "mobilenetv2"])
def test_the_sample_does_not_depend_on_the_batch_size(name: str, outputs: int) -> None:
    model, x = built(name)
    one, other = (found(evidence(model, x.shape[1:], batch=n), 3, outputs) for n in (2, 6))
    assert one.keys() == other.keys()
    for group, gram in one.items():
        assert gram == pytest.approx(other[group], rel=1e-4, abs=1e-5)
    again = found(evidence(model, x.shape[1:], batch=2), 3, outputs)
    assert all(np.array_equal(gram, again[group]) for group, gram in one.items())


@UNEVEN
def test_few_places_and_outputs_estimate_what_all_of_them_give() -> None:
    model = lively(Odd())
    known = evidence(model, (3, 12, 12), n=300, batch=100)
    exact = found(known)
    for gram in (found(known, 20), found(known, 20, 1)):
        for group, wanted in exact.items():
            assert np.abs(gram[group] - wanted).max() < 0.15 * np.abs(wanted).max()


def test_depthwise_convolutions_are_not_what_reads_a_channel() -> None:
    known = evidence(built("mobilenetv2")[0], (3, 32, 32))
    got = found(known)
    assert got["features.0.0"].shape == (16, 16)
    value = seen_by(known.model, ["features.1.conv.1"], torch.cat([x for (x,), _ in known.seen.batches]))
    x = added(known.model.get_submodule("features.1.conv.1"), value["features.1.conv.1"], [[c] for c in range(16)])
    assert got["features.0.0"] == pytest.approx(x @ x.T / np.square(x.sum(0)).sum(), rel=1e-4, abs=1e-7)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


def test_transposed_convolutions_do_not_count() -> None:
    assert found(evidence(lively(Transposed()), (3, 8, 8))) == {}


@UNEVEN
def test_samples_that_are_not_finite_are_named() -> None:
    known = evidence(lively(Odd()), (3, 12, 12))
    known.seen.batches[1][0][0][0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"samples: what b\.weight makes of them is not finite"):
        found(known)


@pytest.mark.parametrize("criterion", ["lasso", "thinet"])
@pytest.mark.parametrize(("ratio", "stays"), [(0.25, 6), (0.1, 7)])
def test_dead_channels_go_first_and_break_nothing(criterion: str, ratio: float, stays: int) -> None:
    model = pair()
    with torch.no_grad():
        model.a.weight[[1, 6]] = 0
        model.a.bias[[1, 6]] = -1
    seen = evidence(model, (3, 8, 8)).seen
    result = prune(model, seen.example, samples=seen, criterion=criterion, ratio=ratio)
    kept = result.plan.kept["a.weight"][0].tolist()
    assert len(kept) == result.model.a.out_channels == stays
    assert {0, 2, 3, 4, 5, 7} <= set(kept)
    assert all(p.isfinite().all() for p in result.model.parameters())


@pytest.mark.parametrize("samples", [10, 1000])
def test_both_forms_of_the_moments_say_the_same(samples: int) -> None:
    """Patches are kept while they are few; the second form is their sums."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 2, 6, generator=generator, dtype=torch.float64)
    moments = Moments(samples, 2, 6)
    moments.add(rows[:4])
    moments.add(rows[4:])
    some, others = torch.tensor([4, 1]), torch.tensor([0, 5, 3])
    for group in range(2):
        x = rows[:, group].numpy()
        wanted = np.array([[sum(x[:, i] * x[:, j]) for j in others] for i in some])
        assert moments.between(group, some, others).numpy() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_moments_take_the_smaller_form() -> None:
    assert Moments(2560, 1, 4608)._sums is None
    assert Moments(2560, 1, 576)._sums is not None


def test_a_convolution_in_one_and_three_dimensions_is_read() -> None:
    for kind, shape in ((nn.Conv1d, (9,)), (nn.Conv3d, (5, 6, 4))):
        layer = kind(3, 4, 3, padding=1, stride=2)
        value = torch.randn(2, 3, *shape)
        (reading,) = readings(capture(layer.eval(), (value,))).values()
        patches = reading.patches(value, torch.arange(reading.places))
        rows = (patches.double() @ reading.matrix(layer.weight)[0].T)[:, 0] + layer.bias.detach().double()
        wanted = layer(value).detach().double().flatten(2).movedim(1, 2).reshape(-1, 4)
        torch.testing.assert_close(rows, wanted, rtol=1e-5, atol=1e-5)
