"""The refit of what reads pruned channels, against numpy's least squares on every patch."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.pruning import engine, prune, score
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.moments import RIDGE
from pipeline.pruning.reconstruct import How, reconstruct
from pipeline.pruning.samples import Samples
from pipeline.pruning.verify import Proof
from tests.pruning_nets import built, lively
from tests.reading_nets import Array, pair, seen_by, unfolded
from tests.test_pipeline_pruning_attributes import Fixed
from tests.test_pipeline_pruning_contributions import ALL, evidence


def batch(known: Evidence) -> Tensor:
    return torch.cat([x for (x,), _ in known.seen.batches])


def halves(known: Evidence) -> dict[str, tuple[int, ...]]:
    """Keep every other unit of every group."""
    return {g.name: tuple(range(0, g.units, 2)) for g in known.network.structure.groups}


def stays_of(known: Evidence, kept: dict[str, tuple[int, ...]], weight: str) -> tuple[Array, int]:
    """Return which columns of a weight stay, and how many groups its convolution has."""
    module = known.model.get_submodule(weight.removesuffix(".weight"))
    stays = np.ones(module.weight.shape[1], bool)
    for group in known.network.structure.groups:
        for member in group.members:
            if member.tensor == weight and member.dim == 1:
                stays[np.delete(member.index, list(kept[group.name]), 0).ravel()] = False
    return stays, getattr(module, "groups", 1)


def errors(known: Evidence, fits: Sequence[nn.Module], kept: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return Σ‖y - ŷ‖² / Σ‖y‖² of every layer that loses inputs: without a fit, the ridge's, the least, as fit."""
    found = {}
    names = [n for n, m in known.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    values = seen_by(known.model, names, batch(known))
    for name in names:
        stays, groups = stays_of(known, kept, f"{name}.weight")
        if stays.all():
            continue
        weights = [m.get_submodule(name).weight.detach().double().numpy() for m in (known.model, *fits)]
        sums = np.zeros(4 + len(fits))
        patches = unfolded(known.model.get_submodule(name), values[name])
        for group, x in enumerate(patches):
            old, *new = (np.split(w, groups)[group].reshape(-1, len(stays), x.shape[2]) for w in weights)
            y = np.einsum("nck,ock->no", x, old)
            without, *after = (np.einsum("nck,ock->no", x[:, stays], w[:, stays]) for w in (old, *new))
            here = x[:, stays].reshape(len(x), -1)
            pull = np.sqrt(RIDGE * np.square(here).sum() / here.shape[1]) * np.eye(here.shape[1])
            rows, wanted = np.concatenate([here, pull]), np.concatenate([y - without, 0 * pull[:, :1] @ y[:1]])
            ridge = without + here @ np.linalg.lstsq(rows, wanted, rcond=None)[0]
            least = here @ np.linalg.lstsq(here, y, rcond=None)[0]
            sums += [np.square(y).sum(), *(np.square(y - r).sum() for r in (without, ridge, least, *after))]
        found[name] = sums[1:] / sums[0]
    return found


@pytest.mark.parametrize("name", ["resnet_b", "vgg", "mobilenetv2", "densenet"])
def test_readers_come_as_near_as_least_squares_can(name: str) -> None:
    model, x = built(name)
    known = evidence(model, x.shape[1:], n=4, batch=2)
    kept = halves(known)
    full, scaled = (reconstruct(known, kept, how, ALL) for how in ("full", "scale"))
    found = errors(known, (full, scaled), kept)
    assert len(found) > 3
    for without, ridge, least, fit, factors in found.values():
        assert fit == pytest.approx(ridge, abs=1e-6)
        assert least - 1e-9 <= fit <= least + 1e-3
        assert fit <= without
        assert least - 1e-9 <= factors <= without + 1e-9
    depthwise = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert not set(depthwise) & set(found)
    others = {n for n, _ in model.named_parameters()} - {f"{n}.weight" for n in found}
    for n in others:
        assert torch.equal(full.get_parameter(n), model.get_parameter(n))


class Copies(nn.Module):
    """Channels 4 to 7 are sums of channels 0 to 3; a grouped convolution and a linear layer read likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.c = nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.c(self.b(self.a(x)))).mean((2, 3)))


def copies() -> Copies:
    torch.manual_seed(0)
    model = Copies()
    lively(model)
    mix = torch.tensor([[0.5, 1.0], [2.0, -1.0]])
    with torch.no_grad():
        for half in (0, 4):  # in each of the two groups of b, channels 2 and 3 say what 0 and 1 do
            for tensor in (model.a.weight, model.a.bias):
                tensor[half + 2 : half + 4] = torch.einsum("ij,j...->i...", mix, tensor[half : half + 2])
    return model.eval()


def test_what_others_say_too_is_restored() -> None:
    model = copies()
    known = evidence(model, (3, 10, 10), n=40, batch=20)
    fit = reconstruct(known, {"a": (0, 1)}, "full")
    x = batch(known)
    gone = torch.tensor([0, 0, 1, 1] * 2).bool()[:, None, None]
    inner = model.a(x).detach().masked_fill(gone, 0)
    torch.testing.assert_close(fit.b(inner), model.b(model.a(x)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.b(inner), model.b(model.a(x)), atol=0.1)
    assert torch.equal(fit.b.bias, model.b.bias)


def test_the_pruned_network_then_is_the_original() -> None:
    model = copies()
    known = evidence(model, (3, 10, 10), n=40, batch=20)
    with torch.no_grad():  # what goes is what says nothing new
        model.b.weight[:, 2:] *= 0.05
    options = {"positions": 50}
    ignored = ("b", "c", "head")
    seen = known.seen
    result = prune(model, seen.example, samples=seen, criterion="lasso", criterion_options=options, ignore=ignored)
    assert result.model.a.out_channels == 4
    assert result.proof.holds
    x = batch(known)
    torch.testing.assert_close(result.model(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("name", ["resnet_b", "densenet"])
def test_any_criterion_can_be_followed_by_a_refit(name: str, form: str) -> None:
    model, x = built(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    inputs = torch.randn(64, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    seen = Samples.of(inputs, torch.zeros(64, dtype=torch.int64))
    settings = {"criterion": "l2", "ratio": 0.3, "granularity": "filter", "form": form}
    plain = prune(model, x, real_inputs=inputs, **settings)
    fit = prune(model, x, real_inputs=inputs, samples=seen, reconstruct=True, **settings)
    assert fit.proof.holds
    assert fit.proof.real is not None
    assert fit.plan.kept.keys() == plain.plan.kept.keys()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    with torch.no_grad():
        wanted = model(inputs)
        off = [float((r.model.eval()(inputs) - wanted).norm() / wanted.norm()) for r in (plain, fit)]
    assert off[1] < 0.9 * off[0]


def test_what_stays_whole_after_all_is_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    real = Evidence.observe
    monkeypatch.setattr(Evidence, "observe", lambda self, *args: (passes.append(args[1]), real(self, *args)))
    torch.manual_seed(0)
    model = Fixed(()).eval()
    seen = evidence(model, (3, 8, 8), n=60, batch=30).seen
    result = prune(model, seen.example, samples=seen, reconstruct=True)
    assert result.frozen == {"proof": ("c.weight",)}
    kept = result.plan.kept
    assert torch.equal(result.model.head.weight, model.head.weight)
    for reader, made in (("b", "a"), ("c", "b")):
        fit, old = (m.get_submodule(reader).weight for m in (result.model, model))
        rows = kept.get(f"{reader}.weight", {}).get(0, np.arange(len(old)))
        assert not torch.equal(fit, old[rows][:, kept[f"{made}.weight"][0]])
    assert passes == ["reconstruct: inputs of layers"]  # once, after the last proof


@pytest.mark.parametrize("how", ["full", "scale"])
def test_dead_inputs_and_few_samples_break_nothing(how: How) -> None:
    model = pair()
    with torch.no_grad():
        model.a.weight[[0, 2]] = 0
        model.a.bias[[0, 2]] = -1
    known = evidence(model, (3, 8, 8), n=1, batch=1)
    for units in ((0, 2), (0, 1, 2, 3)):  # of the first nothing is left to fit
        fit = reconstruct(known, {"a": units}, how, 1)
        assert fit.b.weight.isfinite().all()
        assert torch.equal(fit.b.weight[:, [0, 2]], model.b.weight[:, [0, 2]])


def test_with_fewer_samples_than_weights_the_least_change_is_made() -> None:
    model = pair()
    known = evidence(model, (3, 8, 8), n=4, batch=4)
    fit = reconstruct(known, {"a": (0, 1, 2, 3, 4)}, "full", 2)
    x = model.a(batch(known)).relu().detach()
    assert known.seen.batches[0][0][0].shape[0] * 2 < 5 * 9  # samples, weights of an output
    change = (fit.b.weight - model.b.weight).detach()
    assert change.norm() < 5 * model.b.weight.norm()
    masked = x.clone()
    masked[:, 5:] = 0
    assert (fit.b(masked) - model.b(x)).norm() < (model.b(masked) - model.b(x)).norm()


class Tied(nn.Module):
    """A weight that another op uses too: it is not to be fit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x))) + x * self.b.weight.square().sum()


