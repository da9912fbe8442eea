"""What a rule sees and may do, and the table of rules.

A rule says what one ATen op does to channel ids. It gets the labels of the op's arguments, tells the `Flow`
which ids belong together or must stay, and returns the labels of the result. Parameters and buffers are
labelled tensors like any other, with fresh ids on every dimension, so that sharing, tying and reshaping them
needs no special case.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from pipeline.pruning.channels import Channels, Ids

Shape = tuple[int, ...]


class Role(Enum):
    """What a dimension of a parameter has to do with the channels on it."""

    OUT = "out"  # each slice makes one channel: rows of conv and linear weights
    IN = "in"  # each slice reads one channel: columns of conv and linear weights
    ALONG = "along"  # one entry per channel: biases, norms, scales


@dataclass(frozen=True)
class Labels:
    """A tensor as the rules see it: per dimension its ids, or None where the dimension carries no channels.

    `source` is the parameter or buffer that the tensor is, empty for activations and anything derived. `places`
    are the entries of a constant that may be an index, in a graph that can be cut.
    """

    shape: Shape
    dims: tuple[Ids | None, ...]
    source: str = ""
    places: NDArray[np.int64] | None = None

    @classmethod
    def blank(cls, shape: Shape) -> "Labels":
        """Return a tensor without channels."""
        return cls(shape, (None,) * len(shape))

    def with_dim(self, dim: int, length: int, ids: Ids | None) -> "Labels":
        """Return the labels of a result that differs in one dimension."""
        dim %= len(self.shape)
        return Labels(
            (*self.shape[:dim], length, *self.shape[dim + 1 :]), (*self.dims[:dim], ids, *self.dims[dim + 1 :])
        )


Value = Labels | tuple[Any, ...] | None  # what an op returns: a tensor, several, or nothing that carries ids


@dataclass(frozen=True)
class Call:
    """One op of the graph: `arguments` by the schema's names, tensors as Labels, and the results' shapes."""

    op: str
    arguments: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    node: fx.Node | None = None

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str) -> Any:
        """Return an argument, None where this overload of the op has none of that name."""
        return self.arguments.get(name)

    @property
    def shape(self) -> Shape:
        """Shape of the only result."""
        (shape,) = self.shapes
        return shape

    @property
    def x(self) -> Labels:
        """The tensor that the op is about."""
        value: Labels = self.arguments["self" if "self" in self.arguments else "input"]
        return value

    @property
    def reason(self) -> str:
        """The op's name as reports give it."""
        return f"aten.{self.op}"

    def tensors(self) -> Iterator[Labels]:
        """Every tensor among the arguments, those in lists included."""
        for value in self.arguments.values():
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Labels):
                    yield item


@dataclass(frozen=True)
class Box:
    """A dimension seen as several, or several as one: what stays of it must remain a box.

    `whole` holds the ids of the one dimension in the shape of the several, `parts` the ids of each of those.
    Which of the parts carries the channels is decided when the whole graph is known.
    """

    whole: Ids
    parts: tuple[Ids | None, ...]


@dataclass(frozen=True)
class Literal:
    """A size written into the graph: argument `name`, entry `index` of it if it is a list, counts `ids`."""

    node: fx.Node
    name: str
    index: int | None
    ids: Ids


@dataclass(frozen=True)
class Selection:
    """A constant index in the graph: the op `node` takes `places` of a dimension with `ids`."""

    node: fx.Node
    places: NDArray[np.int64]
    ids: Ids


