"""What a factorisation is: successive layers in place of one, each with a part of its kernel."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Name = Literal["svd", "tucker", "cp"]
Shape = tuple[int, ...]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One of the successive layers. `axes` are the dimensions of the image that its kernel spans, 0 the first."""

    axes: tuple[int, ...] = ()
    depthwise: bool = False


@dataclass(frozen=True)
class Call:
    """One run of a layer: how many images it got, and their sizes before and after; () for a linear layer.

    The positions that a linear layer is applied at count as images.
    """

    images: int
    before: Shape
    after: Shape


class Method(ABC):
    """A factorisation of weights `(out, in, *kernel)` at ranks of its own kind. It has no state."""

    name: ClassVar[Name]

    @abstractmethod
    def steps(self, shape: Shape) -> tuple[Step, ...]:
        """Return the successive layers that stand for a weight of this shape."""

    @abstractmethod
    def widths(self, shape: Shape, ranks: Shape) -> tuple[int, ...]:
        """Return the channels between the successive layers."""

    @abstractmethod
    def unfoldings(self, weight: Array) -> tuple[Array, ...]:
        """Return the matrices whose singular values say which ranks a weight needs."""

    @abstractmethod
    def factors(self, weight: Array, ranks: Shape) -> tuple[Array, ...]:
        """Return the weights of the successive layers, in the shapes that `shapes` gives."""

    @abstractmethod
    def product(self, factors: Sequence[Array]) -> Array:
        """Return the one weight that successive layers with these weights stand for."""

    def shapes(self, shape: Shape, ranks: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the successive layers' weights."""
        widths = (shape[1], *self.widths(shape, ranks), shape[0])
        return tuple(
            (after, 1 if step.depthwise else before, *(k if a in step.axes else 1 for a, k in enumerate(shape[2:])))
            for step, before, after in zip(self.steps(shape), widths[:-1], widths[1:], strict=True)
        )

    def params(self, shape: Shape, ranks: Shape) -> int:
        """Return the number of weights at these ranks."""
        return sum(int(np.prod(s)) for s in self.shapes(shape, ranks))

    def macs(self, shape: Shape, ranks: Shape, calls: Sequence[Call]) -> int:
        """Return the multiply-accumulates of some calls at these ranks."""
        total = 0
        for call in calls:
            size = list(call.before)
            for step, part in zip(self.steps(shape), self.shapes(shape, ranks), strict=True):
                for axis in step.axes:
                    size[axis] = call.after[axis]
                total += call.images * int(np.prod(part)) * int(np.prod(size))
        return total


def whole_macs(shape: Shape, calls: Sequence[Call]) -> int:
    """Return the multiply-accumulates of calls of the layer as it is."""
    return sum(call.images * int(np.prod(shape)) * int(np.prod(call.after)) for call in calls)


def relative_error(weight: Array, approximation: Array) -> float:
    """Return the norm of the difference over the norm of the weight; infinite where the approximation is not finite."""
    if not np.isfinite(approximation).all():
        return float("inf")
    return float(np.linalg.norm(weight - approximation) / np.linalg.norm(weight))