def test_weights_that_other_ops_use_stay() -> None:
    model = lively(Tied())
    known = evidence(model, (5,), n=20, batch=20)
    assert reconstruct(known, {"a": (0, 1)}) is model


def test_without_samples_or_with_bad_ones_it_says_so() -> None:
    model = pair()
    known = evidence(model, (3, 8, 8))
    x = known.seen.example
    with pytest.raises(UserError, match="reconstruct: fits weights to samples, and none were given"):
        prune(model, x, reconstruct=True)
    scored = score(model, x, known.seen, criterion="thinet")
    with pytest.raises(UserError, match="criterion thinet: looks at samples, and none were given"):
        prune(model, x, scored=scored, criterion="thinet")
    known.seen.batches[0][0][0][0, 0, 0, 0] = torch.inf
    with pytest.raises(UserError, match=r"reconstruct: what b\.weight reads of the samples is not finite"):
        prune(model, torch.randn(2, 3, 8, 8), samples=known.seen, reconstruct=True)


def test_a_fit_that_cannot_be_proved_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pair()
    proofs = iter([Proof(0.0), Proof(0.1)])
    monkeypatch.setattr(engine, "prove", lambda *_: next(proofs))
    seen = evidence(model, (3, 8, 8)).seen
    with pytest.raises(UserError, match="reconstruct: with the weights fit anew the pruned model differs by 1e-01"):
        prune(model, seen.example, samples=seen, reconstruct=True)
