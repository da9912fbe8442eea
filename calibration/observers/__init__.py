"""Observers by name: one file each; other distributions add theirs as entry points."""

import pkgutil
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from calibration.errors import CalibrationError
from calibration.observers.base import Observer

PACKAGE = "calibration.observers"
GROUP = f"edgesmith.{PACKAGE}"  # of entry points


def names() -> tuple[str, ...]:
    """Names of all observers: the files of this folder, and the entry points of the group."""
    own = {module.name for module in pkgutil.iter_modules(__path__)} - {"base"}
    return tuple(sorted(own | {point.name for point in entry_points(group=GROUP)}))


def make(name: str, **options: Any) -> Observer[Any]:
    """Return the observer `name` with `options`. Raises CalibrationError for an unknown name or option."""
    if name not in names():
        raise CalibrationError(f"no observer named {name!r}; have: {', '.join(names())}")
    kind = _kind(name)
    known = tuple(field.name for field in fields(kind))
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise CalibrationError(f"observer {name} has no option {unknown[0]!r}; have: {', '.join(known) or 'none'}")
    return kind(**options)


def _kind(name: str) -> type[Observer[Any]]:
    for point in entry_points(group=GROUP):
        if point.name == name:
            found: type[Observer[Any]] = point.load()
            return found
    module = import_module(f"{PACKAGE}.{name}")
    (kind,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Observer) and value.__module__ == module.__name__
    )
    return kind
