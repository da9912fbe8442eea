"""Gradients of the samples' loss: for criteria that go by them, and for those that train a copy."""

import copy

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.trace import Inputs, copied
from pipeline.pruning.verify import drawing

__all__ = ["drawing", "finite", "trainable", "training_loss"]


def training_loss(model: nn.Module, inputs: Inputs, labels: Tensor, evidence: Evidence) -> Tensor:
    """Return the loss of a batch, a scalar, with its gradients by every parameter."""
    with torch.enable_grad():
        return evidence.seen.loss(model(*copied(inputs)), labels)


def trainable(model: nn.Module) -> nn.Module:
    """Return a copy of which every parameter has gradients, frozen ones as well."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return model


def finite(loss: Tensor, criterion: str) -> Tensor:
    """Return the loss. Raises UserError where it is no number to go by."""
    if not torch.isfinite(loss):
        raise UserError(
            f"criterion {criterion}: the loss of the samples is {loss.item()}; check inputs and labels for NaN, "
            "and lower lr if the criterion trains"
        )
    return loss
