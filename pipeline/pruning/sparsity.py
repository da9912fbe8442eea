"""Single weights set to zero, by magnitude: in every layer alike, over the whole network, or N of every M kept.

Shapes stay, so dense kernels take as long as before: `benchmarks/sparsity.py` measures it. What it buys is
size after compression, and speed where a runtime has kernels for the pattern.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from pipeline.errors import UserError
from pipeline.plugins import did_you_mean
from pipeline.pruning.groups import matching

SCOPES = ("local", "global")
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Zeros:
    """How many of some weights are zero."""

    zeros: int
    weights: int

    @property
    def share(self) -> float:
        """Their share; 0 where there are no weights."""
        return self.zeros / max(self.weights, 1)


@dataclass(frozen=True)
class SparseResult:
    """A copy of a model with weights at zero, and where they are.

    `mask` has a bool tensor of the same shape for every weight that was looked at; True is not zero. The zeros
    are in the weights themselves: a state dict is all there is to save.
    """

    model: nn.Module
    mask: Mapping[str, Tensor]
    per_layer: Mapping[str, Zeros]  # by name of the weight; ignored ones are absent

    @property
    def total(self) -> Zeros:
        """Zeros of all these layers together; layers that a pattern does not fit count with theirs."""
        layers = self.per_layer.values()
        return Zeros(sum(layer.zeros for layer in layers), sum(layer.weights for layer in layers))

    @property
    def achieved(self) -> float:
        """The share of these weights that is zero."""
        return self.total.share


@dataclass(frozen=True)
class _Weight:
    tensor: Tensor
    inputs: int  # the dimension that is summed over
    groups: int = 1  # that this dimension holds one after the other


def sparsify(
    model: nn.Module,
    ratio: float = 0.5,
    scope: str = "local",
    pattern: str | None = None,
    ignore: Iterable[str] = (),
) -> SparseResult:
    """Set the weights of least magnitude to zero in a copy of `model`; exactly as many, the first of equal ones.

    Looked at are the weights of convolutions, linear layers and attention's projections; no norms, no biases.
    `scope` "local" takes `ratio` of every layer, "global" of all weights together, whatever is left of a layer
    (Han et al., "Learning both Weights and Connections", NeurIPS 2015). `pattern` "N:M" keeps the N largest of
    every M successive weights along the input dimension (Mishra et al., "Accelerating Sparse Deep Neural
    Networks", 2021); layers whose inputs M does not divide stay dense. `ignore` names layers to leave alone,
    wildcards allowed.

    Raises UserError for impossible settings and for weights that are not finite.
    """
    kept = _checked(ratio, scope, pattern)
    result = copy.deepcopy(model)
    weights = _weights(result, ignore)
    for name, weight in weights.items():
        if not weight.tensor.isfinite().all():
            raise UserError(f"weights are not finite: {name}; the checkpoint holds NaN or Inf, train it again")
    with torch.no_grad():
        if kept:
            for weight in weights.values():
                _keep_largest(weight, *kept)
        else:
            tensors = [weight.tensor for weight in weights.values()]
            for together in [tensors] if scope == "global" else [[tensor] for tensor in tensors]:
                _zero_smallest(together, ratio)
    mask = {name: weight.tensor.detach() != 0 for name, weight in weights.items()}
    zeros = {name: Zeros(m.numel() - int(m.count_nonzero()), m.numel()) for name, m in mask.items()}
    return SparseResult(result, mask, zeros)


def hold(model: nn.Module, mask: Mapping[str, Tensor]) -> list[RemovableHandle]:
    """Keep the zeros of `mask` while `model` trains, by dropping their gradients, until the handles are removed.

    It holds for optimizers that leave a weight at zero whose gradients have all been zero: SGD and Adam with
    their variants, momentum and weight decay included.
    """
    parameters = dict(model.named_parameters())

    def dropping(stays: Tensor, parameter: Tensor) -> RemovableHandle:
        handle: RemovableHandle = parameter.register_hook(_Dropping(stays))  # type: ignore[no-untyped-call]
        return handle

    return [dropping(stays, parameters[name]) for name, stays in mask.items() if parameters[name].requires_grad]


class _Dropping:
    """A hook that sets gradients to zero where `stays` is False, on whichever device the model trains."""

    def __init__(self, stays: Tensor) -> None:
        self.stays = stays

    def __call__(self, gradient: Tensor) -> Tensor:
        self.stays = self.stays.to(gradient.device)
        return gradient * self.stays


def _checked(ratio: float, scope: str, pattern: str | None) -> tuple[int, int] | None:
    """Return N and M of a pattern, None without one."""
    if not 0 <= ratio < 1:
        raise UserError(f"ratio: the share to remove must be at least 0 and below 1, got {ratio}")
    if scope not in SCOPES:
        raise UserError(f"scope: no scope named {scope!r}{did_you_mean(scope, SCOPES)}")
    if pattern is None:
        return None
    numbers = re.fullmatch(r"(\d+):(\d+)", pattern)
    n, m = (int(text) for text in numbers.groups()) if numbers else (0, 0)
    if not 0 < n < m:
        raise UserError(f"pattern: {pattern!r} is no N:M with 0 < N < M; write 2:4 to keep 2 of every 4 weights")
    if abs(ratio - (1 - n / m)) > 1e-6:
        raise UserError(f"ratio: {pattern} removes {1 - n / m:g} of the weights, got {ratio}; give ratio={1 - n / m:g}")
    if scope != "local":
        raise UserError(f"scope: {pattern} keeps {n} of every {m} weights wherever they are; leave scope at 'local'")
    return n, m


def _weights(model: nn.Module, ignore: Iterable[str]) -> dict[str, _Weight]:
    """Return the weights to look at by name, each once however many modules share it."""
    names = tuple(name for name, _ in model.named_parameters())
    ignored = {name for pattern in ignore for name in matching(names, pattern)}
    found = {
        f"{prefix}.{name}" if prefix else name: weight
        for prefix, module in model.named_modules()
        for name, weight in _held(module).items()
    }
    return {name: found[name] for name in names if name in found and name not in ignored}


def _held(module: nn.Module) -> dict[str, _Weight]:
    names = PROJECTIONS if isinstance(module, nn.MultiheadAttention) else ("weight",)
    if not isinstance(module, _ConvNd | nn.Linear | nn.MultiheadAttention):
        return {}
    own = {name: module._parameters.get(name) for name in names}
    inputs, groups = (0, module.groups) if isinstance(module, _ConvTransposeNd) else (1, 1)
    return {name: _Weight(tensor, inputs, groups) for name, tensor in own.items() if tensor is not None}


def _zero_smallest(tensors: Sequence[Tensor], ratio: float) -> None:
    """Zero the share of least magnitude of all tensors together, but never all."""
    if not tensors:
        return
    magnitude = torch.cat([t.abs().flatten().cpu() for t in tensors])
    k = min(round(ratio * len(magnitude)), len(magnitude) - 1)
    if k == 0:
        return
    limit = magnitude.kthvalue(k).values
    gone = magnitude < limit
    tied = (magnitude == limit).nonzero()[:, 0]
    gone[tied[: k - int(gone.count_nonzero())]] = True
    for tensor, part in zip(tensors, torch.split(gone, [t.numel() for t in tensors]), strict=True):
        tensor.masked_fill_(part.view(tensor.shape).to(tensor.device), 0)


def _keep_largest(weight: _Weight, n: int, m: int) -> None:
    """Zero all but the `n` largest of every `m` weights along the input dimension, where `m` divides it."""
    if weight.tensor.shape[weight.inputs] // weight.groups % m:
        return
    rows = weight.tensor.movedim(weight.inputs, -1)
    order = rows.abs().reshape(-1, m).argsort(dim=1, stable=True)
    gone = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, : m - n], True)
    rows.masked_fill_(gone.view(rows.shape), 0)
