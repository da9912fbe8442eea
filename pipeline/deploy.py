"""The main job: run a recipe for a target, measure every stage, and write what ships."""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from filelock import FileLock

from pipeline import fingerprint
from pipeline import manifest as manifests
from pipeline.assess import Assessor
from pipeline.core import Stage, run
from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.exporting import Shape, shapes_of
from pipeline.measure import Meter
from pipeline.now import now
from pipeline.plugins import find
from pipeline.progress import Progress
from pipeline.recipe import Recipe, scheme_of
from pipeline.references import DataSpec
from pipeline.report import widths
from pipeline.report.cuts import pruned
from pipeline.report.markdown import markdown
from pipeline.report.schema import Report
from pipeline.stages.compile import MODEL
from pipeline.store import Artifact, Store
from pipeline.tasks.base import Task
from targets.base import Target

DISTRIBUTIONS = ("edgesmith", "torch", "onnx", "onnxruntime", "openvino", "numpy")


@dataclass(frozen=True)
class Job:
    """A recipe for a target on a device."""

    recipe: Recipe
    target: Target
    place: Place
    store: Store
    progress: Progress

    @property
    def slot(self) -> str:
        """The name under which the store remembers this line of runs."""
        return f"{self.recipe.path.resolve()}:{self.target.name()}"

    def stages(self) -> tuple[list[Stage], Meter]:
        """The stages, and what measures them. Reads the model's source, the weights and the data.

        Raises UserError for a stage that needs a device where there is none.
        """
        self.recipe.require(self.place.why_not)
        data = self.recipe.data_spec()
        meter = self._meter(data)
        shared: dict[str, Any] = {
            "model": self.recipe.model_spec(),
            "data": data,
            "scheme": scheme_of(self.target),
            "target": self.target,
            "align": self.target.align,
            "device": self.place.device,
            "fingerprint": self.place.fingerprint.digest,
            "runtime": dict(self.place.fingerprint.runtime),
            "task": meter.task,
            "timing": self.recipe.timing,
            "allowed_drop": self.recipe.sections.budget.max_drop,
            "why_not": self.place.why_not,
            "meter": meter,
        }
        return self.recipe.stages(shared), meter

    def _meter(self, data: DataSpec) -> Meter:
        task = find("pipeline.tasks", self.recipe.sections.task, Task)()
        return Meter(
            store=self.store,
            target=self.target,
            device=self.place.device,
            data=data,
            task=task,
            timing=self.recipe.timing,
            progress=self.progress,
            why_not=self.place.why_not,
            fingerprint=self.place.fingerprint,
        )


def deploy(job: Job, out: Path) -> Report:
    """Run every stage that has no result yet, measure, and write `out`; return the report.

    `out` gets `model/`, `report.json`, `report.md` and `manifest.json`, whole, at the end.
    Raises UserError for a recipe that does not end in export and compile.
    """
    names = list(job.recipe.sections.stages)
    if names[-2:] != ["export", "compile"]:
        raise UserError(
            f"{job.recipe.path}: deploying takes the stages export and compile at the end, got {' → '.join(names)}"
        )
    stages, meter = job.stages()
    assessor = Assessor(meter, job.recipe, job.place.proxy)
    done = run(stages, job.store, assessor.on_done, job.progress, job.slot)
    report = _report(job, assessor)
    write(out, report, done, job)
    return report


def write(out: Path, report: Report, done: Mapping[str, Artifact], job: Job) -> None:
    """Write the deployed folder beside `out`, then put it in place; a second run waits for the first."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (out.with_name(f".{out.name}.{kind}") for kind in ("new", "old"))
    with FileLock(out.with_name(f".{out.name}.lock")):
        for left in (temporary, old):  # by a run that was killed here
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir()
        shutil.copytree(done["compile"].path / MODEL, temporary / MODEL, copy_function=shutil.copyfile)
        json_text = report.model_dump_json(by_alias=True, indent=1)
        (temporary / "report.json").write_text(json_text + "\n", encoding="utf-8")
        (temporary / "report.md").write_text(markdown(report), encoding="utf-8")
        if found := pruned(report):
            (temporary / widths.FILE).write_text(widths.picture(found[1], report.recipe), encoding="utf-8")
        shapes = shapes_of(onnx.load(done["export"].path / "model.onnx"))
        manifest = _manifest(temporary, report, shapes, job)
        (temporary / manifests.FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.replace(old)
        temporary.replace(out)
        shutil.rmtree(old, ignore_errors=True)


def _report(job: Job, assessor: Assessor) -> Report:
    return Report(
        recipe=job.recipe.name,
        target=job.target.name(),
        created=now(),
        versions=_versions(job.place),
        git_commit=_git_commit(job.recipe.path.parent),
        budget=job.recipe.sections.budget.model_dump(),
        timing=job.recipe.sections.timing.model_dump(),
        shipped=assessor.shipped,
        not_run=job.place.why_not,
        stages=tuple(assessor.rows),
    )


def _manifest(folder: Path, report: Report, shapes: Mapping[str, Shape], job: Job) -> dict[str, Any]:
    files = fingerprint.files_in(folder)
    return {
        "schema": manifests.SCHEMA,
        "files": {name: {"sha256": digest, "size": (folder / name).stat().st_size} for name, digest in files.items()},
        "recipe": {"name": job.recipe.name, **job.recipe.sections.model_dump()},
        "target": {"name": job.target.name(), **asdict(job.target)},
        "versions": report.versions,
        "device": asdict(job.place.fingerprint),
        "inputs": {name: list(shape) for name, shape in shapes.items()},
        "git_commit": report.git_commit,
        "created": report.created,
    }


def _versions(place: Place) -> dict[str, str]:
    found: Mapping[str, str] = {name: version(name) for name in DISTRIBUTIONS}
    return {"python": platform.python_version(), **found, **place.fingerprint.runtime}


def _git_commit(folder: Path) -> str | None:
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
