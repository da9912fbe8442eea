"""What can be raced: ONNX files, what deploy or compile wrote, recipes, and recipes as a git revision has them."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pipeline import manifest, revisions
from pipeline.devices import Place, as_measured
from pipeline.errors import UserError
from pipeline.exporting import Shape, shapes_of
from pipeline.standalone import load
from targets.base import Target, TargetError
from targets.board.options import UNHELD, Board
from targets.plugins import make

DEFAULT = "cpu"


@dataclass(frozen=True)
class Contender:
    """Something built, and what one call of it takes."""

    name: str  # as the user gave it
    target: Target
    place: Place
    built: Path
    inputs: Mapping[str, tuple[Shape, np.dtype[Any]]]

    @property
    def size_bytes(self) -> int:
        """Of the files that the device needs."""
        return sum(path.stat().st_size for path in self.target.shipped(self.built))


@dataclass(frozen=True)
class Wanted:
    """How a contender is named, and how it is to be built and run where its name does not say."""

    text: str  # a path, or REV:RECIPE
    target: str | None  # None: what it was built for, else cpu
    device: str | None
    options: Mapping[str, Any]  # of the target, e.g. threads
    store: Path


def contender(wanted: Wanted, stack: ExitStack, scratch: Path) -> Contender:
    """Find and, where need be, build what `wanted` names, below the existing folder `scratch`. Raises UserError.

    What must be undone afterwards, such as a git worktree, is left to `stack`.
    """
    path = Path(wanted.text)
    if revisions.written(wanted.text):
        found = revisions.revision(wanted.text, Path.cwd())
        tree = stack.enter_context(revisions.checked_out(found))
        folder = revisions.deployed(tree, found.recipe, _options(wanted), scratch / "out")
        return _deployed(wanted, folder, (tree / found.recipe).parent)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _deployed(wanted, revisions.deployed(Path.cwd(), path, _options(wanted), scratch / "out"), path.parent)
    if path.suffix == ".onnx":
        return _compiled(wanted, path, scratch)
    if not path.is_dir():
        raise UserError(
            f"there is no {path}: give an .onnx file, a recipe, REVISION:RECIPE,"
            " or a folder that deploy or compile wrote"
        )
    return _deployed(wanted, path) if (path / manifest.FILE).is_file() else _built(wanted, path)


def feeds(a: Contender, b: Contender) -> dict[str, NDArray[Any]]:
    """One call's input for both: normal where floats are taken, else zeros. Raises UserError where they differ."""
    told = [{name: shape for name, (shape, _) in one.inputs.items()} for one in (a, b)]
    if told[0] != told[1]:
        said = [", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in one.items()) for one in told]
        raise UserError(f"{a.name} takes {said[0]}, {b.name} takes {said[1]}: not the same job")
    random = np.random.default_rng(0)
    return {
        name: random.standard_normal(shape).astype(kind) if np.issubdtype(kind, np.floating) else np.zeros(shape, kind)
        for name, (shape, kind) in a.inputs.items()
    }


def _options(wanted: Wanted) -> tuple[str, ...]:
    given = ("--target", wanted.target or DEFAULT, "--store", str(wanted.store.resolve()))
    return (*given, *(("--device", wanted.device) if wanted.device else ()))


def _compiled(wanted: Wanted, path: Path, scratch: Path) -> Contender:
    model = load(path)
    kinds = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in model.graph.input
    }
    target = make(wanted.target or DEFAULT, _known(wanted))
    where = _place(wanted, target)
    built = scratch / "built"
    built.mkdir()
    where.device.build(target, path, built)
    inputs = {name: (shape, np.dtype(kinds[name])) for name, shape in shapes_of(model).items()}
    return Contender(wanted.text, target, where, built, inputs)


def _deployed(wanted: Wanted, folder: Path, beside: Path = Path()) -> Contender:
    """A folder that deploy wrote, with the options it was built with, on a device held as it was then."""
    told = manifest.read(folder)
    name = told.target_name
    inputs = {key: (shape, np.dtype(np.float32)) for key, shape in told.inputs.items()}
    if wanted.target not in (None, name):
        raise UserError(
            f"{wanted.text} was built for {name}: leave out --target {wanted.target}, or give its .onnx file"
        )
    target = told.target()
    return Contender(wanted.text, target, _place(wanted, target, beside, told.board()), folder / "model", inputs)


def _built(wanted: Wanted, folder: Path) -> Contender:
    """A folder that compile wrote: what it takes is read from what is loaded."""
    target = make(wanted.target or DEFAULT, _known(wanted))
    where = _place(wanted, target)
    try:
        missing = [path.name for path in target.shipped(folder) if not path.is_file()]
    except FileNotFoundError as error:
        missing = [Path(error.filename).name]
    if missing:
        raise UserError(
            f"{folder}: has no {missing[0]}, which target {target.name()} builds, and no {manifest.FILE} of deploy;"
            " name the target that built it with --target (of B: --against)"
        )
    with target.open(folder) as runner:
        taken = {name: tuple(max(1, size) for size in shape) for name, shape in runner.inputs.items()}
    return Contender(wanted.text, target, where, folder, {n: (s, np.dtype(np.float32)) for n, s in taken.items()})


def _known(wanted: Wanted) -> dict[str, Any]:
    """The options that were given and that the target has; raises UserError for one that is not its default."""
    try:
        plain = make(wanted.target or DEFAULT, {})
    except TargetError as error:
        raise UserError(str(error)) from error
    lacking = [name for name, value in wanted.options.items() if value != 1 and not hasattr(plain, name)]
    if lacking:
        raise UserError(f"target {plain.name()} has no {lacking[0]}: leave out --{lacking[0]}")
    return {name: value for name, value in wanted.options.items() if hasattr(plain, name)}


def _place(wanted: Wanted, target: Target, beside: Path = Path(), board: Board = UNHELD) -> Place:
    found = as_measured(target, wanted.device, board, beside=beside)
    if found.why_not:
        raise UserError(f"{wanted.text}: {target.name()} cannot be timed here: {found.why_not}")
    return found
