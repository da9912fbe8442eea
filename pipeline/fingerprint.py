"""Content hashes: of values, of files, and of the code that a result depends on."""

import ast
import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

OURS = ("pipeline", "calibration", "targets")


def of_value(value: Any) -> str:
    """Sha256 over a value's canonical JSON. Raises TypeError for what has no stable form."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, allow_nan=False).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return `value` as JSON data: dataclasses by type and fields, less those marked `cache: False`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = (f.name for f in dataclasses.fields(value) if f.metadata.get("cache", True))
        return {"type": type(value).__qualname__, **{name: plain(getattr(value, name)) for name in kept}}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical form: {value!r}")


def of_file(path: Path) -> str:
    """Sha256 of a file's bytes."""
    h = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def files_in(folder: Path) -> dict[str, str]:
    """Sha256 of every file below `folder`, by relative path with forward slashes."""
    return {p.relative_to(folder).as_posix(): of_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def of_folder(folder: Path) -> str:
    """Sha256 over the names and contents of every file below `folder`."""
    return of_value(files_in(folder))


def code_behind(modules: Iterable[str]) -> dict[str, str]:
    """Sha256 of the source of each module and of every module of the same project that it imports.

    Imports are read from the source, inside functions too; nothing is imported to find out. "The same project"
    is this one and the top-level package of each module asked for.
    """
    modules = list(modules)
    roots = frozenset(OURS) | {m.partition(".")[0] for m in modules}
    return _closure(modules, lambda name: _source(name) if name.partition(".")[0] in roots else None)


def code_of_file(path: Path) -> dict[str, str]:
    """Sha256 of a Python file and of the modules beside it that it imports, by module name."""
    return _closure([path.stem], lambda name: _below(path.parent, name.split(".")))


def _closure(start: Iterable[str], locate: Callable[[str], Path | None]) -> dict[str, str]:
    seen: dict[str, str] = {}
    queue = list(start)
    while queue:
        name = queue.pop()
        path = locate(name) if name not in seen else None
        if path is not None:
            seen[name] = of_file(path)
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            queue += _imports(path, package)
    return dict(sorted(seen.items()))


@cache
def _source(module: str) -> Path | None:
    """The source of a module, found from where its top-level package lies."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin.endswith(".py") else None
    return _below(Path(spec.origin).parent, rest) if spec.submodule_search_locations else None


def _below(folder: Path, parts: Sequence[str]) -> Path | None:
    stem = folder.joinpath(*parts)
    candidates = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _imports(path: Path, package: str) -> tuple[str, ...]:
    """The names that a file imports, and the packages they are in: those run too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(filter(None, [*above, base]))
            # `from package import name` may import a submodule
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(name for module in found for name in _with_parents(module))


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts)) if parts[0]]
