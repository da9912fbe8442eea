"""The proof: a pruned model must equal the original with the same channels set to zero."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf, isnan
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pipeline.errors import UserError
from pipeline.pruning.interpret import GraphRunner
from pipeline.pruning.trace import FORWARD_ERRORS, Inputs, copied, in_mode

TOLERANCE = 1e-4
SUSPICIOUS = 2e-6  # float32 rounds outputs of a network to about 1e-7


@dataclass(frozen=True)
class Proof:
    """Largest |pruned - masked| over all outputs, relative to the largest |masked| of the same output."""

    random: float  # on noise shaped like the example inputs
    real: float | None = None  # on real inputs, where some were given
    failure: str = ""  # what the pruned model raised, in one line
    failed_in: tuple[str, ...] = ()  # the modules that it was in, innermost first

    @property
    def max_rel_error(self) -> float:
        """The larger of the errors."""
        return max(self.random, self.real or 0.0)

    def worse(self, other: "Proof") -> "Proof":
        """Return the larger errors of two proofs; the failed one where one is."""
        if self.failure or other.failure:
            return self if self.failure else other
        real = [p.real for p in (self, other) if p.real is not None]
        return Proof(max(self.random, other.random), max(real) if real else None)

    @property
    def holds(self) -> bool:
        """Whether the pruned model runs and equals the masked one to 1e-4."""
        return not self.failure and self.max_rel_error <= TOLERANCE


def prove(pruned: nn.Module, reference: GraphRunner, example: Inputs, real: Inputs | None = None) -> Proof:
    """Compare a pruned model with its reference in evaluation mode; both are in float32 where they were in half.

    An error that rounding may explain or may not is looked at again in double precision, where it would all
    but vanish. Raises UserError where `real` has not the shapes of `example` in all but the first dimension.
    """
    if any(comparable(t) is not t for t in pruned.parameters()):
        pruned = copy.deepcopy(pruned).float()
    sets = [[widen(noise(example))], *([[widen(b) for b in like(real, example)]] if real is not None else [])]
    proof = _compared(pruned, reference, sets)
    if not SUSPICIOUS < proof.max_rel_error <= TOLERANCE:
        return proof
    exact = _in_double(pruned, reference, sets)
    if exact is None or exact.max_rel_error <= SUSPICIOUS / 1000:
        return proof
    return replace(exact, failure=f"in double precision it differs by {exact.max_rel_error:.0e}: no rounding")


def _in_double(pruned: nn.Module, reference: GraphRunner, sets: Sequence[Sequence[Inputs]]) -> Proof | None:
    """Compare in double precision; None for a forward that casts to a precision of its own and then fails."""
    try:
        doubled = [[_double(inputs) for inputs in batches] for batches in sets]
        proof = _compared(copy.deepcopy(pruned).double(), reference.double(), doubled)
    except FORWARD_ERRORS:
        return None
    return None if proof.failure else proof


def _compared(pruned: nn.Module, reference: GraphRunner, sets: Sequence[Sequence[Inputs]]) -> Proof:
    """Return the worst error over the batches of every set of inputs."""
    errors: list[float] = []
    for batches in sets:
        worst = 0.0
        for inputs in batches:
            try:
                got = run(pruned, inputs)
            except FORWARD_ERRORS as error:
                line = str(error).strip().partition("\n")[0] or type(error).__name__
                return Proof(inf, failure=line, failed_in=_modules_of(error.__traceback__, pruned))
            with seeded(pruned):
                worst = max(worst, difference(reference.outputs(pytree.tree_leaves(inputs)), got))
        errors.append(worst)
    return Proof(errors[0], errors[1] if len(errors) > 1 else None)


def _double(inputs: Inputs) -> Inputs:
    return tuple(
        pytree.tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, inputs)
    )


def _modules_of(traceback: TracebackType | None, model: nn.Module) -> tuple[str, ...]:
    """Return the modules whose methods an error passed through, innermost first."""
    names = {module: name for name, module in model.named_modules()}
    passed: list[str] = []
    while traceback is not None:
        module = traceback.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and module in names:
            passed.append(names[module])
        traceback = traceback.tb_next
    return tuple(dict.fromkeys(reversed(passed)))


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

    def fresh(value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        generator = torch.Generator().manual_seed(0)
        return torch.randn(value.shape, generator=generator).to(value)

    return tuple(pytree.tree_map(fresh, inputs))


def like(real: Inputs, example: Inputs) -> Iterator[Inputs]:
    """Cut real inputs into batches as long as the example's, the last one filled up from the start."""
    given, spec = pytree.tree_flatten(real)
    wanted = pytree.tree_leaves(example)
    pairs = [(a, b) for a, b in zip(given, wanted, strict=False) if isinstance(a, Tensor) and isinstance(b, Tensor)]
    odd = [(a, b) for a, b in pairs if a.shape[1:] != b.shape[1:] or not len(a)]
    if len(given) != len(wanted) or odd:
        found = f"{tuple(odd[0][0].shape)} instead of {tuple(odd[0][1].shape)}" if odd else f"{len(given)} tensors"
        raise UserError(f"the real inputs do not fit the example inputs: {found}; only the batch may differ")
    samples = max((len(a) for a, b in pairs if b.ndim), default=1)
    batch = max((len(b) for _, b in pairs if b.ndim), default=1)
    for start in range(0, samples, batch):
        rows = torch.arange(start, start + batch) % samples
        yield tuple(pytree.tree_unflatten([_rows(a, b, rows) for a, b in zip(given, wanted, strict=True)], spec))


def _rows(value: Any, example: Any, rows: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.shape == example.shape:
        return value
    return value[rows.to(value.device)]


def lively(model: nn.Module) -> nn.Module:
    """Return the model, or a copy with noise on every parameter that is constant, e.g. at its initial 0 or 1.

    A layer of zeros hides whatever is wrong before it, and equal scales hide which of them were cut.
    """
    still = [name for name, p in model.named_parameters() if p.numel() > 1 and p.is_floating_point() and _constant(p)]
    if not still:
        return model
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for name in still:
        parameter = copied.get_parameter(name)
        fan_in = max(parameter[0].numel(), 25)
        noise = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
        parameter.data = parameter.data + noise.to(parameter)
    return copied


def _constant(parameter: Tensor) -> bool:
    first = parameter.detach().reshape(-1)[:2]
    return bool(first[0] == first[1]) and bool((parameter == first[0]).all())


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


def comparable(tensor: Any) -> Any:
    """Return a half-precision tensor in float32, anything else as it is."""
    half = isinstance(tensor, Tensor) and tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor


def widen(inputs: Inputs) -> Inputs:
    """Return inputs with half precision in float32."""
    return tuple(pytree.tree_map(comparable, inputs))


@contextmanager
def drawing(model: nn.Module, seed: int) -> Iterator[None]:
    """Fix random numbers for a while; the caller's go on after it as if nothing had been drawn."""
    devices = sorted({t.device.index or 0 for t in model.parameters() if t.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def seeded(model: nn.Module) -> Iterator[None]:
    """Fix random numbers for a while, as `drawing` does, without gradients."""
    with torch.no_grad(), drawing(model, 0):
        yield


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run in evaluation mode, without gradients and with a fixed seed; return every tensor of the output.

    The inputs stay as they are, whatever the forward does with its own.
    """
    with in_mode(model, training=False), seeded(model):
        return [t for t in pytree.tree_leaves(model(*copied(inputs))) if isinstance(t, Tensor)]
