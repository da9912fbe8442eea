"""Sizes that a module's forward reads from its attributes: which of them a cut changes, and to what.

The graph holds numbers, e.g. those of a view or a split. Where the module whose forward put one there has an
attribute of that value that its methods read, the attribute is given the new value. Whether that was right
is not assumed: the proof runs the module.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.pruning.rules.base import Flow, Literal
from pipeline.pruning.trace import arguments, module_of


@dataclass(frozen=True)
class Change:
    """A number in the graph that a cut changes."""

    literal: Literal
    old: int
    new: int

    @property
    def module(self) -> str:
        """The module whose forward holds it."""
        return module_of(self.literal.node)


def changes(flow: Flow, alive: NDArray[np.bool_]) -> list[Change]:
    """Return the sizes in the graph that change when only the ids `alive` stay."""
    found = []
    for literal in flow.literals:
        gone = int(np.count_nonzero(~alive[literal.ids[literal.ids >= 0]]))
        if gone:
            found.append(Change(literal, len(literal.ids), len(literal.ids) - gone))
    return found


def attributes(model: nn.Module, changed: Iterable[Change]) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Return the new values of attributes, by module. One that would need two different values is left alone."""
    wanted: dict[tuple[str, str, int | None], set[int]] = {}
    for change in changed:
        if _written(change) != change.old:
            continue  # worked out when the model runs: -1, or all that there is
        for attribute, index in _places(model.get_submodule(change.module), change):
            wanted.setdefault((change.module, attribute, index), set()).add(change.new)
    result: dict[str, dict[str, Any]] = {}
    for (module, attribute, index), values in wanted.items():
        if len(values) > 1:
            continue
        (value,) = values
        held = result.setdefault(module, {})
        if index is None:
            held[attribute] = value
        else:
            entries = [*held.get(attribute, getattr(model.get_submodule(module), attribute))]
            entries[index] = value
            held[attribute] = tuple(entries)
    return {module: held for module, held in result.items() if held}


def _written(change: Change) -> Any:
    """Return the number as the graph has it."""
    value = arguments(change.literal.node).get(change.literal.name)
    return (
        value[change.literal.index] if isinstance(value, list | tuple) and change.literal.index is not None else value
    )


def _places(module: nn.Module, change: Change) -> list[tuple[str, int | None]]:
    """Return the attributes, with the entry of those that are tuples, that may be where a number comes from."""
    name, index = change.literal.name, change.literal.index
    held: Mapping[str, Any] = vars(module)
    numbers = [k for k, v in held.items() if type(v) is int and v == change.old]
    if name in numbers:
        return [(name, None)]
    several = [
        k
        for k, v in held.items()
        if isinstance(v, tuple | list) and index is not None and len(v) > index and v[index] == change.old
    ]
    if name in several:
        return [(name, index)]
    if type(module).__module__.startswith("torch."):
        return []  # their sizes follow from their tensors
    read = _names_read(type(module))
    return [*((k, None) for k in numbers if k in read), *((k, index) for k in several if k in read)]


def _names_read(kind: type) -> set[str]:
    """Return the attribute names that the methods of a class use once it is made."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base is nn.Module:
            break
        for key, method in vars(base).items():
            code = getattr(method, "__code__", None)
            if isinstance(code, CodeType) and key != "__init__":
                names |= set(code.co_names)
    return names
