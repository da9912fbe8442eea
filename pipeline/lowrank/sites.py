"""Which layers of a model can be factorised, how often they run on what, and why the others cannot."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from pipeline.errors import UserError
from pipeline.lowrank.base import Array, Call, Shape, whole_macs
from pipeline.pruning.groups import matching
from pipeline.pruning.trace import Captured, arguments, module_of, op_name, shapes_of

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
OPS = ("linear", "conv1d", "conv2d", "conv3d")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Site:
    """A layer that can be factorised, under the first of its names, and every run of it in the captured graph."""

    name: str
    layer: Layer
    tensor: str  # its weight, by the name that the capture has for it
    calls: tuple[Call, ...]

    @property
    def shape(self) -> Shape:
        """The shape of its weight."""
        return tuple(self.layer.weight.shape)

    @cached_property
    def weight(self) -> Array:
        """Its weight in double precision."""
        return weight_of(self.layer)

    @property
    def macs(self) -> int:
        """Its multiply-accumulates as it is."""
        return whole_macs(self.shape, self.calls)

    @property
    def params(self) -> int:
        """Its weights as it is, without the bias, which stays."""
        return prod(self.shape)


def weight_of(layer: Layer) -> Array:
    """Return a layer's weight in double precision."""
    found: Array = layer.weight.detach().cpu().double().numpy()
    return found


def find(model: nn.Module, captured: Captured, ignore: Iterable[str] = ()) -> tuple[tuple[Site, ...], dict[str, str]]:
    """Return the layers that can be factorised, and for every other layer with a kernel or matrix why not.

    `ignore` names layers to leave alone, wildcards allowed. Raises UserError for a pattern that names none, and for
    weights that are not finite.
    """
    names = [name for name, _ in model.named_parameters()]
    ignored = {name.rpartition(".")[0] for pattern in ignore for name in matching(names, pattern)}
    graph = _Graph(model, captured)
    sites: list[Site] = []
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | _ConvNd):
            continue
        reason = "ignored" if name in ignored else _unfit(module) or graph.unfit(module)
        if reason:
            left[name] = reason
            continue
        assert isinstance(module, Layer)  # noqa: S101 - or it were unfit
        if not np.isfinite(weight_of(module)).all():
            raise UserError(f"weights are not finite: {name}.weight; the checkpoint holds NaN or Inf, train it again")
        sites.append(Site(name, module, graph.tensor(module), graph.calls(module)))
    return tuple(sites), left


def _unfit(module: nn.Module) -> str:
    """Say what about a module itself forbids to replace it; empty where nothing does."""
    weight = module._parameters.get("weight")
    hooked = any(getattr(module, f"_{kind}_hooks") for kind in ("forward", "forward_pre", "backward", "backward_pre"))
    reasons = {
        "transposed": getattr(module, "transposed", False),
        f"a class of its own, {type(module).__name__}": type(module) not in KINDS,
        "grouped": getattr(module, "groups", 1) > 1,
        "has hooks": hooked,
        "its weight is no parameter": weight is None,
        "its weight is not floating point": weight is not None and weight.dtype not in FLOATS,
        "all its weights are zero": weight is not None and not weight.any(),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


class _Graph:
    """Who reads which parameter."""

    def __init__(self, model: nn.Module, captured: Captured) -> None:
        self._modules: Mapping[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        state = dict(model.named_parameters(remove_duplicate=False))
        self._names = {id(state[name]): name for name in captured.tensors.values() if name in state}
        self._nodes = {captured.tensors[n.name]: n for n in captured.graph.nodes if n.name in captured.tensors}

    def tensor(self, module: Layer) -> str:
        """Return the name that the capture has for a layer's weight."""
        return self._names[id(module.weight)]

    def unfit(self, module: nn.Module) -> str:
        """Say why a layer's parameters are not its own; empty where they are."""
        weight, bias = module._parameters["weight"], module._parameters.get("bias")
        if id(weight) not in self._names or not self._users(weight):
            return "does not run in evaluation mode"
        users = {*self._users(weight), *self._users(bias)}
        if not all(self._runs(node, module, weight) for node in users):
            return "its weights are read outside of it"
        return ""

    def calls(self, module: Layer) -> tuple[Call, ...]:
        """Return every run of a layer."""
        return tuple(self._call(node, module) for node in self._users(module.weight))

    def _users(self, tensor: Tensor | None) -> Collection[fx.Node]:
        name = self._names.get(id(tensor))
        return list(self._nodes[name].users) if name is not None else []

    def _owner(self, node: fx.Node) -> nn.Module | None:
        return self._modules.get(module_of(node)) if node.op == "call_function" else None

    def _runs(self, node: fx.Node, module: nn.Module, weight: Tensor | None) -> bool:
        if op_name(node) not in OPS or self._owner(node) is not module:
            return False
        read = arguments(node)["weight"]
        return isinstance(read, fx.Node) and read is self._nodes[self._names[id(weight)]]

    def _call(self, node: fx.Node, module: Layer) -> Call:
        source = arguments(node)["input"]
        while self._owner(source) is module:  # padding that is an op of its own
            source = source.all_input_nodes[0]
        (before,), (after,) = shapes_of(source), shapes_of(node)
        dims = module.weight.ndim - 2
        if not dims:
            return Call(prod(after[:-1]), (), ())
        return Call(prod(after[: -dims - 1]), before[-dims:], after[-dims:])
