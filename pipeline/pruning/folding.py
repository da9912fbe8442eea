"""Edits of weights that leave a model's function as it is: masks made permanent, constants moved to their readers."""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from pipeline.pruning.liveness import Merge, Removal, borders_met, merging
from pipeline.pruning.products import by_group
from pipeline.pruning.readers import Reader
from pipeline.pruning.surgery import tensors


def duplicate(model: nn.Module) -> nn.Module:
    """Return a deep copy, of models too that hold computed tensors, as `torch.nn.utils.prune` leaves them."""
    held = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in held if not value.is_leaf})


def plain(model: nn.Module) -> nn.Module:
    """Return a copy whose weights are parameters again: masks and parametrisations are made permanent."""
    model = duplicate(model)
    for module in model.modules():
        hooks = module._forward_pre_hooks.values()
        for name in [h._tensor_name for h in hooks if isinstance(h, prune.BasePruningMethod)]:
            prune.remove(module, name)  # type: ignore[no-untyped-call]
        if parametrize.is_parametrized(module):
            _unparametrize(module)
    return model


def _unparametrize(module: nn.Module) -> None:
    """Hold computed tensors as parameters; torch's own function would do so to every copy of the module."""
    computing = module.parametrizations
    assert isinstance(computing, nn.ModuleDict)  # noqa: S101 - is_parametrized has checked it
    computing.eval()  # spectral norm takes a step at each look while it trains
    held = {
        name: nn.Parameter(getattr(module, name).detach(), requires_grad=any(p.requires_grad for p in how.parameters()))
        for name, how in computing.items()
    }
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, parameter in held.items():
        module.register_parameter(name, parameter)


def folded(model: nn.Module, readers: Sequence[Reader], removal: Removal) -> nn.Module:
    """Return a copy in which what a removal takes away has been added to what stays."""
    model = copy.deepcopy(model)
    have = tensors(model)
    with torch.no_grad():
        for name, values in offsets(readers, removal).items():
            have[name].copy_(have[name].double() + values.to(have[name].device))
        for (number, target), merges in _by_target(readers, removal).items():
            _merge(have[readers[number].weight], readers[number], target, merges)
    return model


def offsets(readers: Sequence[Reader], removal: Removal) -> Mapping[str, Tensor]:
    """Return what to add to every bias or mean, in float64; those that stay as they are left out."""
    found = {}
    for reader in readers:
        stays = ~removal.removed[reader.outputs]
        gone = reader.foldable & ~reader.zero & removal.removed[reader.inputs] & reader.read(stays)
        if reader.place is not None and gone.any():
            added = reader.product.added(torch.from_numpy(gone).reshape(reader.product.x.shape[:2]))
            found[reader.place.tensor] = reader.place.sign * torch.where(torch.from_numpy(stays), added, 0.0)
    return found


def new_biases(readers: Sequence[Reader], removal: Removal) -> tuple[str, ...]:
    """Return the biases that have to be made for what a removal takes away."""
    needed = offsets(readers, removal)
    return tuple(r.place.tensor for r in readers if r.place and r.place.new and r.place.tensor in needed)


def _by_target(readers: Sequence[Reader], removal: Removal) -> Mapping[tuple[int, int], list[Merge]]:
    """Return the merges of a removal by reader and carrying position."""
    borders = borders_met(readers, removal.removed)
    found: dict[tuple[int, int], list[Merge]] = {}
    for unit, carrier in removal.merges.items():
        for merge in merging(borders, unit, carrier) or ():
            found.setdefault((merge.reader, merge.target), []).append(merge)
    return found


def _merge(weight: Tensor, reader: Reader, target: int, merges: Iterable[Merge]) -> None:
    """Add columns of a weight, times their ratios, to another one of the same group; round once."""
    group, at = divmod(target, reader.per_group)
    columns = by_group(reader.product.op, weight, reader.product.x.shape[0])[group]
    wide = columns[:, at].double()
    for merge in merges:
        wide += merge.ratio * columns[:, merge.source % reader.per_group].double()
    columns[:, at] = wide.to(columns.dtype)
