"""Factors as modules, against convolutions in plain loops over float64."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.lowrank.base import Call, relative_error, whole_macs
from pipeline.lowrank.cp import Cp
from pipeline.lowrank.methods import METHODS, candidates
from pipeline.lowrank.modules import build
from pipeline.lowrank.sites import weight_of
from pipeline.lowrank.svd import Svd
from pipeline.lowrank.tucker import Tucker
from pipeline.pruning import count

PADS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def by_loops(x: np.ndarray, layer: nn.Module, weight: np.ndarray) -> np.ndarray:
    """What `layer` gives for one image (C, *space) with another weight, a position at a time."""
    dims = weight.ndim - 2
    reach = [(k - 1) * d for k, d in zip(weight.shape[2:], layer.dilation, strict=True)]
    pad = [(r // 2, r - r // 2) for r in reach]
    if layer.padding != "same":
        pad = [(p, p) for p in layer.padding] if not isinstance(layer.padding, str) else [(0, 0)] * dims
    x = np.pad(x, [(0, 0), *pad], mode=PADS[layer.padding_mode])
    size = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[1:], reach, layer.stride, strict=True)]
    out = np.zeros((len(weight), *size))
    for place in itertools.product(*map(range, size)):
        for tap in itertools.product(*map(range, weight.shape[2:])):
            at = tuple(p * s + t * d for p, s, t, d in zip(place, layer.stride, tap, layer.dilation, strict=True))
            out[(slice(None), *place)] += weight[(slice(None), slice(None), *tap)] @ x[(slice(None), *at)]
    bias = 0 if layer.bias is None else layer.bias.detach().double().numpy().reshape(-1, *(1,) * dims)
    return out + bias


def whole_ranks(name: str, weight: np.ndarray) -> tuple[int, ...]:
    """The ranks at which nothing is lost."""
    return tuple(min(m.shape) for m in METHODS[name].unfoldings(weight))


CONVS = {
    "plain": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "no bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 0)),
    "dilated": lambda: nn.Conv2d(4, 6, (3, 2), dilation=(2, 3), padding=(2, 1)),
    "same": lambda: nn.Conv2d(4, 6, (5, 3), dilation=(1, 2), padding="same"),
    "valid": lambda: nn.Conv2d(4, 6, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=2, padding_mode="replicate"),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "one sided": lambda: nn.Conv2d(4, 6, (1, 5), stride=(2, 1), padding=(0, 2)),
    "more inputs": lambda: nn.Conv2d(7, 3, 3),
    "1d": lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2),
    "3d": lambda: nn.Conv3d(3, 4, (3, 2, 3), padding=(1, 0, 1)),
}


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("name", ["svd", "tucker"])
def test_at_full_rank_it_is_the_layer(name: str, kind: str) -> None:
    torch.manual_seed(0)
    layer = CONVS[kind]()
    weight = weight_of(layer)
    ranks = whole_ranks(name, weight)
    made = build(layer, METHODS[name], ranks, METHODS[name].factors(weight, ranks))
    x = torch.randn(layer.in_channels, *(9, 8, 7)[: weight.ndim - 2])
    got = made(x[None]).detach().double().numpy()[0]
    np.testing.assert_allclose(got, by_loops(x.double().numpy(), layer, weight), atol=1e-5)


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("name", METHODS)
def test_modules_compute_what_their_factors_multiply_to(name: str, kind: str) -> None:
    torch.manual_seed(0)
    layer = CONVS[kind]()
    method = METHODS[name]
    ranks = tuple(max(r // 2, 1) for r in whole_ranks("tucker", weight_of(layer)))[: 2 if name == "tucker" else 1]
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=s) for s in method.shapes(tuple(layer.weight.shape), ranks)]
    product = method.product(factors)
    assert product.shape == tuple(layer.weight.shape)
    x = torch.randn(layer.in_channels, *(9, 8, 7)[: product.ndim - 2])
    got = build(layer, method, ranks, factors)(x[None]).detach().double().numpy()[0]
    expected = by_loops(x.double().numpy(), layer, product)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_the_layers_are_those_of_the_papers() -> None:
    layer = nn.Conv2d(8, 12, 3, stride=2, padding=1)
    made = {
        name: [(type(p), tuple(p.weight.shape), p.stride, p.groups, p.bias is not None) for p in build(layer, m, ranks)]
        for (name, m), ranks in zip(METHODS.items(), [(5,), (4, 6), (7,)], strict=True)
    }
    conv = nn.Conv2d
    assert made["svd"] == [(conv, (5, 8, 3, 3), (2, 2), 1, False), (conv, (12, 5, 1, 1), (1, 1), 1, True)]
    assert made["tucker"] == [
        (conv, (4, 8, 1, 1), (1, 1), 1, False),
        (conv, (6, 4, 3, 3), (2, 2), 1, False),
        (conv, (12, 6, 1, 1), (1, 1), 1, True),
    ]
    assert made["cp"] == [
        (conv, (7, 8, 1, 1), (1, 1), 1, False),
        (conv, (7, 1, 3, 1), (2, 1), 7, False),
        (conv, (7, 1, 1, 3), (1, 2), 7, False),
        (conv, (12, 7, 1, 1), (1, 1), 1, True),
    ]


def test_matrices_have_one_method_and_auto_leaves_cp_out() -> None:
    for name in (*METHODS, "auto"):
        assert [m.name for m in candidates(name, (8, 4))] == ["svd"]
        assert [m.name for m in candidates(name, (8, 4, 1, 1))] == ["svd"]
    assert [m.name for m in candidates("auto", (8, 4, 3, 3))] == ["svd", "tucker"]
    assert [m.name for m in candidates("cp", (8, 4, 3, 3))] == ["cp"]


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_loses_what_its_last_singular_values_hold(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(9, 7, bias=bias)
    weight = weight_of(layer)
    s = np.linalg.svd(weight, compute_uv=False)
    for rank in (1, 4, 7):
        factors = Svd().factors(weight, (rank,))
        lost = sum(float(v) ** 2 for v in s[rank:]) / sum(float(v) ** 2 for v in s)
        assert relative_error(weight, Svd().product(factors)) == pytest.approx(lost**0.5, abs=1e-9)
    made = build(layer, Svd(), (7,), factors)
    x = torch.randn(5, 3, 9)
    torch.testing.assert_close(made(x), layer(x), atol=1e-5, rtol=0)


def test_tucker_is_no_worse_than_truncating_the_bases() -> None:
    weight = np.random.default_rng(0).normal(size=(10, 8, 3, 3))
    u, v = (np.linalg.svd(np.moveaxis(weight, m, 0).reshape(n, -1))[0] for m, n in ((0, 10), (1, 8)))
    u, v = u[:, :6] @ u[:, :6].T, v[:, :5] @ v[:, :5].T
    truncated = np.einsum("ao,bi,oihw->abhw", u, v, weight)
    fitted = Tucker().product(Tucker().factors(weight, (5, 6)))
    assert relative_error(weight, fitted) <= relative_error(weight, truncated) + 1e-9


def test_cp_finds_a_sum_of_separable_kernels() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 3)) for n in (12, 9, 3, 3)]
    weight = np.einsum("or,ir,hr,wr->oihw", *parts)
    factors = Cp().factors(weight, (3,))
    assert relative_error(weight, Cp().product(factors)) < 1e-2
    norms = [[np.linalg.norm(f.reshape(3, -1)[r]) for f in factors[:-1]] for r in range(3)]
    assert all(max(n) / min(n) < 1 + 1e-6 for n in norms)  # no layer has tiny and no other huge weights


def test_cp_does_not_change_what_other_users_of_the_library_compute() -> None:
    import tensorly

    before = tensorly.get_backend(), tensorly.tenalg.get_backend()
    Cp().factors(np.random.default_rng(0).normal(size=(4, 4, 3, 3)), (2,))
    assert (tensorly.get_backend(), tensorly.tenalg.get_backend()) == before


def test_a_fit_that_breaks_down_is_told_by_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise np.linalg.LinAlgError

    monkeypatch.setattr("pipeline.lowrank.cp._fit", broken)
    weight = np.ones((4, 4, 3, 3))
    assert relative_error(weight, Cp().product(Cp().factors(weight, (2,)))) == float("inf")


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("name", METHODS)
def test_work_is_that_of_the_modules(name: str, kind: str) -> None:
    layer = CONVS[kind]()
    method, shape = METHODS[name], tuple(layer.weight.shape)
    ranks = (2, 3) if name == "tucker" else (3,)
    x = torch.randn(2, layer.in_channels, *(9, 8, 7)[: len(shape) - 2])
    call = Call(2, tuple(x.shape[2:]), tuple(layer(x).shape[2:]))
    made = build(layer, method, ranks, [np.ones(s) for s in method.shapes(shape, ranks)])
    assert method.macs(shape, ranks, [call]) == count(made, x).macs
    assert whole_macs(shape, [call]) == count(layer, x).macs
    biased = layer.bias is not None
    assert method.params(shape, ranks) + biased * shape[0] == sum(p.numel() for p in made.parameters())


def test_dtype_mode_and_gradients_are_the_layers() -> None:
    layer = nn.Conv2d(4, 6, 3).to(torch.float64).requires_grad_(False).eval()
    state = torch.get_rng_state()
    made = build(layer, Tucker(), (2, 2))
    assert torch.equal(torch.get_rng_state(), state)  # a training that goes on is not changed
    assert not made.training
    assert all(p.dtype == torch.float64 and not p.requires_grad for p in made.parameters())
    assert made[-1].bias is layer.bias
    assert all(part.weight.isnan().all() for part in made)
