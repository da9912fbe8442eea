"""Factorise a model: choose, fit, replace, prove."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.extras import missing
from pipeline.lowrank.base import Array, Method, Shape, relative_error
from pipeline.lowrank.candidates import Proposal, candidate
from pipeline.lowrank.choose import Of, Options, choose
from pipeline.lowrank.methods import AUTO, METHODS, candidates
from pipeline.lowrank.modules import replace
from pipeline.lowrank.plan import WHOLE, Factorized, LowRankPlan
from pipeline.lowrank.ranks import Energy, Ranks
from pipeline.lowrank.sites import Site, find
from pipeline.plugins import did_you_mean
from pipeline.pruning.counters import work
from pipeline.pruning.interpret import GraphRunner
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import Captured, Inputs, as_inputs, capture
from pipeline.pruning.verify import Proof, comparable, culprits, lively, prove

UNPROVEN = "the model's forward needs the layer itself"
SLACK = 0.01  # of the error that ranks promise: iterations stop before they converge


@dataclass(frozen=True)
class LayerResult:
    """One layer before and after; multiply-accumulates are of all its runs, parameters with the bias."""

    name: str
    method: str  # "whole" where it stayed as it was
    ranks: tuple[int, ...]
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    rel_error: float | None = None  # norm of the difference of the weights over the norm of the weight
    why: str = ""  # it stayed whole


@dataclass(frozen=True)
class LowRankResult:
    """A factorised model and how it came about.

    Multiply-accumulates are those of one run on the example inputs. The proof compares the model with the original
    whose weights are the products of the factors.
    """

    model: nn.Module
    plan: LowRankPlan
    layers: tuple[LayerResult, ...]
    proof: Proof
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int


@dataclass(frozen=True)
class _Made:
    """A fitted factorisation; the factors are as the model's precision has them."""

    site: Site
    method: Method
    ranks: Shape
    macs: int
    factors: tuple[Array, ...]
    weight: Array  # the product of the factors
    error: float


def factorize(
    model: nn.Module,
    example_inputs: Any,
    *,
    method: str = AUTO,
    ranks: Ranks = Energy(0.9),  # noqa: B008 - frozen
    ignore: Sequence[str] = (),
    round_to: int = 1,
) -> LowRankResult:
    """Replace linear layers and convolutions of a copy of `model` by successive smaller ones, where that is less work.

    `method` is "svd", "tucker", "cp" or "auto", the cheaper of the first two for every layer; see their classes in
    `pipeline.lowrank`. `ranks` is `Energy`, `Vbmf` or `Budget`; ranks are rounded up to multiples of `round_to`.
    `ignore` names layers to leave whole, wildcards allowed. Grouped and transposed convolutions, layers whose
    weights are read outside of them, and what would not get cheaper stay whole too, and are named with the reason.
    A fit whose error is above what its ranks promise is not used (Phan et al., ECCV 2020).

    Raises UserError for impossible settings, a budget that cannot be met, weights that are not finite, and a model
    that `torch.export` cannot capture.
    """
    _check(method, round_to)
    inputs = as_inputs(example_inputs)
    captured = capture(model, inputs)
    per_layer: dict[str, int] = {}
    for item in work(captured):
        per_layer[item.name] = per_layer.get(item.name, 0) + item.macs
    total: dict[Of, int] = {"macs": sum(per_layer.values()), "params": sum(p.numel() for p in model.parameters())}
    sites, left = find(model, captured, ignore)
    options = [Options(s, [candidate(s, m, round_to) for m in candidates(method, s.shape)]) for s in sites]
    made, whole = _fitted(sites, choose(options, ranks, total))
    made, proof, unproven = _proved(model, captured, inputs, made)
    left = {**left, **whole, **dict.fromkeys(unproven, UNPROVEN)}
    result = _replaced(model, made)
    settings = {"method": method, "ranks": str(ranks), "ignore": list(ignore), "round_to": round_to}
    return LowRankResult(
        model=result,
        plan=_plan(made, settings),
        layers=_rows(model, result, made, left, per_layer),
        proof=proof,
        macs_before=total["macs"],
        macs_after=total["macs"] - sum(m.site.macs - m.macs for m in made.values()),
        params_before=total["params"],
        params_after=sum(p.numel() for p in result.parameters()),
    )


def _plan(made: Mapping[str, _Made], settings: dict[str, Any]) -> LowRankPlan:
    layers = (Factorized(name, m.site.shape, m.method.name, m.ranks) for name, m in made.items())
    return LowRankPlan(settings=settings, layers=tuple(layers))


