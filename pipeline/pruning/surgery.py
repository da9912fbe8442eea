"""Cut tensors and set the attributes that describe them."""

import copy
from collections.abc import Collection, Mapping
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pipeline.errors import UserError
from pipeline.pruning.channels import Ids
from pipeline.pruning.rules.base import Shape

Kept = Mapping[str, Mapping[int, Ids]]  # tensor -> dimension -> positions that stay, ascending
Attributes = Mapping[str, Mapping[str, int | tuple[int, ...]]]  # module -> attribute -> new value


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by every name they have."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def check(model: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Raise UserError for the first tensor that `model` lacks or holds in another shape."""
    have = tensors(model)
    for name, shape in shapes.items():
        if name not in have:
            raise UserError(f"the plan does not fit {type(model).__name__}: it has no parameter {name!r}")
        if tuple(have[name].shape) != tuple(shape):
            raise UserError(
                f"the plan does not fit {type(model).__name__}: {name} is {tuple(have[name].shape)}, "
                f"the plan was made for {tuple(shape)}; apply it to the model it was made from, "
                "and successive plans in their order"
            )


def cut(model: nn.Module, kept: Kept, attributes: Attributes) -> nn.Module:
    """Return a copy of `model` with smaller tensors, wherever it holds them, and its attributes set to match."""
    have = tensors(model)
    smaller = {id(have[name]): _sliced(have[name], dims) for name, dims in kept.items()}
    result = copy.deepcopy(model, dict(smaller))  # what is cut is never copied in full
    for name, values in attributes.items():
        module = result.get_submodule(name)
        for attribute, value in values.items():
            setattr(module, attribute, type(getattr(module, attribute))(value))
    new = {id(tensor) for tensor in smaller.values()}
    for module in result.modules():
        if any(id(tensor) in new for tensor in (*module._parameters.values(), *module._buffers.values())):
            describe(module)
    return result


def with_biases(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Return a copy in which the modules have biases of zero, given as "layer.bias"; `model` itself for none."""
    model = copy.deepcopy(model) if names else model
    for name in names:
        module = model.get_submodule(name.rpartition(".")[0])
        weight = module.weight
        assert isinstance(weight, Tensor)  # noqa: S101 - of a convolution or linear layer
        zeros = torch.zeros(_outputs(module), dtype=weight.dtype, device=weight.device)
        module.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)
    return model


def _outputs(module: nn.Module) -> int:
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]


def _sliced(tensor: Tensor, dims: Mapping[int, Ids]) -> Tensor:
    result = tensor.detach()
    for dim, positions in dims.items():
        result = result.index_select(dim, torch.from_numpy(positions).to(tensor.device))
    if result.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        result = result.contiguous(memory_format=torch.channels_last)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result, requires_grad=tensor.requires_grad)
    return result


@singledispatch
def describe(module: nn.Module) -> None:
    """Make a module's size attributes say what its tensors are; modules without such attributes have none."""


@describe.register
def _(module: _ConvNd) -> None:
    rows, columns = module.weight.shape[:2]
    if module.transposed:
        module.in_channels, module.out_channels = rows, columns * module.groups
    else:
        module.out_channels, module.in_channels = rows, columns * module.groups


@describe.register
def _(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


@describe.register
def _(module: nn.Embedding) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


@describe.register
def _(module: _NormBase) -> None:
    held = module.weight if module.weight is not None else module.running_mean
    if held is not None:
        module.num_features = held.shape[0]


@describe.register
def _(module: nn.GroupNorm) -> None:
    module.num_channels = module.weight.shape[0]


@describe.register(nn.LayerNorm)
@describe.register(nn.RMSNorm)
def _(module: nn.LayerNorm | nn.RMSNorm) -> None:
    module.normalized_shape = tuple(module.weight.shape)


@describe.register
def _(module: nn.PReLU) -> None:
    module.num_parameters = module.weight.shape[0]


@describe.register
def _(module: nn.MultiheadAttention) -> None:
    if module.in_proj_weight is not None:
        rows, columns = module.in_proj_weight.shape
        module.embed_dim = module.kdim = module.vdim = columns
        module.num_heads = rows // 3 // module.head_dim
