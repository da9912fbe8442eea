"""Where on a graph the activations of a group's units can be seen."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from pipeline.pruning.channels import Ids
from pipeline.pruning.groups import Group
from pipeline.pruning.network import Network
from pipeline.pruning.rules.base import Labels, Role
from pipeline.pruning.trace import arguments, op_name

_CONVS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_POOLING = """avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d mean amax"""
_SHAPE = "flatten view reshape squeeze unsqueeze dropout feature_dropout clone contiguous detach alias _to_copy to"
_AFTER_MAPS = frozenset((*_POOLING.split(), *_SHAPE.split()))
_RECTIFIERS = frozenset(("relu", "relu6"))


@dataclass(frozen=True, eq=False)
class Tap:
    """A value on the graph with the positions, on one of its dimensions, of each unit of a group.

    `index` has shape (units, n). `reader` is the layer that reads the value there, and `weight` its weight,
    where the tap is on what a layer reads.
    """

    group: str
    node: fx.Node
    dim: int
    index: NDArray[np.int64]
    reader: fx.Node | None = None
    weight: str = ""

    @property
    def at(self) -> fx.Node:
        """The op that runs when the value is to be looked at: its reader, for an op in place may come before it."""
        return self.reader or self.node

    def units(self, value: Tensor) -> Tensor:
        """Return what belongs to every unit: (samples, units, n, the other dimensions)."""
        moved = value.movedim(self.dim, 1) if self.dim != 1 else value
        flat = torch.from_numpy(self.index.ravel()).to(value.device)
        return moved.index_select(1, flat).reshape(len(moved), *self.index.shape, *moved.shape[2:])

    @property
    def rectified(self) -> bool:
        """Whether the value is what a ReLU gives: zero or more, exactly zero where nothing fires."""
        node = self.node
        if op_name(node) == "hardtanh":
            return bool(arguments(node)["min_val"] == 0)
        return op_name(node) in _RECTIFIERS


def readers(network: Network, group: Group) -> list[Tap]:
    """Return a tap on the input of every layer whose weights read the group, in the order they run."""
    columns = {m.tensor for m in group.members if m.role is Role.IN}
    found = []
    for node in network.captured.graph.nodes:
        axis = reading_axis(node)
        if axis is None:
            continue
        given = arguments(node)
        name = network.captured.tensors.get(given["weight"].name, "")
        if name in columns and (tap := _tap(network, group, given["input"], axis, node, name)):
            found.append(tap)
    return found


def reading_axis(node: fx.Node) -> int | None:
    """Return the dimension of its input that a layer's weights read, None for what is no such layer."""
    op = op_name(node) if node.op == "call_function" else ""
    if op not in (*_CONVS, *_TRANSPOSED, "linear") or not isinstance(arguments(node)["weight"], fx.Node):
        return None
    dims = int(arguments(node)["input"].meta["val"].ndim)
    return dims - 1 if op == "linear" else dims - int(arguments(node)["weight"].meta["val"].ndim) + 1


def makers(network: Network, group: Group) -> list[Tap]:
    """Return a tap on the output of every layer that makes the group, behind its norm if it has one of its own."""
    rows = {m.tensor for m in group.producers}
    found = []
    for node in network.captured.graph.nodes:
        if reading_axis(node) is None:
            continue
        if network.captured.tensors.get(arguments(node)["weight"].name, "") in rows:
            end = _normed(node)
            axis = int(end.meta["val"].ndim) - 1 if op_name(node) == "linear" else reading_axis(node) or 0
            if tap := _tap(network, group, end, axis):
                found.append(tap)
    return found


def maps(network: Network, group: Group) -> list[Tap]:
    """Return a tap on every feature map that is read: what readers get, before it is pooled or reshaped.

    Where no layer reads the group, as for the keys of an attention, what its makers give.
    """
    found: dict[fx.Node, Tap] = {}
    for tap in readers(network, group):
        node, axis = tap.node, tap.dim
        while (source := _before(network, group, node)) is not None:
            node, axis = source
        if node not in found and (moved := _tap(network, group, node, axis)):
            found[node] = moved
    return list(found.values()) or makers(network, group)


def _before(network: Network, group: Group, node: fx.Node) -> tuple[fx.Node, int] | None:
    """Return what an op pooled or reshaped, and where the group's channels are on it."""
    if node.op != "call_function" or op_name(node) not in _AFTER_MAPS:
        return None
    source = node.all_input_nodes[0]
    labels = network.flow.values.get(source)
    if source.op != "call_function" or not isinstance(labels, Labels):
        return None
    axes = [d for d, ids in enumerate(labels.dims) if ids is not None and _index(network, group, ids) is not None]
    return (source, axes[0]) if len(axes) == 1 else None


def _normed(node: fx.Node) -> fx.Node:
    """Return the batch norm that alone uses a layer's output, or the output."""
    users = list(node.users)
    return users[0] if len(users) == 1 and op_name(users[0]) == "batch_norm" else node


def _tap(
    network: Network, group: Group, node: fx.Node, dim: int, reader: fx.Node | None = None, weight: str = ""
) -> Tap | None:
    labels = network.flow.values.get(node)
    ids = labels.dims[dim] if isinstance(labels, Labels) else None
    index = None if ids is None else _index(network, group, ids)
    return None if index is None else Tap(group.name, node, dim, index, reader, weight)


def _index(network: Network, group: Group, ids: Ids) -> NDArray[np.int64] | None:
    """Return the positions of every unit among `ids`, (units, n); None where units have not equally many."""
    unit_of = np.full(len(network.structure.roots), -1, np.int64)
    unit_of[group.classes] = np.arange(group.units)
    units = np.where(ids < 0, -1, unit_of[network.structure.roots[ids]])
    counts = np.bincount(units[units >= 0], minlength=group.units)
    if not counts[0] or (counts != counts[0]).any():
        return None
    positions = np.flatnonzero(units >= 0)
    return positions[np.argsort(units[positions], kind="stable")].reshape(group.units, -1)
