"""The store of baselines: a plain folder that a repository can hold or a CI can cache.

<root>/<name>/versions/0001/baseline.json      when it was saved, and where the artifact lies
<root>/<name>/versions/0001/report.json …      report, manifest and model/ as `deploy` wrote them, raw samples too
<root>/<name>/history.jsonl                    a line per run that was saved or checked
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from pipeline.errors import UserError
from pipeline.gate.runs import MODEL, Run, kept
from pipeline.gate.runs import load as load_run
from pipeline.manifest import FILE as MANIFEST
from pipeline.plugins import did_you_mean

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FILE, SCHEMA = "baseline.json", "edgesmith.baseline/1"


@dataclass(frozen=True)
class Version:
    """What is known of a baseline besides its run."""

    name: str
    number: int
    saved: str  # UTC, ISO 8601
    artifact: str | None  # folder of the artifact where it was not copied
    level: float | None  # p50 over that of the first version; None where nothing measured it


@dataclass(frozen=True)
class Baseline:
    """A saved run."""

    version: Version
    run: Run

    @property
    def title(self) -> str:
        """How it is called in outputs."""
        return f"{self.version.name} v{self.version.number}"


class Baselines:
    """The baselines below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> tuple[str, ...]:
        """Every baseline's name, sorted."""
        if not self.root.is_dir():
            return ()
        return tuple(sorted(p.name for p in self.root.iterdir() if (p / "versions").is_dir()))

    def numbers(self, name: str) -> tuple[int, ...]:
        """The versions of a baseline, oldest first."""
        folder = self.folder(name) / "versions"
        return tuple(sorted(int(p.name) for p in folder.glob("[0-9]*") if p.name.isdecimal() and (p / FILE).is_file()))

    def folder(self, name: str) -> Path:
        """Where a baseline lies. Raises UserError for a name that is no plain one."""
        if not NAME.fullmatch(name) or ".." in name:
            raise UserError(f"{name!r} is no name of a baseline: letters, digits, '.', '_' and '-', 64 at most")
        return self.root / name

    def history_file(self, name: str) -> Path:
        """Its past runs, one line of JSON each."""
        return self.folder(name) / "history.jsonl"

    def save(self, run: Run, name: str, saved: str, level: float | None, copy: bool = True) -> Version:
        """Add a version; complete or not at all. Without `copy` it points at the run's own artifact."""
        with self.locked(name):
            number = max(self.numbers(name), default=0) + 1
            pointer = None if copy else str(run.model.resolve())
            version = Version(name, number, saved, pointer, level)
            place = self._place(name, number)
            beside = place.with_name(f".{place.name}.new")
            shutil.rmtree(beside, ignore_errors=True)
            for file in (MANIFEST, *kept(run.manifest)):
                if copy or not file.startswith(f"{MODEL}/"):
                    (beside / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(run.file(file), beside / file)
            (beside / FILE).write_text(json.dumps({"schema": SCHEMA, **asdict(version)}, indent=1) + "\n")
            beside.replace(place)
        return version

    def load(self, name: str, number: int | None = None) -> Baseline:
        """Read a version, the latest by default, and check its files. Raises UserError."""
        numbers = self.numbers(name)
        if not numbers:
            hint = did_you_mean(name, self.names())
            raise UserError(
                f"{self.root} has no baseline {name}{hint}; save one: edgesmith baseline save RUN --name {name}"
            )
        chosen = numbers[-1] if number is None else number
        if chosen not in numbers:
            raise UserError(f"{self.folder(name)} has no version {chosen}; have: {', '.join(map(str, numbers))}")
        folder = self._place(name, chosen)
        version = _version(folder / FILE, name, chosen)
        return Baseline(version, load_run(folder, Path(version.artifact) if version.artifact else None))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Keep other processes from writing to a baseline meanwhile."""
        folder = self.folder(name)
        (folder / "versions").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            yield

    def _place(self, name: str, number: int) -> Path:
        return self.folder(name) / "versions" / f"{number:04d}"


def _version(path: Path, name: str, number: int) -> Version:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.pop("schema") != SCHEMA:
            raise ValueError("schema")
        version = Version(**told)
        if (version.name, version.number) != (name, number) or (version.level is not None and not version.level > 0):
            raise ValueError("not this version")
        return version
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is no {SCHEMA}: save the baseline again") from error
