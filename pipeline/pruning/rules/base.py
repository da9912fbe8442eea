"""What a rule sees and may do, and the table of rules.

A rule says what one ATen op does to channel ids. It gets the labels of the op's arguments, tells the `Flow`
which ids belong together or must stay, and returns the labels of the result. Parameters and buffers are
labelled tensors like any other, with fresh ids on every dimension, so that sharing, tying and reshaping them
needs no special case.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np

from torch import fx

from pipeline.pruning.channels import Channels, Ids

Shape = tuple[int, ...]


class Role(Enum):
    """What a dimension of a parameter has to do with the channels on it."""

    OUT = "out"  # each slice makes one channel: conv and linear weights, dimension 0
    IN = "in"  # each slice reads one channel: conv and linear weights, dimension 1
    ALONG = "along"  # one entry per channel: biases, norms, scales


@dataclass(frozen=True)
class Labels:
    """A tensor as the rules see it: per dimension its ids, or None where the dimension carries no channels.

    `source` is the parameter or buffer that the tensor is, empty for activations and anything derived.
    """

    shape: Shape
    dims: tuple[Ids | None, ...]
    source: str = ""

    @classmethod
    def blank(cls, shape: Shape) -> "Labels":
        """Return a tensor without channels."""
        return cls(shape, (None,) * len(shape))


Value = Labels | tuple[Any, ...] | None  # what an op returns: a tensor, several, or nothing that carries ids


@dataclass(frozen=True)
class Call:
    """One op of the graph: `arguments` by the schema's names, tensors as Labels, and the results' shapes."""

    op: str
    arguments: Mapping[str, Any]
    shapes: tuple[Shape, ...]

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

    def tensors(self) -> Iterator[Labels]:
        """Every tensor among the arguments, those in lists included."""
        for value in self.arguments.values():
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Labels):
                    yield item


class Flow:
    """The ids of a whole graph while the rules walk over it."""

    def __init__(self) -> None:
        self.channels = Channels()
        self.tensors: dict[str, Labels] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self.channels_per_group: dict[str, int] = {}  # conv weights that lose whole groups
        self.values: dict[fx.Node, Value] = {}  # what is known of every node of the graph

    def tensor(self, name: str, shape: Shape) -> Labels:
        """Return the parameter or buffer `name`, labelled with fresh ids the first time.

        A dimension of one position gets none: a layer's last channel always stays.
        """
        if name not in self.tensors:
            dims = tuple(self.channels.fresh(n) if n > 1 else None for n in shape)
            self.tensors[name] = Labels(shape, dims, name)
        return self.tensors[name]

    def unite(self, a: Ids | None, b: Ids | None) -> Ids | None:
        """Make two equally long dimensions one, and return its ids. Against None the other is kept whole."""
        if a is None or b is None:
            self.keep(a, b)
            return b if a is None else a
        self.channels.unite(a, b)
        return np.where(a < 0, b, a)

    def keep(self, *dims: Ids | None, reason: str = "") -> None:
        """Freeze whole dimensions."""
        for ids in dims:
            if ids is not None:
                self.channels.freeze(ids, reason)

    def mark(self, tensor: Labels, dim: int, role: Role) -> None:
        """Record the role of a parameter's dimension; where it has several, making channels counts."""
        key = tensor.source, dim
        if tensor.source and self.roles.get(key) is not Role.OUT:
            self.roles[key] = role

    def role(self, name: str, dim: int) -> Role:
        """Return the role of a dimension."""
        return self.roles.get((name, dim), Role.ALONG)

    def settled(self, ids: Ids | None) -> bool:
        """Whether no id of the dimension can go any more, as far as the walk has come."""
        if ids is None:
            return True
        roots = self.channels.roots()
        return bool(self.channels.frozen()[roots[ids[ids >= 0]]].all())


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
    reason = f"aten.{call.op}"
    for tensor in call.tensors():
        flow.keep(*tensor.dims, reason=reason)
    results = tuple(Labels(shape, tuple(flow.channels.fresh(n) for n in shape)) for shape in call.shapes)
    for result in results:
        flow.keep(*result.dims, reason=reason)
    return results[0] if len(results) == 1 else results
