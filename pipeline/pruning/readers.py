"""Who reads a channel, and whether a constant channel could go: where the constant it adds would be kept."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from pipeline.pruning.channels import Ids
from pipeline.pruning.constants import Value, understood
from pipeline.pruning.products import PRODUCTS, Product, product
from pipeline.pruning.rules.base import Flow, Labels
from pipeline.pruning.trace import Captured, arguments, op_name, shapes_of

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """A tensor of one entry per output that a constant is added to, times `sign`; `new` where it must be made."""

    tensor: str
    sign: float = 1.0
    new: bool = False


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer, and the classes of its input and output channels, -1 for none.

    `weight` is the parameter that it multiplies by, "" where that is computed from others or used twice.
    """

    product: Product
    layer: str
    weight: str
    place: Place | None
    inputs: Ids
    outputs: Ids

    @property
    def per_group(self) -> int:
        """Input channels per group."""
        return self.product.x.shape[1]

    @cached_property
    def zero(self) -> Mask:
        """Which input channels are zero: they go without a trace."""
        return _flat(self.product.zero)

    @cached_property
    def foldable(self) -> Mask:
        """Which input channels add a constant that `place` can take."""
        return self.zero | (_flat(self.product.adds_constant) & (self.place is not None))

    @cached_property
    def mergeable(self) -> Mask:
        """Which input channels are known, but add no constant: another such channel can take their weights."""
        return _flat(self.product.known) & ~self.foldable & bool(self.weight)

    def read(self, rows: Mask) -> Mask:
        """Return which input channels the given outputs read with a weight that is not zero."""
        live = self.product.live & torch.from_numpy(rows).reshape(*self.product.live.shape[:2], 1)
        return _flat(live.any(1))


def _flat(mask: Tensor) -> Mask:
    flat: Mask = mask.flatten().numpy()
    return flat


def readers(model: nn.Module, captured: Captured, flow: Flow, values: Mapping[fx.Node, Value]) -> tuple[Reader, ...]:
    """Return every convolution and linear layer of the graph, in order."""
    uses = Counter(name for node, name in _placed(captured) for _ in node.users)
    return tuple(
        _reader(node, model, _Names(captured.tensors, uses), flow, values)
        for node in captured.graph.nodes
        if node.op == "call_function" and op_name(node) in PRODUCTS
    )


def _placed(captured: Captured) -> Iterator[tuple[fx.Node, str]]:
    for node in captured.graph.nodes:
        if node.op == "placeholder" and node.name in captured.tensors:
            yield node, captured.tensors[node.name]


@dataclass(frozen=True)
class _Names:
    """Parameters and buffers of a graph and how often each is used."""

    names: Mapping[str, str]
    uses: Mapping[str, int]

    def own(self, node: fx.Node | None) -> str:
        """Return the name of a tensor that is used once in the whole graph, else ""."""
        name = self.names.get(node.name, "") if node is not None else ""
        return name if self.uses.get(name) == 1 else ""


def _reader(node: fx.Node, model: nn.Module, names: _Names, flow: Flow, values: Mapping[fx.Node, Value]) -> Reader:
    given = arguments(node)
    known = {n: values[a] if isinstance(a, fx.Node) else a for n, a in given.items()}
    weight = known["weight"].expand(shapes_of(given["weight"])[0])  # type: ignore[union-attr]
    layer = product(op_name(node), {**known, "weight": weight})
    held = names.names.get(given["weight"].name, "")
    return Reader(
        product=layer,
        layer=held.rpartition(".")[0] or held or node.name,
        weight=names.own(given["weight"]),
        place=_place(node, layer.axis, model, names),
        inputs=classes(flow, given["input"], layer.axis, layer.x.shape[0] * layer.x.shape[1]),
        outputs=classes(flow, node, layer.axis, layer.weight.shape[0] * layer.weight.shape[1]),
    )


def classes(flow: Flow, node: fx.Node, axis: int, width: int) -> Ids:
    """Return the class of each position along an axis of a node's value, -1 for those that carry no channel."""
    labels = flow.values.get(node)
    ids = labels.dims[axis] if isinstance(labels, Labels) else None
    if ids is None:
        return np.full(width, -1, np.int64)
    return np.where(ids < 0, -1, flow.channels.roots()[ids])


def _place(node: fx.Node, axis: int, model: nn.Module, names: _Names) -> Place | None:
    """Return what takes constants: the bias, else the mean that the next norm subtracts, else a new bias.

    The mean comes before a new bias because the parameters stay those the model had, and because it is exact in
    training as well: statistics of a batch take the constant out, and running ones follow the new mean.
    """
    given = arguments(node)
    if isinstance(given["bias"], fx.Node):
        bias = names.own(given["bias"])
        return Place(bias) if bias else None
    weight = names.own(given["weight"])
    (first, *others) = [*node.users, None]
    if first is not None and others == [None] and op_name(first) == "batch_norm":
        norm = arguments(first)
        mean = "" if norm["training"] else names.own(norm["running_mean"])
        if mean and norm["input"] is node and axis == 1:
            return Place(mean, sign=-1.0)
    layer, _, name = weight.rpartition(".")
    module = model.get_submodule(layer) if name == "weight" else None
    if isinstance(module, _ConvNd | nn.Linear) and module.bias is None:
        return Place(f"{layer}.bias" if layer else "bias", new=True)
    return None


def strangers(captured: Captured, flow: Flow) -> dict[str, Ids]:
    """Return who depends on a channel in ways not known here, with the classes that reach it.

    Those are the ops without a rule in `constants`, of the others those after which a channel has no place, and
    the branches that only training runs.
    """
    found: dict[str, Ids] = {}
    for node in captured.graph.nodes:
        if node.op == "call_function" and op_name(node) not in PRODUCTS:
            reaching = _classes_of(flow, node.all_input_nodes)
            lost = np.setdiff1d(reaching, _classes_of(flow, [node])) if understood(node) else reaching
            if lost.size and not op_name(node).startswith("_assert"):
                name = f"aten.{op_name(node)}"
                found[name] = np.union1d(found.get(name, lost), lost)
    dims = [ids for name in captured.unused for ids in flow.tensors[name].dims if ids is not None]
    if dims:
        found["a branch that only training runs"] = np.unique(flow.channels.roots()[np.concatenate(dims)])
    return found


def _classes_of(flow: Flow, nodes: Iterable[fx.Node]) -> Ids:
    """Return the classes on any dimension of some nodes' values."""
    values = [flow.values.get(node) for node in nodes]
    several = [item for value in values for item in (value if isinstance(value, tuple) else (value,))]
    dims = [ids for labels in several if isinstance(labels, Labels) for ids in labels.dims if ids is not None]
    ids = np.concatenate([np.empty(0, np.int64), *dims])
    return np.unique(flow.channels.roots()[ids[ids >= 0]])