def _check(method: str, round_to: int) -> None:
    if method not in (AUTO, *METHODS):
        raise UserError(f"method: no method named {method!r}{did_you_mean(method, (AUTO, *METHODS))}")
    if round_to < 1:
        raise UserError(f"round_to: ranks go to multiples of at least 1, got {round_to}")
    if lacking := missing("factorising", "lowrank", "tensorly", "scipy"):
        raise UserError(lacking)


def _fitted(sites: Sequence[Site], choice: Mapping[str, Proposal | str]) -> tuple[dict[str, _Made], dict[str, str]]:
    """Fit what was chosen; return it, and why the others stay whole."""
    made: dict[str, _Made] = {}
    whole: dict[str, str] = {}
    for site in sites:
        proposal = choice[site.name]
        if isinstance(proposal, str):
            whole[site.name] = proposal
            continue
        fit = _fit(site, proposal)
        rounding = 8 * torch.finfo(site.layer.weight.dtype).eps
        if fit.error <= proposal.allowed * (1 + SLACK) + rounding:
            made[site.name] = fit
        else:
            whole[site.name] = f"the fit's error of {fit.error:.2f} is above the {proposal.allowed:.2f} of its ranks"
    return made, whole


def _fit(site: Site, proposal: Proposal) -> _Made:
    dtype = site.layer.weight.dtype
    method, ranks = proposal.candidate.method, proposal.ranks
    exact = proposal.candidate.factors(ranks)
    factors = tuple(torch.from_numpy(np.ascontiguousarray(f)).to(dtype).double().numpy() for f in exact)
    weight = method.product(factors)
    return _Made(site, method, ranks, proposal.macs, factors, weight, relative_error(site.weight, weight))


def _replaced(model: nn.Module, made: Mapping[str, _Made]) -> nn.Module:
    return replace(model, {name: (m.method, m.ranks, m.factors) for name, m in made.items()})


def _proved(
    model: nn.Module, captured: Captured, inputs: Inputs, made: Mapping[str, _Made]
) -> tuple[dict[str, _Made], Proof, list[str]]:
    """Leave out what breaks the model; return the rest, its proof, and what was left out."""
    probe = lively(model)
    state = tensors(probe)

    def proof_of(names: Collection[str]) -> Proof:
        some = {name: made[name] for name in names}
        products = {m.site.tensor: _like(m.weight, state[m.site.tensor]) for m in some.values()}
        reference = GraphRunner(captured, {n: comparable(t) for n, t in (state | products).items()})
        return prove(_replaced(probe, some), reference, inputs)

    names, unproven = list(made), list[str]()
    proof = proof_of(names)
    while names and not proof.holds:
        failed = culprits(names, lambda some: proof_of(some).holds)
        unproven += failed
        names = [name for name in names if name not in failed]
        proof = proof_of(names)
    return {name: made[name] for name in names}, proof, unproven


def _like(weight: Array, tensor: Tensor) -> Tensor:
    """Return a weight as the tensor is, in memory too: a forward may view what a layer gives."""
    return torch.empty_like(tensor).copy_(torch.from_numpy(weight))


def _rows(
    before: nn.Module,
    after: nn.Module,
    made: Mapping[str, _Made],
    left: Mapping[str, str],
    per_layer: Mapping[str, int],
) -> tuple[LayerResult, ...]:
    """Return every layer in the order of the model."""
    rows = []
    for name, module in before.named_modules():
        if name not in made and name not in left:
            continue
        params = sum(p.numel() for p in module.parameters())
        found = made.get(name)
        if found is None:
            macs = per_layer.get(name, 0)
            rows.append(LayerResult(name, WHOLE, (), macs, macs, params, params, why=left[name]))
            continue
        new = sum(p.numel() for p in after.get_submodule(name).parameters())
        cost = (found.site.macs, found.macs, params, new)
        rows.append(LayerResult(name, found.method.name, found.ranks, *cost, rel_error=found.error))
    return tuple(rows)


def figures(result: LowRankResult) -> dict[str, Any]:
    """Return what a stage tells of a result, as plain data."""
    return {
        "macs_before": result.macs_before,
        "macs_after": result.macs_after,
        "params_before": result.params_before,
        "params_after": result.params_after,
        "proof_max_rel_error": result.proof.max_rel_error,
        "layers": [asdict(layer) for layer in result.layers],
    }
