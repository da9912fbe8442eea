"""Sizes that a module's forward reads from its attributes: which of them a cut changes, and to what.

The graph holds numbers, e.g. those of a view or a split. Where the module whose forward put one there has an
attribute of that value that its methods read, the attribute is given the new value. Whether that was right
is not assumed: the proof runs the module, and where it fails the next guess is tried.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
from torch import nn

from pipeline.pruning.channels import Alive, stays
from pipeline.pruning.rules.base import Flow, Literal
from pipeline.pruning.trace import arguments, module_of

NONE, EXACT, MULTIPLE, PART = GUESSES = range(4)  # what an attribute is of a number; with NONE it stays as it is

# attributes that measure space, or time, count no channels, whatever their value
_OF_SPACE = re.compile(
    "kernel|stride|pad|dilat|window|block|halo|resol|grid|image|img|patch|shift|pool|feat_size|depth"
)
_OF_HEADS = re.compile("heads|groups")

Guesses = Mapping[type, int]  # class of modules -> guess, NONE where there is none


@dataclass(frozen=True)
class Change:
    """A number in the graph that a cut changes."""

    literal: Literal
    old: int
    new: int
    heads: bool = False  # whether it counts attention heads

    @property
    def module(self) -> str:
        """The module whose forward holds it."""
        return module_of(self.literal.node)


def changes(flow: Flow, alive: Alive) -> list[Change]:
    """Return the sizes in the graph that change when only the ids `alive` stay."""
    found, heads = [], flow.marked("head")
    for literal in flow.literals:
        new = int(np.count_nonzero(stays(literal.ids, alive)))
        if new < len(literal.ids):
            counts_heads = bool(heads[literal.ids[literal.ids >= 0]].any())
            found.append(Change(literal, len(literal.ids), new, counts_heads))
    return found


def attributes(
    model: nn.Module, changed: Iterable[Change], guesses: Guesses
) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Return the new values of attributes, by module. One that would need two different values is left alone."""
    wanted: dict[tuple[str, str, int | None], set[int]] = {}
    for change in changed:
        if _written(change) != change.old:
            continue  # worked out when the model runs: -1, or all that there is
        module = model.get_submodule(change.module)
        for attribute, index, value in _places(module, change, guesses.get(type(module), NONE)):
            wanted.setdefault((change.module, attribute, index), set()).add(value)
    result: dict[str, dict[str, Any]] = {}
    for (name, attribute, index), values in wanted.items():
        if len(values) > 1:
            continue
        (value,) = values
        held = result.setdefault(name, {})
        if index is None:
            held[attribute] = value
        else:
            entries = [*held.get(attribute, getattr(model.get_submodule(name), attribute))]
            entries[index] = value
            held[attribute] = tuple(entries)
    return {name: held for name, held in result.items() if held}


def _written(change: Change) -> Any:
    """Return the number as the graph has it."""
    value = arguments(change.literal.node).get(change.literal.name)
    return (
        value[change.literal.index] if isinstance(value, list | tuple) and change.literal.index is not None else value
    )


def _places(module: nn.Module, change: Change, guess: int) -> list[tuple[str, int | None, int]]:
    """Return attributes that a number may come from, with the entry of those that are tuples, and their new values."""
    name, index, old, new = change.literal.name, change.literal.index, change.old, change.new
    held: Mapping[str, Any] = vars(module)
    numbers = {k: v for k, v in held.items() if type(v) is int and v > 0 and not _OF_SPACE.search(k)}
    if numbers.get(name) == old:
        return [(name, None, new)]
    several = [k for k, v in held.items() if index is not None and _is_list(v, change)]
    if name in several:
        return [(name, index, new)]
    if type(module).__module__.startswith("torch.") or guess == NONE:
        return []  # the sizes of torch's own follow from their tensors
    read = _names_read(type(module))
    exact = [*((k, None, new) for k, v in numbers.items() if v == old), *((k, index, new) for k in several)]
    above = [(k, None, v // old * new) for k, v in numbers.items() if v > old and v % old == 0]
    below = [(k, None, v * new // old) for k, v in numbers.items() if v < old and old % v == 0 and v * new % old == 0]
    found = {EXACT: exact, MULTIPLE: exact or above, PART: exact or below}[guess]
    return _likely([place for place in found if place[0] in read], change)


def _likely(places: list[tuple[str, int | None, int]], change: Change) -> list[tuple[str, int | None, int]]:
    """Tell numbers of heads from widths by name, where attributes of both kinds have the same value."""
    named = [place for place in places if _OF_HEADS.search(place[0])]
    others = [place for place in places if place not in named]
    return (named or others) if change.heads else (others or named)


def _is_list(value: Any, change: Change) -> bool:
    """Whether an attribute holds all the numbers that the number in question is one of."""
    written = arguments(change.literal.node).get(change.literal.name)
    return isinstance(value, tuple | list) and isinstance(written, tuple | list) and [*value] == [*written]


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
