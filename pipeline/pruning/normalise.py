"""A captured graph rewritten so that its sizes are free: only for graphs that are cut themselves.

Each pass replaces ops by others that compute the same and leave more channels independent of each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from pipeline.pruning.trace import Captured, arguments, op_name, shapes_of

_VIEWS = ("view", "reshape", "_unsafe_view", "unflatten", "flatten")
_COPIES = ("contiguous", "clone")


def normalise(captured: Captured) -> Captured:
    """Rewrite a graph in place; return it with the constants that it has now.

    - `split` and `chunk` get a size for every part, so that parts can differ.
    - Attention gets its scale in writing, which else follows from the width of its heads.
    - A shuffle of channels becomes a selection by index, which any channel can leave.
    """
    indices = _indices(captured)
    constants = {**captured.constants, **indices}
    for node in list(captured.graph.nodes):
        if node.op != "call_function":
            continue
        if op_name(node) in _REWRITES:
            _REWRITES[op_name(node)](node)
        elif (shuffle := _shuffle(node)) is not None:
            constants[_select(shuffle)] = shuffle.order
    tensors = {node: name for node, name in captured.tensors.items() if node not in indices}
    return replace(captured, constants=constants, tensors=tensors)


def _indices(captured: Captured) -> dict[str, Tensor]:
    """Return buffers that are as good as constants: indices that no state dict has, e.g. of a graph cut before."""
    signature = captured.program.graph_signature
    held = {n: t for n, t in signature.inputs_to_buffers.items() if t in signature.non_persistent_buffers}
    users = {n.name: list(n.users) for n in captured.graph.nodes if n.name in held}
    selecting = [n for n, ops in users.items() if [op_name(op) for op in ops] == ["index_select"]]
    return {n: captured.program.constants[held[n]] for n in selecting}


def _sized(node: fx.Node) -> None:
    """Write down the size of every part."""
    given = arguments(node)
    dim = given["dim"]
    node.target = torch.ops.aten.split_with_sizes.default
    node.args, node.kwargs = (given["self"], [shape[dim] for shape in shapes_of(node)], dim), {}


def _scaled(node: fx.Node) -> None:
    """Write down the scale of the scores."""
    given = arguments(node)
    if given["scale"] is None:
        (shape,) = shapes_of(given["query"])
        node.update_kwarg("scale", shape[-1] ** -0.5)


_REWRITES: Mapping[str, Callable[[fx.Node], None]] = {
    "split": _sized,
    "chunk": _sized,
    "scaled_dot_product_attention": _scaled,
}


@dataclass(frozen=True)
class _Shuffle:
    """Ops that only reorder a dimension: each but the last is used by the next alone."""

    ops: tuple[fx.Node, ...]
    dim: int
    order: Tensor


def _shuffle(node: fx.Node) -> _Shuffle | None:
    """Recognise a dimension that is split in two, the two swapped and merged again."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not shapes_of(source):
        return None
    old = shapes_of(source)[0]
    if op_name(node).endswith("channel_shuffle"):
        return _Shuffle((node,), 1, _order(arguments(node)["groups"], old[1]))
    dim, swap = _split_in_two(node, old), _only_user(node)
    if dim is None or swap is None or not _swaps(swap, dim):
        return None
    ops = [node, swap]
    while (user := _only_user(ops[-1])) is not None and op_name(user) in _COPIES:
        ops.append(user)
    if user is None or op_name(user) not in _VIEWS or shapes_of(user) != (old,):
        return None
    return _Shuffle((*ops, user), dim, _order(shapes_of(node)[0][dim], old[dim]))


def _split_in_two(node: fx.Node, old: tuple[int, ...]) -> int | None:
    """Return the dimension that a view splits in two, where it can be one of channels: the second or last."""
    if op_name(node) not in _VIEWS or len(shapes_of(node)[0]) != len(old) + 1:
        return None
    (new,) = shapes_of(node)
    for dim in {1, len(old) - 1} - {0}:
        a, b = new[dim : dim + 2]
        if min(a, b) > 1 and old == (*new[:dim], a * b, *new[dim + 2 :]):
            return dim
    return None


def _only_user(node: fx.Node) -> fx.Node | None:
    user = next(iter(node.users)) if len(node.users) == 1 else None
    return user if user is not None and user.op == "call_function" else None


def _swaps(node: fx.Node, dim: int) -> bool:
    """Tell whether an op swaps a dimension with the next one, and does nothing else."""
    rank = len(shapes_of(node)[0])
    given = arguments(node)
    if op_name(node) == "permute":
        swapped = [*range(rank)]
        swapped[dim], swapped[dim + 1] = dim + 1, dim
        return [d % rank for d in given["dims"]] == swapped
    return op_name(node) == "transpose" and {given["dim0"] % rank, given["dim1"] % rank} == {dim, dim + 1}


def _order(groups: int, length: int) -> Tensor:
    return torch.arange(length).reshape(groups, -1).T.reshape(-1)


def _select(shuffle: _Shuffle) -> str:
    """Replace a shuffle by a selection; return the name of its index, a new constant."""
    first, last = shuffle.ops[0], shuffle.ops[-1]
    graph = first.graph
    with graph.inserting_before(next(iter(graph.nodes))):
        constant = graph.placeholder("c_shuffle")
    constant.meta["val"] = shuffle.order
    with graph.inserting_before(last):
        selected = graph.call_function(torch.ops.aten.index_select.default, (first.args[0], shuffle.dim, constant))
    selected.meta = dict(last.meta)
    last.replace_all_uses_with(selected)
    for node in reversed(shuffle.ops):
        graph.erase_node(node)
    return constant.name
