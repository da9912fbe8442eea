"""Plug-ins by file name: `targets/backends/cpu.py` holds the target `cpu`. Nothing is registered anywhere.

Other distributions add theirs through entry points, in the group `edgesmith.` + the package's name, such as
`edgesmith.targets.backends`.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from dataclasses import asdict, fields
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Tuple, Type, TypeVar

from targets.base import Target, TargetError

Plugin = TypeVar("Plugin")
BACKENDS = "targets.backends"


def names(package: str) -> Tuple[str, ...]:
    """Names of the plug-ins of `package`: modules without a leading underscore, and entry points."""
    files = {m.name for m in pkgutil.iter_modules([_folder(package)]) if not m.name.startswith("_")} - {"base"}
    return tuple(sorted(files | {entry.name for entry in _entries(package)}))


def _folder(package: str) -> str:
    """Where a package lies; it is not imported, which for some would import torch."""
    top, *rest = package.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise TargetError(f"there is no package {package}")
    return str(Path(spec.submodule_search_locations[0]).joinpath(*rest))


def find(package: str, name: str, base: Type[Plugin]) -> Type[Plugin]:
    """Return the one subclass of `base` that the plug-in `name` of `package` defines.

    Raises TargetError, with the names there are, for an unknown one.
    """
    known = names(package)
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise TargetError(f"no {base.__name__.lower()} named {name!r}: {hint}have {', '.join(known)}")
    for entry in _entries(package):
        if entry.name == name:
            return _checked(entry.load(), base, entry.value)
    module = import_module(f"{package}.{name}")
    own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    found = [c for c in own if issubclass(c, base)]
    if len(found) != 1:
        raise TargetError(f"{module.__name__} must define one subclass of {base.__name__}, has {len(found)}")
    return found[0]


def spec(target: Target) -> Dict[str, Any]:
    """Describe a target for another process to make: `{"target": "module:Class", "options": {…}}`."""
    kind = type(target)
    return {"target": f"{kind.__module__}:{kind.__qualname__}", "options": asdict(target)}


def from_spec(path: str, options: Mapping[str, Any]) -> Target:
    """Make the target that `spec` described. Raises TargetError for anything but an installed target.

    The path is looked up among the plug-ins rather than imported, so a message cannot name arbitrary code.
    """
    for name in names(BACKENDS):
        if path.startswith(f"{BACKENDS}.{name}:") or path in _entry_paths():
            kind = find(BACKENDS, name, Target)
            if f"{kind.__module__}:{kind.__qualname__}" == path:
                return make(name, options)
    raise TargetError(f"{path!r} is not a target installed here; have: {', '.join(names(BACKENDS))}")


def make(name: str, options: Mapping[str, Any]) -> Target:
    """Make the target `name` from plain options, lists standing for tuples. Raises TargetError."""
    kind = find(BACKENDS, name, Target)
    known = [f.name for f in fields(kind)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TargetError(f"target {name} has no option {unknown[0]!r}; have: {', '.join(known)}")
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in options.items()})


def _entry_paths() -> Tuple[str, ...]:
    return tuple(entry.value for entry in _entries(BACKENDS))


def _entries(package: str) -> Iterable[EntryPoint]:
    group = f"edgesmith.{package}"
    if sys.version_info < (3, 10):
        return tuple(entry_points().get(group, ()))
    return tuple(entry_points(group=group))


def _checked(kind: Any, base: Type[Plugin], where: str) -> Type[Plugin]:
    if not (inspect.isclass(kind) and issubclass(kind, base)):
        raise TargetError(f"entry point {where} is not a subclass of {base.__name__}")
    return kind
