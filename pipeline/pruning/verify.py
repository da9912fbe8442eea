"""The proof: a pruned model must equal the original with the same channels set to zero."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pipeline.pruning.plan import Plan
from pipeline.pruning.trace import FORWARD_ERRORS, Inputs

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Proof:
    """Largest |pruned - masked| over all outputs, relative to the largest |masked| of the same output."""

    random: float  # on noise shaped like the example inputs
    real: float | None = None  # on real inputs, where some were given
    failure: str = ""  # what the pruned model raised, in one line

    @property
    def max_rel_error(self) -> float:
        """The larger of the errors."""
        return max(self.random, self.real or 0.0)

    @property
    def holds(self) -> bool:
        """Whether the pruned model runs and equals the masked one to 1e-4."""
        return not self.failure and self.max_rel_error <= TOLERANCE


def prove(model: nn.Module, plan: Plan, example_inputs: Inputs, real_inputs: Inputs | None = None) -> Proof:
    """Compare `plan.apply(model)` with `plan.mask(model)` in evaluation mode, half precision in float32."""
    masked, pruned = (_comparable(m) for m in (plan.mask(model), plan.apply(model)))
    sets = [noise(example_inputs), *([real_inputs] if real_inputs is not None else [])]
    errors: list[float] = []
    for inputs in (_widen(s) for s in sets):
        wanted = _run(masked, inputs)
        try:
            errors.append(difference(wanted, _run(pruned, inputs)))
        except FORWARD_ERRORS as error:
            return Proof(inf, failure=str(error).strip().partition("\n")[0] or type(error).__name__)
    return Proof(errors[0], errors[1] if real_inputs is not None else None)


def difference(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """Return the largest relative error over pairs of outputs; infinite where shapes differ or for NaN."""
    if [t.shape for t in wanted] != [t.shape for t in got]:
        return inf
    errors = [0.0]
    for a, b in zip(wanted, got, strict=True):
        if a.numel():
            scale = a.abs().max().double().clamp_min(1e-12)
            error = ((a.double() - b.double()).abs().max() / scale).item()
            errors.append(inf if isnan(error) else error)
    return max(errors)


def noise(inputs: Inputs) -> Inputs:
    """Return standard normal noise for every floating-point tensor; the other inputs as they are."""

    def like(value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        generator = torch.Generator().manual_seed(0)
        return torch.randn(value.shape, generator=generator).to(value)

    return tuple(pytree.tree_map(like, inputs))


def culprits(names: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> list[str]:
    """Return a small set of groups that the proof fails with, by halving; `holds` proves a subset's plan.

    Groups that fail only together are returned together.
    """
    if holds(names):
        return []
    if len(names) == 1:
        return list(names)
    half = len(names) // 2
    found = culprits(names[:half], holds) + culprits(names[half:], holds)
    return found or list(names)


def _comparable(model: nn.Module) -> nn.Module:
    half = any(t.dtype in (torch.float16, torch.bfloat16) for t in model.parameters())
    return (model.float() if half else model).eval()


def _widen(inputs: Inputs) -> Inputs:
    def widen(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if half else value

    return tuple(pytree.tree_map(widen, inputs))


def _run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run without gradients and with a fixed seed; return every tensor of the output."""
    devices = sorted({t.device.index or 0 for t in model.parameters() if t.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        return [t for t in pytree.tree_leaves(model(*inputs)) if isinstance(t, Tensor)]
