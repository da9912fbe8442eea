"""A matrix in two layers: linear layers, 1×1 convolutions, and k×k ones as k×k followed by 1×1."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pipeline.lowrank.base import Array, Method, Name, Shape, Step


class Svd(Method):
    """W ≈ U V, the best of that rank: `rank` channels between V, which reads the image, and U.

    For k×k kernels this is the scheme of Zhang et al., "Accelerating Very Deep Convolutional Networks for
    Classification and Detection", TPAMI 2016, on the weights alone.
    """

    name: ClassVar[Name] = "svd"

    def steps(self, shape: Shape) -> tuple[Step, ...]:
        """The kernel as it was, then a point."""
        return Step(tuple(range(len(shape) - 2))), Step()

    def widths(self, shape: Shape, ranks: Shape) -> tuple[int, ...]:
        """One rank."""
        return ranks

    def unfoldings(self, weight: Array) -> tuple[Array, ...]:
        """Outputs × everything else."""
        return (weight.reshape(len(weight), -1),)

    def factors(self, weight: Array, ranks: Shape) -> tuple[Array, ...]:
        """Truncate the singular value decomposition; both factors get the roots of the singular values."""
        (rank,) = ranks
        u, s, v = np.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
        root = np.sqrt(s[:rank])
        first = (root[:, None] * v[:rank]).reshape(rank, *weight.shape[1:])
        return first, (u[:, :rank] * root).reshape(len(weight), rank, *(1 for _ in weight.shape[2:]))

    def product(self, factors: Sequence[Array]) -> Array:
        """Multiply the two matrices."""
        first, second = factors
        return np.tensordot(second.reshape(len(second), -1), first, 1)