class Flow:
    """The ids of a whole graph while the rules walk over it.

    With `editable` the graph itself will be cut, so that sizes in it can be chosen freely; else the sizes are
    what the module's own forward makes of its attributes and inputs.
    """

    def __init__(self, editable: bool = False) -> None:
        self.editable = editable
        self.channels = Channels()
        self.tensors: dict[str, Labels] = {}
        self.values: dict[fx.Node, Value] = {}  # what is known of every node of the graph
        self.boxes: list[Box] = []
        self.literals: list[Literal] = []
        self.selections: list[Selection] = []
        self._marked: dict[str, list[Ids]] = {}

    def tensor(self, name: str, shape: Shape) -> Labels:
        """Return the parameter or buffer `name`, labelled with fresh ids the first time.

        A dimension of one position gets none: a layer's last channel always stays.
        """
        if name not in self.tensors:
            self.tensors[name] = Labels(shape, self.fresh(shape), name)
        return self.tensors[name]

    def fresh(self, shape: Shape) -> tuple[Ids | None, ...]:
        """Return new ids for every dimension of more than one position."""
        return tuple(self.channels.fresh(n) if n > 1 else None for n in shape)

    def unite(self, a: Ids | None, b: Ids | None) -> Ids | None:
        """Make two equally long dimensions one, and return its ids. Against None the other is kept whole."""
        if a is None or b is None:
            self.keep(a, b)
            return b if a is None else a
        self.channels.unite(a, b)
        return np.where(a < 0, b, a)

    def unite_all(self, one: Ids, lines: Ids) -> None:
        """Make every element of `lines` one with that of `one`, which is broadcast to their shape."""
        self.channels.unite(np.broadcast_to(one, lines.shape).ravel(), lines.ravel())

    def keep(self, *dims: Ids | None, reason: str = "") -> None:
        """Freeze whole dimensions."""
        for ids in dims:
            if ids is not None:
                self.channels.freeze(ids, reason)

    def box(self, whole: Ids, parts: Sequence[Ids | None]) -> None:
        """Record that the ids `whole`, in the shape of `parts`, are these dimensions in one."""
        self.boxes.append(Box(whole, tuple(parts)))

    def literal(self, call: Call, name: str, ids: Ids | None, index: int | None = None) -> None:
        """Record that a number in the graph is the length of a dimension with `ids`."""
        if call.node is not None and ids is not None:
            self.literals.append(Literal(call.node, name, index, ids))

    def select(self, call: Call, places: NDArray[np.int64], ids: Ids) -> None:
        """Record that an index in the graph counts places of a dimension with `ids`."""
        if call.node is not None:
            self.selections.append(Selection(call.node, places, ids))

    def mark(self, ids: Ids | None, what: str) -> None:
        """Remember that `ids` are seen in the part `what`: a role, "head", or "joined" by an addition."""
        if ids is not None:
            self._marked.setdefault(what, []).append(ids[ids >= 0])

    def marked(self, what: str) -> NDArray[np.bool_]:
        """Return per id whether it was marked so."""
        mask = np.zeros(self.channels.size, bool)
        for ids in self._marked.get(what, ()):
            mask[ids] = True
        return mask


def makes(flow: Flow, ids: Ids | None) -> None:
    """Mark the rows of a weight: each makes one channel."""
    flow.mark(ids, Role.OUT.value)


def reads(flow: Flow, ids: Ids | None) -> None:
    """Mark the columns of a weight: each reads one channel."""
    flow.mark(ids, Role.IN.value)


Rule = Callable[[Flow, Call], Value]
_RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of ATen ops, by name without overload and without the underscore of in-place ones."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in _RULES:
                raise ValueError(f"two rules for {op}: {_RULES[op].__module__} and {function.__module__}")
            _RULES[op] = function
        return function

    return register


@cache
def rules() -> Mapping[str, Rule]:
    """Return every rule by op, those of all files in this folder."""
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(_RULES)


def unknown(flow: Flow, call: Call) -> Value:
    """Freeze everything that reaches an op without a rule, and name the op to all that it reaches in turn."""
    for tensor in call.tensors():
        flow.keep(*tensor.dims, reason=call.reason)
    results = tuple(Labels(shape, tuple(flow.channels.fresh(n) for n in shape)) for shape in call.shapes)
    for result in results:
        flow.keep(*result.dims, reason=call.reason)
    return results[0] if len(results) == 1 else results
