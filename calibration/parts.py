"""The parts of a network that may be in int8 or in float apart from the rest: few enough to time each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from onnx import ModelProto, NodeProto

from calibration.graph import Index, attributes, index, label
from calibration.kernels import Layer, layers
from calibration.placement import Placement
from calibration.scheme import Scheme

MOST = 12  # runs of layers, beside the first layer, the last one and the ops of one kind


@dataclass(frozen=True)
class Part:
    """Ops that change sides together."""

    name: str
    ops: frozenset[str]  # by `graph.label`
    layers: tuple[Layer, ...] = ()  # a part with layers overlaps no other such part; together they are the network


def parts(model: ModelProto, placed: Placement, scheme: Scheme, most: int = MOST) -> tuple[Part, ...]:
    """Return the parts of what of `model` is in int8 in `placed`.

    The first and the last layer by themselves, and the layers between in at most `most` runs that follow each
    other: short networks layer by layer, deep ones in runs that end, where they can, behind a residual add, as
    a border within a block costs a conversion on two paths. Then the ops of one kind all over the network that
    runtimes often have no fast int8 kernel for: residual adds, depthwise convolutions, products of
    activations, and the other ops without weights. No two parts have the same ops.
    """
    whole = layers(model, placed, scheme)
    found: dict[frozenset[str], Part] = {}
    for part in (*_runs(model, whole, most), *_kinds(model, placed, scheme)):
        found.setdefault(part.ops, part)
    return tuple(found.values())


def _runs(model: ModelProto, whole: Sequence[Layer], most: int) -> Iterator[Part]:
    if not whole:
        return
    if len(whole) > 2:
        yield _part("the first layer", whole[:1])
    for run in _cut(whole[1:-1] if len(whole) > 2 else whole, _adds(model), most):
        one = len(run) == 1
        yield _part(run[0].name if one else f"{run[0].name} … {run[-1].name}", run)
    if len(whole) > 2:
        yield _part("the last layer", whole[-1:])


def _part(name: str, of: Sequence[Layer]) -> Part:
    return Part(name, frozenset(op for layer in of for op in layer.ops), tuple(of))


def _cut(inner: Sequence[Layer], adds: frozenset[str], most: int) -> list[list[Layer]]:
    """Cut at the ends of blocks once a run is long enough; a block that is far longer is cut anyway."""
    least = ceil(len(inner) / most)
    runs: list[list[Layer]] = [[]]
    for layer in inner:
        runs[-1].append(layer)
        ends = least == 1 or not adds or not adds.isdisjoint(layer.ops)
        if len(runs[-1]) >= least and (ends or len(runs[-1]) >= 2 * least):
            runs.append([])
    return [run for run in runs if run]


def _adds(model: ModelProto) -> frozenset[str]:
    return frozenset(label(node) for node in model.graph.node if node.op_type == "Add")


def _kinds(model: ModelProto, placed: Placement, scheme: Scheme) -> Iterator[Part]:
    """The ops of each kind, where there are others too."""
    found = index(model.graph)
    taken = [node for node in model.graph.node if label(node) in set(placed.quantized)]
    kinds: Mapping[str, Callable[[NodeProto], bool]] = {
        "residual adds": lambda node: node.op_type == "Add",
        "depthwise convolutions": lambda node: _depthwise(node, found),
        "products of activations": lambda node: node.op_type == "MatMul" and node.input[1] not in found.constants,
        "pools and concats": lambda node: node.op_type in scheme.joined and node.op_type not in ("Add", "MatMul"),
    }
    for name, belongs in kinds.items():
        ops = frozenset(label(node) for node in taken if belongs(node))
        if ops and len(ops) < len(taken):
            yield Part(name, ops)


def _depthwise(node: NodeProto, found: Index) -> bool:
    weight = found.constants.get(node.input[1]) if node.op_type == "Conv" else None
    return weight is not None and attributes(node).get("group", 1) > 1 and weight.dims[1] == 1
