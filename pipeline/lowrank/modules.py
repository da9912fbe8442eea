"""Factorised layers as modules, and putting them where the whole ones are."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from pipeline.lowrank.base import Array, Method, Shape, Step
from pipeline.lowrank.sites import Layer


def build(layer: Layer, method: Method, ranks: Shape, factors: Sequence[Array] | None = None) -> nn.Sequential:
    """Return the successive layers that stand for `layer`, the last one with its very bias.

    Dtype, device, mode and requires_grad are those of the layer. Without factors the weights are NaN: they are to
    be loaded.
    """
    shape = tuple(layer.weight.shape)
    shapes, steps = method.shapes(shape, ranks), method.steps(shape)
    parts = [_part(layer, part, step) for part, step in zip(shapes, steps, strict=True)]
    last = layer.weight.ndim == 4 and not layer.weight.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    for i, part in enumerate(parts):
        value = torch.from_numpy(factors[i]) if factors is not None else torch.full(shapes[i], torch.nan)
        part.weight.data = part.weight.data.copy_(value).contiguous(memory_format=layout)
        part.weight.requires_grad_(layer.weight.requires_grad)
    parts[-1].bias = layer.bias
    return nn.Sequential(*parts).train(layer.training)


def _part(layer: Layer, shape: Shape, step: Step) -> Layer:
    """Return one of the successive layers, its weight not set; it takes what the layer does along the step's axes."""
    kind: dict[str, Any] = {"bias": False, "device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return _empty(nn.Linear, shape[1], shape[0], **kind)

    def along(values: Sequence[int], other: int) -> tuple[int, ...]:
        return tuple(value if axis in step.axes else other for axis, value in enumerate(values))

    options: dict[str, Any] = {"groups": shape[0] if step.depthwise else 1, **kind}
    if step.axes:
        options["stride"] = along(layer.stride, 1)
        options["dilation"] = along(layer.dilation, 1)
        options["padding"] = layer.padding if isinstance(layer.padding, str) else along(layer.padding, 0)
        options["padding_mode"] = layer.padding_mode
    inputs = shape[0] if step.depthwise else shape[1]
    return _empty(type(layer), inputs, shape[0], shape[2:], **options)


def _empty(kind: type[Layer], *args: Any, **options: Any) -> Layer:
    """Return a layer without drawing its weights: the caller's random numbers go on as they were."""
    made: Layer = skip_init(kind, *args, **options)  # type: ignore[no-untyped-call]
    return made


def replace(model: nn.Module, made: Mapping[str, tuple[Method, Shape, Sequence[Array] | None]]) -> nn.Module:
    """Return a copy of `model` with these layers factorised, by name, wherever it holds them."""
    result = copy.deepcopy(model)
    new = {id(layer): build(layer, *how) for name, how in made.items() if (layer := _layer(result, name))}
    if id(result) in new:
        return new[id(result)]
    for parent in list(result.modules()):
        for key, child in parent._modules.items():
            if id(child) in new:
                parent._modules[key] = new[id(child)]
    return result


def _layer(model: nn.Module, name: str) -> Layer:
    found = model.get_submodule(name)
    assert isinstance(found, Layer)  # noqa: S101 - checked by who names it
    return found
