"""Labelled samples that data-driven criteria look at, in batches of one size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.pruning.trace import Inputs, as_inputs

Loss = Callable[[Any, Tensor], Tensor]  # the model's output, labels -> a scalar, the mean over the batch


@dataclass(frozen=True)
class Samples:
    """Batches of inputs with their labels, all of one shape, read as often as a criterion needs.

    `loss` is what the task minimises; the mean cross entropy of a classifier's logits unless given.
    """

    batches: Sequence[tuple[Inputs, Tensor]]
    loss: Loss = F.cross_entropy

    def __post_init__(self) -> None:
        if not self.batches:
            raise UserError("samples: there are none; give at least one batch of inputs and labels")

    def __len__(self) -> int:
        return sum(len(labels) for _, labels in self.batches)

    @classmethod
    def of(cls, inputs: Any, labels: Tensor, batch_size: int = 32, loss: Loss = F.cross_entropy) -> "Samples":
        """Cut tensors `(N, …)` into batches; what is left over after the last whole batch is not used.

        Raises UserError where inputs and labels are not equally many, and where there are none.
        """
        given = as_inputs(inputs)
        if any(len(t) != len(labels) for t in given):
            raise UserError(f"samples: {len(given[0])} inputs, but {len(labels)} labels; every input needs its own")
        size = min(batch_size, len(labels))
        starts = range(0, len(labels) - size + 1, size) if size else range(0)
        return cls([(tuple(t[s : s + size] for t in given), labels[s : s + size]) for s in starts], loss)

    @property
    def example(self) -> Inputs:
        """The inputs of the first batch."""
        return self.batches[0][0]

    @property
    def labels(self) -> Tensor:
        """All labels, (N,)."""
        return torch.cat([labels for _, labels in self.batches])


def needed(samples: Samples | None, criterion: str) -> Samples:
    """Return the samples. Raises UserError where there are none."""
    if samples is None:
        raise UserError(
            f"criterion {criterion}: looks at samples, and none were given; pass samples=, "
            "or choose a criterion of the weights alone, such as l1"
        )
    return samples
