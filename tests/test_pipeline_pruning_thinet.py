"""ThiNet: greedy removal by the next layer's response, from plain loops over outputs, and the rescaling."""

import numpy as np
import pytest
import torch

from pipeline.pruning import prune
from pipeline.pruning.criteria.thinet import Thinet, removal
from pipeline.pruning.samples import Samples
from tests.pruning_nets import built
from tests.reading_nets import Array, added, pair, seen_by
from tests.test_pipeline_pruning_contributions import evidence


def slow_order(x: Array) -> list[int]:
    """Return the units in the order they go, from what each adds to every output, (units, outputs)."""
    gone: list[int] = []
    while len(gone) < len(x):
        rest = [u for u in range(len(x)) if u not in gone]
        errors = [sum(sum(x[t, i] for t in [*gone, u]) ** 2 for i in range(x.shape[1])) for u in rest]
        gone.append(rest[int(np.argmin(errors))])
    return gone


def test_the_greedy_order_is_that_of_the_paper() -> None:
    model = pair()
    known = evidence(model, (3, 8, 8))
    (group,) = known.network.structure.groups
    ranked = Thinet(positions=100).rank([group], known)["a"]
    value = seen_by(model, ["b"], torch.cat([x for (x,), _ in known.seen.batches]))["b"]
    order = slow_order(added(model.b, value, [[c] for c in range(8)]))
    assert np.argsort(ranked.scores).tolist() == order
    for k in range(1, 8):
        assert ranked.keep(k) == tuple(sorted(order[8 - k :]))


def test_what_cancels_goes_together() -> None:
    """1ᵀG1 of the pair is zero, though either is the largest by itself."""
    x = np.array([[5.0, 0, 0], [-5, 0, 0.1], [0, 1, 0], [0, 0.9, 0.5]])
    assert np.argsort(removal(x @ x.T)).tolist() == slow_order(x)
    assert np.argsort(removal(x @ x.T))[-2:].tolist() != [2, 3]


@pytest.mark.parametrize("outputs", [0, 1])
def test_a_small_filter_that_the_next_layer_needs_stays(outputs: int) -> None:
    """The L1 norm of the filters removes it; what counts is the response of the next layer."""
    model = pair()
    with torch.no_grad():
        model.a.bias.zero_()
        model.a.weight[2] *= 0.01
        model.b.weight[:, 2] *= 1e4
    seen = evidence(model, (3, 8, 8), n=12).seen
    options = {"outputs": outputs}
    by_response = prune(model, seen.example, samples=seen, criterion="thinet", criterion_options=options, ratio=0.8)
    by_norm = prune(model, seen.example, criterion_options={"readers": False}, ratio=0.8)
    assert 2 in by_response.plan.kept["a.weight"][0]
    assert 2 not in by_norm.plan.kept["a.weight"][0]


def test_rescaling_is_the_least_squares_of_the_paper() -> None:
    """ŵ = argmin Σ (ŷ - wᵀ x̂*)² over all outputs: every channel's weights in the reader times one factor."""
    model = pair()
    seen = evidence(model, (3, 8, 8)).seen
    options = {"positions": 100}
    result = prune(model, seen.example, samples=seen, criterion="thinet", criterion_options=options, ratio=0.5)
    stays = result.plan.kept["a.weight"][0]
    value = seen_by(model, ["b"], torch.cat([x for (x,), _ in seen.batches]))["b"]
    x = added(model.b, value, [[c] for c in range(8)])
    factors = np.linalg.lstsq(x[stays].T, x.sum(0), rcond=None)[0]
    wanted = model.b.weight.detach()[:, stays] * torch.from_numpy(factors).float()[:, None, None]
    torch.testing.assert_close(result.model.b.weight.detach(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(result.model.b.bias, model.b.bias)
    assert np.abs(factors - 1).max() > 0.01
    assert result.proof.holds


def test_one_factor_per_channel_after_a_flatten() -> None:
    model, x = built("lenet")
    inputs = torch.randn(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    seen = Samples.of(inputs, torch.zeros(40, dtype=torch.int64), batch_size=20)
    result = prune(model, x, samples=seen, criterion="thinet", ratio=0.5)
    kept = result.plan.kept["fc1.weight"]
    ratios = result.model.fc1.weight.detach() / model.fc1.weight.detach()[kept[0]][:, kept[1]]
    ratios = ratios.reshape(len(ratios), -1, 25)
    torch.testing.assert_close(ratios, ratios[:1, :, :1].expand_as(ratios), rtol=1e-4, atol=1e-5)
    assert (ratios[0, :, 0] - 1).abs().max() > 0.01
