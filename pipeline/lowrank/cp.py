"""CP: a convolution as a sum of separable ones, channel by channel."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import numpy as np

from pipeline.lowrank.base import Array, Method, Name, Shape, Step

TOLERANCE = 1e-4  # change of the relative error that ends the iteration
ITERATIONS = 50


class Cp(Method):
    """1×1, k×1 depthwise, 1×k depthwise, 1×1, fitted by alternating least squares.

    Lebedev et al., "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", ICLR 2015. A fit
    need not exist or converge (Phan et al., "Stable Low-rank Tensor Decomposition for Compression of Convolutional
    Neural Network", ECCV 2020): look at its error before using it.
    """

    name: ClassVar[Name] = "cp"

    def steps(self, shape: Shape) -> tuple[Step, ...]:
        """A point, one layer per long side of the kernel, a point; sides of 1 go with the first."""
        long = _long(shape)
        short = tuple(a for a in range(len(shape) - 2) if a not in long)
        sides = [(*short, *long[:1]), *((a,) for a in long[1:])]
        return Step(), *(Step(tuple(sorted(axes)), depthwise=True) for axes in sides), Step()

    def widths(self, shape: Shape, ranks: Shape) -> tuple[int, ...]:
        """The rank, between all."""
        return ranks * (len(self.steps(shape)) - 1)

    def unfoldings(self, weight: Array) -> tuple[Array, ...]:
        """Inputs × everything else, and outputs × everything else: a lower bound of the rank."""
        return tuple(np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1) for mode in (1, 0))

    def factors(self, weight: Array, ranks: Shape) -> tuple[Array, ...]:
        """Fit; components share their norm evenly between the layers. NaN where the iteration breaks down."""
        (rank,) = ranks
        long = _long(weight.shape)
        tensor = weight.reshape(*weight.shape[:2], *(weight.shape[2 + a] for a in long))
        try:
            columns = _balanced(_fit(tensor, rank))
        except np.linalg.LinAlgError:
            columns = [np.full((n, rank), np.nan) for n in tensor.shape]
        outputs, inputs, *sides = columns
        transposed = [inputs.T, *(side.T for side in sides), outputs]
        return tuple(f.reshape(s) for f, s in zip(transposed, self.shapes(weight.shape, ranks), strict=True))

    def product(self, factors: Sequence[Array]) -> Array:
        """Sum the components."""
        first, *sides, last = factors
        total = np.ones((len(first), 1, *(1 for _ in first.shape[2:])))
        for side in sides:
            total = total * side
        components = first * total  # (rank, in, *kernel)
        return np.tensordot(last.reshape(len(last), -1), components, 1)


def _long(shape: Shape) -> tuple[int, ...]:
    return tuple(a for a, k in enumerate(shape[2:]) if k > 1)


def _fit(tensor: Array, rank: int) -> list[Array]:
    from tensorly.decomposition import parafac

    with _lean(), warnings.catch_warnings():
        # about fewer singular vectors than the rank, which it fills up with random ones
        warnings.simplefilter("ignore")
        _, factors = parafac(tensor, rank, n_iter_max=ITERATIONS, tol=TOLERANCE, linesearch=True, random_state=0)
    return list(factors)


def _balanced(columns: Sequence[Array]) -> list[Array]:
    norms = [np.linalg.norm(c, axis=0) for c in columns]
    share = np.prod(norms, axis=0) ** (1 / len(norms))
    return [c * np.divide(share, n, out=np.zeros_like(n), where=n > 0) for c, n in zip(columns, norms, strict=True)]


@contextmanager
def _lean() -> Iterator[None]:
    """Run tensorly on numpy, with products of unfoldings that do not form the Khatri-Rao product.

    That product has as many rows as two channel dimensions together: eight times the time for 128 × 128 × 3 × 3.
    """
    import tensorly

    with (
        tensorly.backend_context("numpy", local_threadsafe=True),
        tensorly.tenalg.backend_context(_algebra(), local_threadsafe=True),
    ):
        yield


@cache
def _algebra() -> Any:
    from tensorly.tenalg.core_tenalg import CoreTenalgBackend

    class Lean(CoreTenalgBackend, backend_name="edgesmith"):  # type: ignore[misc, call-arg, unused-ignore]
        """Its own product of an unfolding with factors; the rest is tensorly's."""

        unfolding_dot_khatri_rao = staticmethod(_contract)

    return Lean()


def _contract(tensor: Array, cp: tuple[Array | None, Sequence[Array]], mode: int) -> Array:
    """Return the unfolding along `mode` times the Khatri-Rao product of the other factors, longest side first."""
    weights, factors = cp
    first, *rest = sorted((m for m in range(tensor.ndim) if m != mode), key=lambda m: -tensor.shape[m])
    part: Array = np.tensordot(tensor, factors[first], (first, 0))
    left = [m for m in range(tensor.ndim) if m != first]
    for m in rest:
        part = np.einsum("...ar,ar->...r", np.moveaxis(part, left.index(m), -2), factors[m])
        left.remove(m)
    return part if weights is None else part * weights
