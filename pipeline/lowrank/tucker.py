"""Tucker-2: a convolution between fewer channels, with a 1×1 convolution before and one after it."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pipeline.lowrank.base import Array, Method, Name, Shape, Step

TOLERANCE = 1e-5  # change of the relative error that ends the iteration
ITERATIONS = 50


class Tucker(Method):
    """1×1, k×k, 1×1 at ranks (inputs, outputs), fitted by higher-order orthogonal iteration.

    Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
    ICLR 2016.
    """

    name: ClassVar[Name] = "tucker"

    def steps(self, shape: Shape) -> tuple[Step, ...]:
        """A point, the kernel, a point."""
        return Step(), Step(tuple(range(len(shape) - 2))), Step()

    def widths(self, shape: Shape, ranks: Shape) -> tuple[int, ...]:
        """Both ranks, of the inputs first."""
        return ranks

    def unfoldings(self, weight: Array) -> tuple[Array, ...]:
        """Inputs × everything else, and outputs × everything else."""
        return tuple(np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1) for mode in (1, 0))

    def factors(self, weight: Array, ranks: Shape) -> tuple[Array, ...]:
        """Fit a core and an orthonormal basis of the inputs and one of the outputs."""
        import tensorly
        from tensorly.decomposition import partial_tucker

        with tensorly.backend_context("numpy", local_threadsafe=True):
            # modes in ascending order: it mixes up factors otherwise
            (core, (outputs, inputs)), _ = partial_tucker(
                weight, rank=list(ranks[::-1]), modes=[0, 1], n_iter_max=ITERATIONS, tol=TOLERANCE, random_state=0
            )
        point = tuple(1 for _ in weight.shape[2:])
        return inputs.T.reshape(*inputs.T.shape, *point), core, outputs.reshape(*outputs.shape, *point)

    def product(self, factors: Sequence[Array]) -> Array:
        """Multiply the core with both bases."""
        inputs, core, outputs = factors
        narrow = np.tensordot(outputs.reshape(len(outputs), -1), core, 1)  # (out, rank, *kernel)
        return np.moveaxis(np.tensordot(narrow, inputs.reshape(len(inputs), -1), (1, 0)), -1, 1)
