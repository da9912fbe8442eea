"""The modules of a pruned graph: they hold its tensors under the names that the user's model has for them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.pruning import surgery
from pipeline.pruning.trace import Captured, arguments, op_name, shapes_of

_HELD = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")
_KINDS: Mapping[int, type[_BatchNorm]] = {  # by the rank of what they normalise
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
_TENSORS = ("weight", "bias", "running_mean", "running_var")


class Pruned(fx.GraphModule):
    """A graph with the modules that hold its tensors; copies keep all of them, whether the graph uses them or not."""

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str = "Pruned") -> None:
        super().__init__(root, graph, class_name)
        for name in _HELD:
            mine = getattr(self, name)
            mine.clear()
            mine.update(getattr(root, name))

    def _deepcopy_init(self):  # type: ignore[no-untyped-def]
        return Pruned.__init__

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.GraphModule:
        """Copy all but what no one changes: the specs of inputs and outputs, whose copies torch warns about."""
        memo.update({id(spec): spec for spec in (self._in_spec, self._out_spec)})
        copied: fx.GraphModule = super().__deepcopy__(memo)
        return copied


class Signature(_PyTreeCodeGen):
    """How the graph takes and gives nested values; never changed, so that copies share it."""

    def __deepcopy__(self, _: dict[int, Any]) -> "Signature":
        return self


def skeleton(model: nn.Module, norms: Mapping[str, _BatchNorm], kept: surgery.Kept) -> nn.Module:
    """Return modules without a forward in the places of the model's own, with copies of its tensors, cut.

    Those of `norms` stand in their places. Names, modes, ties and requires_grad carry over.
    """
    made: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        made[module] = new = norms.get(name) or nn.Module()
        new.training = module.training
        for held in _HELD[1:]:
            mine = getattr(new, held)
            mine.clear()
            mine.update(getattr(module, held))
    for module, new in made.items():
        new._modules.update({name: child and made[child] for name, child in module._modules.items()})
    return surgery.cut(made[model], kept, {})


def hold(root: nn.Module, name: str, tensor: Tensor, *, new: bool) -> str:
    """Hold a tensor that no state dict has, `new` or in place of the one of that name; return the name that it got."""
    while new and hasattr(root, name):
        name += "_"
    place, _, leaf = name.rpartition(".")
    root.get_submodule(place).register_buffer(leaf, tensor, persistent=False)
    return name


def norm_places(model: nn.Module, captured: Captured) -> dict[fx.Node, str]:
    """Return the ops that a BatchNorm module can do, with its place: where one module holds their tensors alone."""
    return {
        node: place
        for node in captured.graph.nodes
        if node.op == "call_function" and op_name(node) == "batch_norm" and (place := _place(model, captured, node))
    }


def norms_of(model: nn.Module, places: Mapping[fx.Node, str]) -> dict[str, _BatchNorm]:
    """Return a BatchNorm, without tensors, for every place. Its momentum is the module's own where it has one."""
    made: dict[str, _BatchNorm] = {}
    for node, place in places.items():
        given = arguments(node)
        own = model.get_submodule(place)
        momentum = own.momentum if isinstance(own, _BatchNorm) else given["momentum"]
        (shape,) = shapes_of(given["input"])
        affine = given["weight"] is not None
        made[place] = _KINDS[len(shape)](shape[1], given["eps"], momentum, affine, device=torch.device("meta"))
    return made


def _place(model: nn.Module, captured: Captured, node: fx.Node) -> str:
    given = arguments(node)
    names = {t: captured.tensors.get(given[t].name, "") for t in _TENSORS if given[t] is not None}
    place = names.get("running_mean", "").rpartition(".")[0]
    if not place or given["training"] or names != {t: f"{place}.{t}" for t in names} or len(names) % 2:
        return ""
    own = model.get_submodule(place)
    held = {t for t, tensor in (*own._parameters.items(), *own._buffers.items()) if tensor is not None}
    return place if held <= {*names, "num_batches_tracked"} else ""
