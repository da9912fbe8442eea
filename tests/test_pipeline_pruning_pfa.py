"""Principal filter analysis against plain loops: who is correlated with whom, and how wide a layer has to be."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.allocate import energy_wants, kl_wants
from pipeline.pruning.criteria.base import Ranking
from pipeline.pruning.criteria.pfa import Pfa, removal_order, spectrum
from pipeline.pruning.groups import Group
from pipeline.pruning.samples import Samples
from tests.criteria_evidence import evidence, inputs_of, ranked, recorded, seen_by
from tests.pruning_nets import built


def covariance_by_hand(responses: list[list[float]]) -> list[list[float]]:
    n, units = len(responses), range(len(responses[0]))
    mean = [sum(r[u] for r in responses) / n for u in units]
    return [[sum((r[a] - mean[a]) * (r[b] - mean[b]) for r in responses) / n for b in units] for a in units]


def order_by_hand(covariance: list[list[float]]) -> list[int]:
    """The paper's loop: drop the one with the largest sum of |correlation| to all that are left, and again."""
    left, gone = [u for u in range(len(covariance)) if covariance[u][u] > 1e-12], []
    dead = [u for u in range(len(covariance)) if covariance[u][u] <= 1e-12]
    while left:
        sums = {
            a: sum(abs(covariance[a][b]) / math.sqrt(covariance[a][a] * covariance[b][b]) for b in left if b != a)
            for a in left
        }
        worst = max(u for u in left if sums[u] > max(sums.values()) - 1e-9)
        left.remove(worst)
        gone.append(worst)
    return dead[::-1] + gone


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_order_and_spectrum_follow_from_pooled_responses(pool: str) -> None:
    found = evidence("vgg", n=24, batch_size=8)
    with recorded(found.model, "features.6") as seen, torch.no_grad():
        found.model(inputs_of(found))
    maps = seen["features.6"].double().flatten(2)
    responses = (maps.amax(2) if pool == "max" else maps.mean(2)).tolist()
    by_hand = covariance_by_hand(responses)
    ranking = ranked(Pfa(pool=pool), found)["features.4"]  # type: ignore[arg-type]
    assert np.argsort(ranking.scores).tolist() == order_by_hand(by_hand)
    wanted = np.sort(np.linalg.eigvals(np.array(by_hand)).real)[::-1]
    assert ranking.spectrum == pytest.approx(wanted, rel=1e-5, abs=1e-5 * wanted[0])


def test_a_coupled_stage_has_the_mean_covariance_of_its_maps() -> None:
    found = evidence("densenet", n=16, batch_size=4)
    relus: list[torch.Tensor] = []
    for norm in found.model.norms:
        norm.register_forward_hook(lambda _m, _i, out: relus.append(out.detach().relu()))
    with torch.no_grad():
        found.model(inputs_of(found))
    by_hand = np.mean([covariance_by_hand(m[:, :16].double().amax((2, 3)).tolist()) for m in relus], axis=0)
    ranking = ranked(Pfa(), found)["stem"]
    assert np.argsort(ranking.scores).tolist() == order_by_hand(by_hand.tolist())
    assert ranking.spectrum == pytest.approx(np.sort(np.linalg.eigvals(by_hand).real)[::-1], abs=1e-5)


def test_streaming_does_not_depend_on_batches() -> None:
    model, x = built("lenet")
    images = torch.randn(24, *x.shape[1:]) + 100  # a mean far from zero, where sums of squares lose digits
    spectra = [ranked(Pfa(), seen_by(model, images, size))["conv1"].spectrum for size in (24, 3)]
    assert spectra[0] == pytest.approx(spectra[1], rel=1e-4)


def test_dead_channels_go_first_and_crash_nothing() -> None:
    found = evidence("vgg", n=12, batch_size=4)
    for dead, shift in ((3, 0.0), (9, 2.5)):  # silent, and constant above zero
        found.model.features[1].weight.data[dead] = 0.0
        found.model.features[1].bias.data[dead] = shift
    ranking = ranked(Pfa(), found)["features.0"]
    with recorded(found.model, "features.1") as seen, torch.no_grad():
        found.model(inputs_of(found))
    dead = np.flatnonzero(seen["features.1"].relu().amax((2, 3)).var(0) < 1e-12)
    assert {3, 9} <= {*dead.tolist()} != {*range(16)}
    assert np.argsort(ranking.scores)[: len(dead)].tolist() == dead[::-1].tolist()
    found.model.features[1].weight.data[:] = 0.0
    result = prune(found.model, found.seen.example, samples=found.seen, criterion="pfa", scope="pfa_kl")
    assert result.proof.holds
    assert len(result.plan.kept["features.0.weight"][0]) == 1


