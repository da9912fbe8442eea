"""What a recipe refers to by import path: the user's model and data, with everything that identifies them."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import fingerprint
from pipeline.data.base import Data
from pipeline.data.check import check
from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import nn

CHECKED = 1000  # samples per split that are looked at before work begins

_USER = "edgesmith_user_"  # what the names of users' files begin with, as modules

_DATA: dict[tuple[str, str], Data] = {}


@dataclass(frozen=True)
class Factory:
    """A callable named "package.module:name" or "file.py:name", and its keyword arguments.

    `code` is the hash of the source behind it, so that the location of a checkout does not enter cache keys.
    """

    ref: str = field(metadata={"cache": False})
    args: Mapping[str, Any]
    code: str
    folder: str = field(default=".", metadata={"cache": False})  # what relative paths are relative to

    def __call__(self) -> Any:
        """Import the callable and call it. Raises UserError if it is not there or refuses its arguments."""
        target = resolve(self.ref, Path(self.folder))
        args = {key: _anchored(value, Path(self.folder)) for key, value in self.args.items()}
        try:
            return target(**args)
        except TypeError as error:
            if error.__traceback__ and error.__traceback__.tb_next is None:  # the call itself was refused
                raise UserError(f"{self.ref} does not take these args: {error}") from error
            raise


@dataclass(frozen=True)
class ModelSpec:
    """A model's factory and where its weights come from."""

    factory: Factory
    weights: str | None = field(default=None, metadata={"cache": False})  # an existing file
    weights_sha256: str | None = None

    def build(self) -> "nn.Module":
        """Build the model with the weights its factory gives it. Raises UserError if it gives no module."""
        from torch import nn

        model = self.factory()
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise UserError(f"model.factory {self.factory.ref} returned {kind}, not a torch.nn.Module")
        return model


@dataclass(frozen=True)
class DataSpec:
    """A data set's factory and the hash of what it gave."""

    factory: Factory
    version: str

    def load(self) -> Data:
        """Return the data, loaded once per process."""
        key = (self.factory.folder, fingerprint.of_value([self.factory.ref, self.factory]))
        if key not in _DATA:
            _DATA[key] = checked(self.factory(), self.factory.ref)
        return _DATA[key]


def factory(ref: str, args: Mapping[str, Any], folder: Path) -> Factory:
    """Make a Factory of what a recipe says, hashing the code behind it."""
    module, name = split(ref)
    if module.endswith(".py"):
        path = (folder / module).resolve()
        if not path.is_file():
            raise UserError(f"{ref}: there is no file {path}")
        try:
            files = fingerprint.code_of_file(path)
        except SyntaxError as error:
            raise UserError(f"{error.filename}:{error.lineno} is no valid Python: {error.msg}") from error
        code = fingerprint.of_value({"name": name, "files": files})
    else:
        _on_path(folder)
        code = fingerprint.of_value({"ref": ref, "files": fingerprint.code_behind([module])})
    return Factory(ref, args, code, str(folder.resolve()))


def data_spec(made: Factory) -> DataSpec:
    """Load the data to learn its version, which enters the keys of all that is made from it."""
    spec = DataSpec(made, "")
    data = spec.load()
    digests = {name: getattr(split, "digest", "") for name, split in data.splits.items()}
    lacking = [name for name, digest in digests.items() if not digest]
    if lacking and not data.version:
        raise UserError(
            f"data.factory {made.ref}: give Data(version=…), or a `digest` on the splits "
            f"{', '.join(lacking)}; without one a change of the data would go unnoticed"
        )
    return DataSpec(made, fingerprint.of_value({"version": data.version, "splits": digests}))


def checked(data: Any, ref: str) -> Data:
    """Return `data` if it can be trained and tested on. Raises UserError for empty or mislabelled splits."""
    if not isinstance(data, Data):
        raise UserError(f"data.factory {ref} returned {type(data).__name__}, not a pipeline.data.base.Data")
    check(data, f"data.factory {ref}", CHECKED)
    return data


def weights_file(given: str, folder: Path) -> Path:
    """Return the file named by a path (relative to `folder`) or by "package:file". Raises UserError."""
    package, colon, name = given.partition(":")
    path = folder / given
    if colon and not path.exists():
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            spec = None
        folders = spec.submodule_search_locations if spec else None
        path = Path(folders[0]) / name if folders else path
    if not path.is_file():
        raise UserError(f"model.weights: there is no file {path}")
    return path


def split(ref: str) -> tuple[str, str]:
    """Split "module:name". Raises UserError for anything else."""
    module, colon, name = ref.rpartition(":")
    if not (colon and module and name.isidentifier()):
        raise UserError(f"{ref!r} is no import path; write package.module:name or file.py:name")
    return module, name


def resolve(ref: str, folder: Path) -> Any:
    """Import what `ref` names. Raises UserError if the module or the name does not exist."""
    module_name, name = split(ref)
    if module_name.endswith(".py"):
        module = import_file((folder / module_name).resolve())
    else:
        _on_path(folder)
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and module_name.startswith(error.name):
                raise UserError(f"{ref}: there is no module {error.name}") from error
            raise
    if not hasattr(module, name):
        raise UserError(f"{ref}: {module_name} has no {name!r}")
    return getattr(module, name)


def import_file(path: Path) -> Any:
    """Import a Python file under a name that follows from its path, once per process. Raises UserError."""
    name = f"{_USER}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    _on_path(path.parent)  # so that it can import the files beside it
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"cannot import {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        where = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{path}{where} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def imported_files() -> tuple[Path, ...]:
    """Return the files that `import_file` has imported here, in that order."""
    modules = [module for name, module in sys.modules.items() if name.startswith(_USER)]
    return tuple(Path(module.__file__) for module in modules if module.__file__)


def _on_path(folder: Path) -> None:
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.append(entry)


def _anchored(value: Any, folder: Path) -> Any:
    """Turn "./x" into a path below the recipe's folder; other strings are the factory's business."""
    return str(folder / value) if isinstance(value, str) and value.startswith(("./", "../")) else value
