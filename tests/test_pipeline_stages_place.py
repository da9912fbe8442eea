"""Measured placement in a recipe: what it writes, what it remembers, and what it says where nothing can be timed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import yaml
from conftest import ROOT, one_line, run_cli, write_project

from calibration.weights import FILE
from pipeline import checkpoint, lowering, recipe
from pipeline.core import parts_of
from pipeline.deploy import Job
from pipeline.devices import Place, place
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.report.schema import MeasuredPlacement
from pipeline.stages.place import Place as PlaceStage
from pipeline.store import Artifact, Store
from targets.backends.mobile import Mobile

NO_DEVICE = "no NVIDIA GPU here"


def with_place(path: Path, options: str = "{races: 3}") -> Path:
    text = path.read_text().replace("  prune: {ratio: 0.5, recalibrate: 2}\n", "").replace("max_s: 6", "max_s: 2")
    path.write_text(text.replace("  export:", f"  place: {options}\n  export:"))
    return path


def job(path: Path, why_not: str | None = None, *overrides: str) -> Job:
    loaded = recipe.load(path, overrides)
    target = loaded.target("mobile")
    found = place(target, "local")
    where = Place(found.device, found.fingerprint, why_not, proxy=False)
    return Job(loaded, target, where, Store(path.parent / "store"), SILENT)


def staged(made: Job, folder: Path, *names: str) -> Path:
    """Run stages one after another, each on the one before; return the folder of the last."""
    stages = {stage.name(): stage for stage in made.stages()[0]}
    artifacts: dict[str, Artifact] = {}
    for name in names:
        (folder / name).mkdir(parents=True)
        stages[name].run({**artifacts}, folder / name, SILENT)
        artifacts |= dict.fromkeys((name, "previous"), Artifact(folder / name, ""))
    return folder / names[-1]


def placement_of(folder: Path) -> MeasuredPlacement:
    info = checkpoint.Info.load(folder)
    assert info is not None
    return MeasuredPlacement.model_validate(info.figures["placement"])


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with the stages source and calibrate run."""
    folder = tmp_path_factory.mktemp("place")
    staged(job(with_place(write_project(folder), "{races: 2}")), folder, "source", "calibrate")
    return folder


def placed(folder: Path, out: Path) -> MeasuredPlacement:
    """Run the stage on what is in the folder."""
    out.mkdir()
    stage = next(stage for stage in job(folder / "recipe.yaml").stages()[0] if isinstance(stage, PlaceStage))
    source, calibrate = (Artifact(folder / name, "") for name in ("source", "calibrate"))
    stage.run({"source": source, "calibrate": calibrate, "previous": calibrate}, out, SILENT)
    return placement_of(out)


def test_it_ends_in_a_valid_model_with_a_trail_and_resumes(before: Path, tmp_path: Path) -> None:
    out = tmp_path / "one"
    found = placed(before, out)
    assert found.outcome in ("int8", "mixed", "float")
    assert (found.trials[0].change, found.trials[0].against) == ("everything in int8", "float")
    assert all(trial.ratio.low <= trial.ratio.value <= trial.ratio.high for trial in found.trials)
    assert (found.ratio is None) == (found.outcome == "float")
    assert ((out / "ranges.json").is_file(), (out / FILE).is_file()) == (found.outcome != "float",) * 2
    assert set(lowering.left_out(out)) == (set(found.floats) if found.outcome == "mixed" else set())

    lowered = lowering.lower(*lowering.lowered_files(out)[:2], Mobile.scheme, tmp_path / "y.onnx")
    onnx.checker.check_model(tmp_path / "y.onnx", full_check=True)
    assert lowered.int8 == (found.outcome != "float")

    entries = sorted((before / "store" / "entries").iterdir())
    assert placed(before, tmp_path / "two") == found
    assert sorted((before / "store" / "entries").iterdir()) == entries, "timed again"


