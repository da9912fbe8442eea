"""Trained codes: gates where the group is read, sharp at the end, and the same however samples lie in batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.pruning.criteria.gates import SHARPEST, AutoPruner, pressure
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.gating import Gates, gated
from pipeline.pruning.surgery import tensors
from tests.coupled_nets import SIZES, data, evidence, pair, seen_by

QUICK = {"epochs": 2, "lr": 0.01, "pool": 2}


def codes(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(n, generator=generator).double() for name, n in SIZES.items()}


@pytest.mark.parametrize("training", [False, True])
def test_gates_are_on_everything_that_reads_a_group_and_gradients_pass(training: bool) -> None:
    plain, by_hand = pair()
    by_hand.train(training)
    found, given = evidence(plain), codes()
    x, y = data(4)
    for code in given.values():
        code.requires_grad_()
    network = found.watched
    state = tensors(plain)
    runner = Gates(
        network, state, gated(network, network.structure.groups), lambda name, _: given[name], training=training
    )
    F.cross_entropy(runner.returned([x]), y).backward()
    own = {name: code.detach().clone().requires_grad_() for name, code in given.items()}
    F.cross_entropy(by_hand(x, own), y).backward()
    for name, code in own.items():
        torch.testing.assert_close(given[name].grad, code.grad, rtol=1e-5, atol=1e-12)
    for (name, p), q in zip(plain.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-12, msg=name)
    torch.testing.assert_close(plain.norm.running_var, by_hand.norm.running_var)


def by_loops(maps: Tensor, head: nn.Linear, sharpness: float, pool: int) -> list[float]:
    """Codes of a map (samples, channels, H, W) in plain loops."""
    values = maps.double().numpy()
    size = values.shape[2] // pool
    mean = sum(values[n] for n in range(len(values))) / len(values)
    pooled = [
        max(mean[c, i, j] for i in range(a * size, (a + 1) * size) for j in range(b * size, (b + 1) * size))
        for c in range(mean.shape[0])
        for a in range(pool)
        for b in range(pool)
    ]
    weights, biases = head.weight.double().tolist(), head.bias.double().tolist()
    logits = [sum(w * v for w, v in zip(row, pooled, strict=True)) + b for row, b in zip(weights, biases, strict=True)]
    return [float(1 / (1 + np.exp(-sharpness * z))) for z in logits]


def heads_of(found: Evidence, criterion: AutoPruner) -> dict[str, nn.Linear]:
    torch.manual_seed(7)
    network = found.watched
    return {one.name: criterion._head(one) for one in gated(network, network.structure.groups)}


@torch.no_grad()
def test_codes_are_the_sigmoid_of_a_layer_on_the_pooled_mean_map() -> None:
    plain, _ = pair()
    found, criterion = evidence(plain), AutoPruner(pool=2)
    heads = heads_of(found, criterion)
    x, _ = data(4)
    stem = F.relu(plain.stem(x))
    got = criterion._code(heads, 3.0, "stem", stem[:, :, None])
    assert got.tolist() == pytest.approx(by_loops(stem, heads["stem"], 3.0, 2), rel=1e-5)


@torch.no_grad()
def test_final_codes_are_of_all_samples_with_the_codes_before_them_fixed() -> None:
    plain, _ = pair()
    found, criterion = evidence(plain), AutoPruner(pool=2)
    heads, share = heads_of(found, criterion), dict.fromkeys(SIZES, 0.5)
    logits = criterion.settle(found, heads, share)
    x, _ = data(12)
    stem = F.relu(plain.stem(x))
    wanted = by_loops(stem, heads["stem"], SHARPEST, 2)
    assert torch.sigmoid(logits["stem"]).tolist() == pytest.approx(wanted, rel=1e-5)
    kept = torch.tensor(sorted(np.argsort(-logits["stem"].numpy())[:3]))
    fixed = torch.zeros(6).double().index_fill(0, kept, 1)
    inner = F.relu(plain.norm(plain.inner(stem * fixed.view(1, -1, 1, 1))))
    wanted = by_loops(inner, heads["inner"], SHARPEST, 2)
    assert torch.sigmoid(logits["inner"]).tolist() == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_final_codes_do_not_depend_on_the_batches() -> None:
    plain, _ = pair()
    criterion = AutoPruner(pool=2)
    heads, share = heads_of(evidence(plain), criterion), dict.fromkeys(SIZES, 0.5)
    x, y = data(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    several = [seen_by(plain, x[p], y[p], batch) for p, batch in ((slice(None), 12), (slice(None), 3), (order, 4))]
    first, *others = (criterion.settle(e, heads, share) for e in several)
    for other in others:
        for name, logits in first.items():
            torch.testing.assert_close(other[name], logits, rtol=1e-8, atol=1e-8)


def test_codes_end_sharp_and_any_number_can_be_kept() -> None:
    plain, _ = pair()
    found = evidence(plain)
    before = {n: t.clone() for n, t in plain.state_dict().items()}
    criterion = AutoPruner(**QUICK)
    after = criterion.learn(found)
    ranked = criterion.rank(found.network.structure.groups, after)
    assert ranked.keys() == SIZES.keys()
    scores = np.concatenate([r.scores for r in ranked.values()])
    assert (np.abs(scores - 0.5) > 0.45).mean() > 0.9
    for name, size in SIZES.items():
        for k in range(1, size + 1):
            keep = ranked[name].keep(k)
            assert len(set(keep)) == k
            assert after.learned[name][list(keep)].min() >= after.learned[name].topk(k).values[-1]
    again = criterion.learn(found)
    assert all(torch.equal(again.learned[n], t) for n, t in after.learned.items())
    assert all(torch.equal(t, before[n]) for n, t in plain.state_dict().items())
    assert not torch.equal(after.model.stem.weight, plain.stem.weight)
    assert not torch.equal(after.model.norm.running_mean, plain.norm.running_mean)


def test_the_share_of_codes_is_pulled_to_the_share_to_keep() -> None:
    code = torch.tensor([0.9, 0.8, 0.7, 0.1], requires_grad=True)
    loss = pressure(code, 0.5)
    assert loss.item() == pytest.approx(100 * 0.25 * (0.625 - 0.5) ** 2)
    loss.backward()
    assert code.grad is not None
    assert (code.grad > 0).all()  # down
    assert pressure(torch.tensor([0.9, 0.1]), 0.5) == 0  # there is nothing to pull at


@pytest.mark.parametrize("seed", [0, 2])
def test_units_that_the_loss_needs_are_kept(seed: int) -> None:
    """Only the first two of six hidden units carry the label; codes find them, whatever they start as."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(6))
        model[2].weight.copy_(torch.tensor([[4.0, -4.0, 0, 0, 0, 0], [-4.0, 4.0, 0, 0, 0, 0]]))
    x = torch.rand(64, 6)
    y = (x[:, 1] > x[:, 0]).long()
    found = replace(seen_by(model, x, y, 16), seed=seed)
    criterion = AutoPruner(epochs=60, lr=0.02, keep=0.5)
    ranked = criterion.rank(found.network.structure.groups, criterion.learn(found))
    assert {0, 1} <= set(ranked["0"].keep(3))


def test_without_a_reader_there_is_nothing_to_gate() -> None:
    plain, _ = pair()
    found = evidence(plain)
    with pytest.raises(UserError, match="criterion gates: gates what layers read"):
        AutoPruner().rank(found.network.structure.groups, found)