def test_of_copies_one_stays() -> None:
    generator = np.random.default_rng(0)
    three = generator.standard_normal((200, 3))
    responses = three[:, [0, 0, 1, 2, 0, 1]]
    covariance = np.cov(responses.T)
    order = removal_order(covariance, np.ones(6, bool))
    assert {(0, 0, 1, 2, 0, 1)[u] for u in order[3:]} == {0, 1, 2}
    assert np.count_nonzero(spectrum(covariance)) == 3


def test_one_sample_is_refused() -> None:
    model, x = built("vgg")
    one = Samples.of(x[:1], torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UserError, match="criterion pfa: one sample shows no correlation"):
        prune(model, x, samples=one, criterion="pfa")


def groups(*units: int) -> list[Group]:
    return [Group(f"g{i}", n, 1, ()) for i, n in enumerate(units)]


def with_spectra(*values: list[float]) -> list[Ranking]:
    return [Ranking(np.arange(len(v), dtype=float), spectrum=np.array(v)) for v in values]


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_energy_is_one_share_for_all_groups(ratio: float) -> None:
    """What stays are the fewest directions that hold the share, for the least share that removes no more."""
    generator = np.random.default_rng(3)
    spectra = [np.sort(generator.exponential(size=n) ** 2)[::-1].tolist() for n in (20, 10, 30)]
    kept = energy_wants(groups(20, 10, 30), with_spectra(*spectra), ratio)

    def fewest(spectrum: list[float], share: float) -> int:
        return next(k for k in range(len(spectrum) + 1) if sum(spectrum[:k]) >= share * sum(spectrum) * (1 - 1e-12))

    def removed(share: float) -> float:
        return 1 - sum(fewest(s, share) for s in spectra) / 60

    shares = [sum(s[:k]) / sum(s) for s in spectra for k in range(len(s) + 1)]
    share = min((s for s in shares if removed(s) <= ratio + 1e-9), default=1.0)
    assert kept == [fewest(s, share) for s in spectra]


def test_energy_serves_a_budget_of_work() -> None:
    found = evidence("vgg", n=16, batch_size=8)
    result = prune(
        found.model, found.seen.example, samples=found.seen, criterion="pfa", scope="energy", target="macs", ratio=0.5
    )
    assert result.achieved == pytest.approx(0.5, abs=0.03)
    assert result.proof.holds


def test_kl_keeps_all_of_a_flat_spectrum_and_one_direction_of_a_line() -> None:
    flat, line, half, none, one = [2.0] * 8, [5.0] + [0.0] * 7, [1.0] * 4 + [0.0] * 4, [0.0] * 8, [3.0]
    kept = kl_wants(groups(8, 8, 8, 8, 1), with_spectra(flat, line, half, none, one), 0.5)
    assert kept == pytest.approx([8, 0, 8 * math.log(4) / math.log(8), 0, 1])


def test_kl_is_the_divergence_of_the_paper() -> None:
    values = [4.0, 2.0, 1.0, 0.5, 0.5]
    divergence = sum(v / 8 * math.log((v / 8) / (1 / 5)) for v in values)
    assert kl_wants(groups(5), with_spectra(values), 0.9) == pytest.approx(
        [5 * (1 - divergence / math.log(5))], rel=1e-9
    )


def test_kl_takes_no_ratio() -> None:
    found = evidence("vgg", n=16, batch_size=8)
    results = [
        prune(found.model, found.seen.example, samples=found.seen, criterion="pfa", scope="pfa_kl", ratio=r)
        for r in (0.1, 0.9)
    ]
    assert results[0].plan.groups == results[1].plan.groups
    assert results[0].requested == results[0].achieved > 0


@pytest.mark.parametrize("scope", ["energy", "pfa_kl"])
def test_criteria_without_eigenvalues_are_refused(scope: str) -> None:
    model, x = built("vgg")
    with pytest.raises(UserError, match=f"scope {scope}: sets widths by eigenvalues") as error:
        prune(model, x, criterion="l1", scope=scope)
    assert "\n" not in str(error.value)


def test_units_of_linear_layers_have_responses_too() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    assert ranked(Pfa(), seen_by(model, x, 8))["0"].scores.shape == (8,)