def test_what_stays_in_float_does_so_in_what_ships(before: Path, tmp_path: Path) -> None:
    folder = tmp_path / "placed"
    shutil.copytree(before / "calibrate", folder)
    linear = next(n.name for n in onnx.load(folder / "model.onnx").graph.node if n.op_type == "Gemm")
    lowering.leave_out(folder, {linear: "measured placement: faster here"})
    for batch in (1, 4):
        out = tmp_path / f"batch{batch}"
        out.mkdir()
        stages, meter = job(before / "recipe.yaml", None, f"stages.export.batch={batch}").stages()
        stage = next(stage for stage in stages if stage.name() == "export")
        stage.run({"previous": Artifact(folder, "")}, out, SILENT)
        info = checkpoint.Info.load(out)
        assert info is not None
        assert info.figures["float_ops"][linear] == "left in float by measured placement: faster here"
        graph = onnx.load(out / "model.onnx").graph
        gemm = next(n for n in graph.node if n.op_type == "Gemm")
        assert gemm.input[1] in {tensor.name for tensor in graph.initializer}
    files = lowering.lowered_files(folder)
    assert meter.lower(*files) != meter.lower(*files, exclude=lowering.left_out(folder))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "stages.place: placement: measured is timed on the device, and nothing can be timed here"),
        ("{placement: measured, without_device: error}", "set without_device: scheme"),
    ],
)
def test_without_a_device_it_is_an_error_before_any_work(project: Path, options: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        job(with_place(project, options), NO_DEVICE).stages()
    assert says in str(error.value)
    assert NO_DEVICE in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "why_not"),
    [("{without_device: scheme}", NO_DEVICE), ("{placement: scheme}", NO_DEVICE), ("{placement: scheme}", None)],
)
def test_on_request_the_scheme_decides_alone(project: Path, tmp_path: Path, options: str, why_not: str | None) -> None:
    stage = next(s for s in job(with_place(project, options), why_not).stages()[0] if isinstance(s, PlaceStage))
    for name in ("calibrate", "place"):
        (tmp_path / name).mkdir()
    files = {"model.onnx": b"m", "ranges.json": b"r", "info.json": b"{}"}
    for name, content in files.items():
        (tmp_path / "calibrate" / name).write_bytes(content)
    calibrate = Artifact(tmp_path / "calibrate", "")
    stage.run({"previous": calibrate, "calibrate": calibrate, "source": calibrate}, tmp_path / "place", SILENT)
    assert {p.name: p.read_bytes() for p in (tmp_path / "place").iterdir()} == files


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  place: {races: 1}", "stages.place.races: input should be greater than or equal to 2"),
        ("  place: {placement: fastest}", "stages.place.placement"),
        ("  place: {gain: 100}", "stages.place.gain"),
    ],
)
def test_wrong_options_are_said_before_any_work(project: Path, text: str, says: str) -> None:
    project.write_text(project.read_text().replace("  export:", f"{text}\n  export:"))
    with pytest.raises(UserError) as error:
        recipe.load(project)
    assert says in str(error.value)


def test_it_comes_between_calibration_and_export(project: Path) -> None:
    written = project.read_text()
    project.write_text(written.replace("  calibrate:", "  place:\n  calibrate:"))
    with pytest.raises(UserError, match="goes on from calibrate; name that stage before it"):
        recipe.load(project)
    project.write_text(written.replace("  compile:", "  place:\n  compile:"))
    with pytest.raises(UserError, match="place, export and then compile come last"):
        recipe.load(project)


def test_the_key_has_the_device_and_the_budget_but_not_the_store(project: Path) -> None:
    made = job(with_place(project))

    def key(of: Job) -> str:
        (stage,) = (s for s in of.stages()[0] if isinstance(s, PlaceStage))
        return json.dumps(parts_of(stage, {}))

    elsewhere = replace(made, store=Store(project.parent / "elsewhere"))
    assert key(elsewhere) == key(made)
    assert key(job(project, None, "budget.max_drop=3")) != key(made)
    cores = replace(made.place.fingerprint, cores=made.place.fingerprint.cores + 1)
    assert key(replace(made, place=replace(made.place, fingerprint=cores))) != key(made)


def test_the_pages_options_are_the_stages(project: Path) -> None:
    page = (ROOT / "docs" / "placement.md").read_text()
    shown = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["stages"]
    written = yaml.safe_load(project.read_text())
    project.write_text(yaml.safe_dump({**written, "stages": {**shown, "calibrate": {"samples": 16}}}, sort_keys=False))
    loaded = recipe.load(project)
    defaults = recipe.stage_options("place")().model_dump()
    assert loaded.options("place") == defaults
    assert set(shown["place"]) == set(defaults) - {"on_regression"}


def test_the_command_line_refuses_in_a_line(project: Path) -> None:
    with_place(project)
    done = run_cli("deploy", project.name, "--target", "mobile", "--device", "none", cwd=project.parent)
    assert done.returncode == 2
    assert "recipe.yaml: stages.place: placement: measured is timed on the device" in one_line(done.stderr)
    assert not (project.parent / ".edgesmith").exists()
