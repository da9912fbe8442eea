"""Plug-ins are files: the file name is the name users type. Third parties add theirs as entry points."""

import difflib
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import TypeVar

from pydantic import AfterValidator

from pipeline.errors import UserError
from targets import plugins
from targets.base import TargetError

T = TypeVar("T")


def names(package: str) -> list[str]:
    """Names of the plug-ins in `package`, e.g. "targets.backends", sorted."""
    return list(plugins.names(package))


def module_of(package: str, name: str) -> str:
    """The module that defines a plug-in, for cache keys: of an entry point, the one it leads to."""
    for entry in entry_points(group=f"edgesmith.{package}"):
        if entry.name == name:
            return entry.module
    return f"{package}.{name}"


def modules(package: str) -> list[str]:
    """The modules of all plug-ins in `package`, where all are used."""
    return [module_of(package, name) for name in (*names(package), "base")]


def find(package: str, name: str, base: type[T]) -> type[T]:
    """Return the subclass of `base` that the plug-in `name` of `package` defines. Raises UserError."""
    try:
        return plugins.find(package, name, base)
    except TargetError as error:
        raise UserError(str(error)) from error


def named(package: str) -> AfterValidator:
    """Annotate an option that names a plug-in of `package`, so that a wrong one is found before any work."""

    def check(name: str) -> str:
        known = names(package)
        if name not in known:
            raise ValueError(f"there is no {name!r}{did_you_mean(name, known)}")
        return name

    return AfterValidator(check)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error line: the nearest known word, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} have: {', '.join(known) or 'none'}"
