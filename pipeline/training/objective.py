"""What a training descends: a module of its own, so that it may have parameters, and a teacher."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError


class Objective(nn.Module, ABC):
    """Called with the model, inputs and targets, returns the loss to descend.

    Of its parameters those that require a gradient are trained and checkpointed with the model's; they are no
    part of the result. Everything else it holds, a teacher say, stays as it is. `extra_repr` names every setting
    that changes the loss: a run goes on only from a checkpoint of an equal one.
    """

    @abstractmethod
    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return a scalar; `x` is `(N, ...)`, `y` labels `(N,)` int64 or shares `(N, classes)` float."""

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


class CrossEntropy(Objective):
    """Cross entropy of a classifier with its labels."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"label_smoothing={self.label_smoothing}"

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean over a batch, in nats."""
        return cross_entropy(model(x), y, self.label_smoothing)


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross entropy of logits `(N, classes)` with labels `(N,)` or shares `(N, classes)`.

    Label smoothing: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7. Raises UserError
    for shares of another number of classes than the model tells apart.
    """
    if torch.is_floating_point(y) and y.shape != logits.shape:
        raise UserError(
            f"mixed labels are for {y.shape[-1]} classes, but the model's output is {tuple(logits.shape)}; "
            "name as many classes as it has outputs, or train without mixup and cutmix"
        )
    return F.cross_entropy(logits, y, label_smoothing=label_smoothing)
