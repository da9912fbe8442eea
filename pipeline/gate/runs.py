"""A folder that `edgesmith deploy` wrote, read back and checked: nothing of it is trusted before its hashes fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import UserError
from pipeline.fingerprint import of_file, of_value
from pipeline.gate.tolerances import Gate, validated
from pipeline.manifest import Manifest
from pipeline.manifest import read as read_manifest
from pipeline.report.files import read
from pipeline.report.schema import Report, StageReport

REPORT, MODEL = "report.json", "model"


@dataclass(frozen=True)
class Run:
    """A deployed run whose files are what its manifest says."""

    folder: Path
    model: Path  # the folder of the artifact itself
    report: Report
    manifest: Manifest

    @property
    def row(self) -> StageReport:
        """What the report says of the artifact in `model`."""
        return self.report.stages[-1]

    @property
    def digest(self) -> str:
        """Hash of the artifact's files and of the report: which run this is."""
        return of_value({name: entry["sha256"] for name, entry in kept(self.manifest).items()})

    def file(self, name: str) -> Path:
        """Where a file of the manifest lies."""
        return located(name, self.folder, self.model)

    def gate(self) -> Gate:
        """The tolerances of the recipe that made it. Raises UserError."""
        return validated(self.manifest.told["recipe"].get("gate", {}), f"{self.manifest.path}: recipe.gate")


def load(folder: Path, model: Path | None = None) -> Run:
    """Read a run; its artifact lies in `folder`/model, or in `model`. Raises UserError for what does not fit."""
    manifest = read_manifest(folder)
    if not any(name.startswith(f"{MODEL}/") for name in manifest.files) or REPORT not in manifest.files:
        raise UserError(f"{manifest.path}: lists no {MODEL}/ or no {REPORT}: deploy again")
    report = read(folder)
    if not report.stages:
        raise UserError(f"{folder / REPORT}: has no stages; deploy again")
    model = model or folder / MODEL
    for name, entry in kept(manifest).items():
        _verify(located(name, folder, model), entry, manifest.path)
    return Run(folder, model, report, manifest)


def located(name: str, folder: Path, model: Path) -> Path:
    """Where a file of a manifest lies whose artifact may be elsewhere."""
    first, *rest = PurePosixPath(name).parts
    return model.joinpath(*rest) if first == MODEL and rest else folder / name


def kept(manifest: Manifest) -> dict[str, Any]:
    """The files that a comparison needs: the report and the artifact."""
    return {n: e for n, e in sorted(manifest.files.items()) if n == REPORT or n.startswith(f"{MODEL}/")}


def _verify(path: Path, entry: Mapping[str, Any], manifest: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: listed in {manifest}, but there is no such file; deploy or save it again")
    if path.stat().st_size != entry["size"] or of_file(path) != entry["sha256"]:
        raise UserError(f"{path}: its bytes are not those that {manifest} lists; deploy or save it again")
