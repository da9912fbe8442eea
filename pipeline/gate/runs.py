"""A folder that `edgesmith deploy` wrote, read back and checked: nothing of it is trusted before its hashes fit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import UserError
from pipeline.exporting import Shape
from pipeline.fingerprint import of_file, of_value
from pipeline.gate.tolerances import Gate, validated
from pipeline.report.files import read
from pipeline.report.schema import Report, StageReport
from targets.base import Target, TargetError
from targets.plugins import make

MANIFEST, REPORT, MODEL = "manifest.json", "report.json", "model"
SCHEMA = "edgesmith.manifest/1"


@dataclass(frozen=True)
class Run:
    """A deployed run whose files are what its manifest says."""

    folder: Path
    model: Path  # the folder of the artifact itself
    report: Report
    manifest: Mapping[str, Any]

    @property
    def row(self) -> StageReport:
        """What the report says of the artifact in `model`."""
        return self.report.stages[-1]

    @property
    def digest(self) -> str:
        """Hash of the artifact's files and of the report: which run this is."""
        return of_value({name: entry["sha256"] for name, entry in kept(self.manifest).items()})

    @property
    def inputs(self) -> dict[str, Shape]:
        """Shapes of the model's inputs by name."""
        return {name: tuple(shape) for name, shape in self.manifest["inputs"].items()}

    @property
    def target_name(self) -> str:
        """What it was built for."""
        name: str = self.manifest["target"]["name"]
        return name

    @property
    def device(self) -> Mapping[str, Any]:
        """The fingerprint of where it was measured."""
        found: Mapping[str, Any] = self.manifest["device"]
        return found

    def file(self, name: str) -> Path:
        """Where a file of the manifest lies."""
        return located(name, self.folder, self.model)

    def target(self) -> Target:
        """The target with the options it was built with. Raises UserError."""
        options = {key: value for key, value in self.manifest["target"].items() if key != "name"}
        try:
            return make(self.target_name, options)
        except TargetError as error:
            raise UserError(f"{self.folder / MANIFEST}: {error}") from error

    def gate(self) -> Gate:
        """The tolerances of the recipe that made it. Raises UserError."""
        return validated(self.manifest["recipe"].get("gate", {}), f"{self.folder / MANIFEST}: recipe.gate")


def load(folder: Path, model: Path | None = None) -> Run:
    """Read a run; its artifact lies in `folder`/model, or in `model`. Raises UserError for what does not fit."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST}; give a folder that `edgesmith deploy` wrote")
    manifest = _manifest(path)
    report = read(folder)
    if not report.stages:
        raise UserError(f"{folder / REPORT}: has no stages; deploy again")
    model = model or folder / MODEL
    for name, entry in kept(manifest).items():
        _verify(located(name, folder, model), entry, path)
    return Run(folder, model, report, manifest)


def located(name: str, folder: Path, model: Path) -> Path:
    """Where a file of a manifest lies whose artifact may be elsewhere."""
    first, *rest = PurePosixPath(name).parts
    return model.joinpath(*rest) if first == MODEL and rest else folder / name


def kept(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The files that a comparison needs: the report and the artifact."""
    return {n: e for n, e in sorted(manifest["files"].items()) if n == REPORT or n.startswith(f"{MODEL}/")}


def _manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; names that lead out of its folder are refused before anything is opened by them."""
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
    if not any(name.startswith(f"{MODEL}/") for name in told["files"]) or REPORT not in told["files"]:
        raise UserError(f"{path}: lists no {MODEL}/ or no {REPORT}: deploy again")
    found: dict[str, Any] = told
    return found


def safe(name: str) -> bool:
    """Whether a relative path stays below the folder it is relative to, on any system."""
    parts = name.split("/")
    return "\\" not in name and ":" not in name and "\0" not in name and not {"", ".", ".."} & set(parts)


def _verify(path: Path, entry: Mapping[str, Any], manifest: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: listed in {manifest}, but there is no such file; deploy or save it again")
    if path.stat().st_size != entry["size"] or of_file(path) != entry["sha256"]:
        raise UserError(f"{path}: its bytes are not those that {manifest} lists; deploy or save it again")
