"""Torch-Pruning as it comes, told which layers make the outputs, and one forward to see that it runs."""

from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn


def cut(model: nn.Module, inputs: tuple[Tensor, ...], request: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Prune `model` itself and return it; Torch-Pruning says nothing of the result."""
    modules = dict(model.named_modules())
    pruner = tp.pruner.BasePruner(
        model,
        inputs,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=request["ratio"],
        ignored_layers=[modules[name] for name in request["original"]["heads"]],
    )
    pruner.step()
    with torch.no_grad():
        model(*inputs)
    return model, {}
