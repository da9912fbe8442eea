"""`manifest.json` of a folder that `edgesmith deploy` wrote: what was built, of what, and every file's hash."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.board_section import BoardSection
from pipeline.errors import UserError
from pipeline.exporting import Shape
from targets.base import Target, TargetError
from targets.board.options import Board
from targets.plugins import make

FILE, SCHEMA = "manifest.json", "edgesmith.manifest/1"


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was written; its file names stay in its folder."""

    path: Path
    told: Mapping[str, Any]

    @property
    def files(self) -> Mapping[str, Any]:
        """Each file's sha256 and size, by its name below the folder."""
        found: Mapping[str, Any] = self.told["files"]
        return found

    @property
    def inputs(self) -> dict[str, Shape]:
        """Shapes of the model's inputs by name."""
        return {name: tuple(shape) for name, shape in self.told["inputs"].items()}

    @property
    def target_name(self) -> str:
        """What it was built for."""
        name: str = self.told["target"]["name"]
        return name

    @property
    def device(self) -> Mapping[str, Any]:
        """The fingerprint of where it was measured."""
        found: Mapping[str, Any] = self.told["device"]
        return found

    def target(self) -> Target:
        """The target with the options it was built with. Raises UserError."""
        options = {key: value for key, value in self.told["target"].items() if key != "name"}
        try:
            return make(self.target_name, options)
        except TargetError as error:
            raise UserError(f"{self.path}: {error}") from error

    @property
    def mode(self) -> str:
        """What was timed: "latency", or "throughput", with all streams busy."""
        mode: str = self.told["recipe"].get("timing", {}).get("mode", "latency")
        return mode

    def board(self) -> Board:
        """How the device was held still meanwhile. Raises UserError."""
        try:
            return Board(**BoardSection.model_validate(self.told["recipe"].get("board", {})).model_dump())
        except (ValidationError, TargetError) as error:
            raise UserError(f"{self.path}: recipe.board cannot be read: deploy again") from error


def read(folder: Path) -> Manifest:
    """Read and check a folder's manifest; names that lead out of the folder are refused before any is opened.

    Raises UserError.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {FILE}; give a folder that `edgesmith deploy` wrote")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise ValueError(told["schema"])
        for name, entry in told["files"].items():
            if not (isinstance(entry["sha256"], str) and isinstance(entry["size"], int)):
                raise ValueError(name)
        shapes = [tuple(map(int, shape)) for shape in told["inputs"].values()]
        if not (shapes and told["target"]["name"] and {**told["target"], **told["device"], **told["recipe"]}):
            raise ValueError("empty")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is no {SCHEMA}: deploy again") from error
    for name in told["files"]:
        if not safe(name):
            raise UserError(f"{path}: the file name {name!r} leads out of its folder; nothing was read")
    return Manifest(path, told)


def safe(name: str) -> bool:
    """Whether a relative path stays below the folder it is relative to, on any system."""
    parts = name.split("/")
    return "\\" not in name and ":" not in name and "\0" not in name and not {"", ".", ".."} & set(parts)
