"""Width and work of every layer of a model before and after pruning."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from pipeline.pruning.counters import count
from pipeline.report.layers import Cut, Layer


def compare(before: nn.Module, after: nn.Module, example_inputs: Any) -> Cut:
    """Count both models on the same inputs: a batch of one gives figures per sample. Raises UserError as `count`."""
    old, new = (count(model, example_inputs) for model in (before, after))
    return Cut(layers(old.per_layer, new.per_layer, widths(before), widths(after)), old.params, new.params)


def layers(
    macs_before: Mapping[str, int],
    macs_after: Mapping[str, int],
    widths_before: Mapping[str, int],
    widths_after: Mapping[str, int],
) -> tuple[Layer, ...]:
    """Join counts by layer name, in the order of `macs_before`; what a mapping lacks is 0."""
    return tuple(
        Layer(name, widths_before.get(name, 0), widths_after.get(name, 0), macs, macs_after.get(name, 0))
        for name, macs in macs_before.items()
    )


def widths(model: nn.Module) -> dict[str, int]:
    """Return the output channels of every layer that holds a matrix or kernel, as `count` names layers."""
    found: dict[str, int] = {}
    for name, tensor in model.named_parameters():
        if tensor.ndim > 1:
            owner = name.rpartition(".")[0]
            found.setdefault(owner or name, _width(model.get_submodule(owner), tensor))
    return found


def _width(module: nn.Module, weight: Tensor) -> int:
    return weight.shape[1] * module.groups if isinstance(module, _ConvTransposeNd) else weight.shape[0]
