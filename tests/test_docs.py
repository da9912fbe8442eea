"""Every command of the README and of the pages for users is run, and every page's files are real."""

import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from calibration_nets import resnet, run, samples
from conftest import COMMAND, ROOT, environment, run_cli, write_project

from calibration import observers
from calibration.ranges import Ranges
from pipeline import plugins, recipe
from pipeline.devices import resolve
from pipeline.pruning.ranking import criterion_of
from pipeline.report.table import HEADER
from pipeline.training.config import Distillation, Training
from targets.devices._address import OPTIONS

MAKE = ("deploy", "check", "plan", "test", "lint", "type", "install", "bench", "clean", "help", "checkpoint", "docker")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """The code blocks of a page: the line before, the language, the text."""
    found = []
    lines = iter(page.read_text().splitlines())
    before = ""
    for line in lines:
        if line.startswith("```"):
            found.append((before, line[3:], "\n".join(itertools.takewhile(lambda text: text != "```", lines)) + "\n"))
        before = line or before
    return found


def commands(page: Path) -> list[str]:
    """The lines of a page's untagged code blocks, without comments."""
    lines = [line.split(" #")[0].strip() for _, kind, text in blocks(page) if not kind for line in text.splitlines()]
    return [line for line in lines if line.startswith(("edgesmith ", "make "))]


def printed(code: str, folder: Path) -> str:
    """What a page's Python code prints, run in `folder` in a process of its own."""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_page_on_your_own_model_works_as_written(tmp_path: Path) -> None:
    page = ROOT / "docs" / "own-model.md"
    files = [(before.strip("`:"), text) for before, kind, text in blocks(page) if kind]
    assert [name for name, _ in files] == ["my_model.py", "my_data.py", "recipe.yaml"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", input=rng.normal(size=(8, 1, 12, 12)).astype(np.float32))
    ran = [shlex.split(line)[1:] for line in commands(page) if line.startswith("edgesmith ")]
    assert len(ran) >= 9
    for args in ran:
        done = run_cli(*args, cwd=tmp_path)
        assert done.returncode == 0, f"edgesmith {' '.join(args)}\n{done.stderr}"
    assert (tmp_path / "artifacts/recipe/cpu/report.md").is_file()
    assert (tmp_path / "artifacts/recipe/mobile/model/model.ort").is_file()


def test_the_page_on_pruning_works_as_written(tmp_path: Path) -> None:
    page = ROOT / "docs" / "pruning.md"
    code = "\n".join(text for _, kind, text in blocks(page) if kind == "python")
    assert "layer1.0.conv1 32 -> 16" in printed(code, tmp_path)
    write_project(tmp_path)
    for line in commands(page):
        done = run_cli(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tmp_path / "pruned" / "widths.svg").is_file()


def test_the_page_on_training_names_every_option_and_its_recipes_are_valid(project: Path) -> None:
    page = ROOT / "docs" / "training.md"
    named = set(re.findall(r"`(\w+)`", page.read_text()))
    settings = {f.name for kind in (Training, Distillation) for f in fields(kind)} | {"distill", "from_scratch"}
    assert settings <= named
    texts = [text for _, kind, text in blocks(page) if kind == "yaml"]
    written = [stages["finetune"] for text in texts if "finetune" in (stages := yaml.safe_load(text))]
    assert len(written) >= 3
    for options in written:
        recipe.load(project, [f"stages.finetune={json.dumps(options)}"])
    (quantized,) = (text for text in texts if "qat" in yaml.safe_load(text))
    project.write_text(project.read_text().replace("  calibrate: {samples: 16}\n  export:\n", quantized))
    assert recipe.load(project).options("qat")["epochs"] == 3


def test_the_page_on_low_rank_works_as_written(tmp_path: Path) -> None:
    page = ROOT / "docs" / "lowrank.md"
    code = {kind: "".join(text for _, k, text in blocks(page) if k == kind) for kind in ("python", "yaml")}
    assert "layer1.0.conv1 tucker" in printed(code["python"], tmp_path)
    write_project(tmp_path).write_text(code["yaml"])
    for line in commands(page):
        done = run_cli(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_page_on_criteria_names_them_all_and_its_recipes_are_valid(project: Path) -> None:
    page = ROOT / "docs" / "criteria.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    kinds = {"iterative", "layerwise", "during", "until"}
    assert named - kinds == set(plugins.names("pipeline.pruning.criteria"))
    written = [yaml.safe_load(text)["prune"] for _, kind, text in blocks(page) if kind == "yaml"]
    assert len(written) == 2
    for options in written:
        loaded = recipe.load(project, [f"stages.prune={json.dumps(options)}"])
        criterion_of(options["criterion"], options.get("criterion_options", {}))
        assert loaded.options("prune")["criterion"] == "taylor"


def test_the_pictures_on_pruning_are_what_the_code_draws() -> None:
    folder = ROOT / "docs" / "img"
    script = runpy.run_path(str(folder / "draw.py"))
    assert {path.stem for path in folder.glob("*.svg")} == set(script["PICTURES"])
    for name, granularity in script["PICTURES"].items():
        stale = f"{name}.svg: run python docs/img/draw.py"
        assert (folder / f"{name}.svg").read_text(encoding="utf-8") == script["draw"](granularity), stale


def dry_run(*args: str) -> str:
    """What make would run, with the environment taken as installed."""
    command = ["make", "--dry-run", "--no-print-directory", *args, "READY=", "VENV=/nonexistent"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("line", [line for line in commands(ROOT / "README.md") if line.startswith("make ")])
def test_make_commands_of_the_readme_exist_and_reach_the_tool(line: str) -> None:
    printed = dry_run(*shlex.split(line)[1:])
    assert printed.strip()
    if " deploy" in line:
        ran = next(text for text in printed.splitlines() if "edgesmith deploy" in text)
        args = shlex.split(ran)[1:]
        help_text = run_cli("deploy", "--help", cwd=ROOT).stdout
        assert all(arg in help_text for arg in args if arg.startswith("--"))
        assert (ROOT / args[1]).is_file()


@pytest.mark.parametrize("line", [line for line in commands(ROOT / "README.md") if line.startswith("edgesmith ")])
def test_edgesmith_commands_of_the_readme_run(line: str, deployed: Path, tmp_path: Path) -> None:
    """On the small project: its recipe and artifacts stand in for the built-in ones of the same names."""
    write_project(tmp_path)
    (tmp_path / "recipes").mkdir()
    for name in ("my_model.py", "data.npz"):
        (tmp_path / "recipes" / name).write_bytes((tmp_path / name).read_bytes())
    (tmp_path / "recipes" / "fashion_resnet20.yaml").write_bytes((tmp_path / "recipe.yaml").read_bytes())
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "fashion_resnet20").symlink_to(deployed / "artifacts" / "recipe")
    (tmp_path / ".edgesmith").symlink_to(deployed / ".edgesmith")
    _float_model(tmp_path)
    done = run_cli(*shlex.split(line)[1:], cwd=tmp_path)
    assert done.returncode in ((0, 1) if "doctor" in line else (0,)), done.stderr
    assert done.stdout


def _float_model(folder: Path) -> None:
    """The files that the page on quantizing and the README take for granted."""
    onnx.save(resnet(batch="N"), folder / "model.onnx")
    np.savez(folder / "samples.npz", x=samples(24))
    x = samples(16, seed=1)
    np.savez(folder / "labelled.npz", x=x, labels=run(onnx.load(folder / "model.onnx"), x).argmax(1))


def test_the_page_on_quantizing_works_as_written(tmp_path: Path) -> None:
    page = ROOT / "docs" / "quantize.md"
    _float_model(tmp_path)
    ((before, text),) = [(before.strip("`:"), text) for before, kind, text in blocks(page) if kind == "python"]
    assert before.endswith("eval.py")
    (tmp_path / "eval.py").write_text(text)
    ran = [shlex.split(line)[1:] for line in commands(page)]
    assert len(ran) >= 3
    for args in ran:
        done = run_cli(*args, cwd=tmp_path)
        assert done.returncode == 0, f"edgesmith {' '.join(args)}\n{done.stderr}"
    assert {"model_int8.onnx", "model_int8.json"} <= {path.name for path in tmp_path.iterdir()}


def test_the_page_on_devices_works_as_written(tmp_path: Path) -> None:
    page = ROOT / "docs" / "devices.md"
    (text,) = (text for _, kind, text in blocks(page) if kind == "yaml")
    (tmp_path / "devices.yaml").write_text(text)
    found = resolve("pis", beside=tmp_path)
    assert found.boards == 2
    named = {row.split("`")[1] for row in page.read_text().splitlines() if row.startswith("| `")}
    assert set(OPTIONS) <= named
    (tmp_path / "devices.yaml").unlink()
    for line in commands(page):
        done = run_cli(*shlex.split(line)[1:], cwd=tmp_path, HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_make_help_names_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"make {name}" in done.stdout for name in MAKE)


def test_the_readme_shows_a_real_report() -> None:
    shown = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert "| " + " | ".join(HEADER) + " |" in shown
    assert {"source", "prune", "finetune", "calibrate", "export", "compile"} <= {
        row.split(" | ")[0][2:] for row in shown
    }


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_the_console_script_is_the_module_under_test(tmp_path: Path) -> None:
    assert Path(printed("import pipeline; print(pipeline.__file__)", tmp_path).strip()).is_relative_to(ROOT)
    assert COMMAND[0] == sys.executable


def test_the_page_on_observing_names_every_observer_and_works_as_written(tmp_path: Path) -> None:
    page = ROOT / "docs" / "observing.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} == set(observers.names())
    assert {row.split("`")[1] for row in rows if "**yes**" in row} == {
        name for name in observers.names() if observers.make(name).ordered
    }
    onnx.save(resnet(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", samples(4))
    whole, sharded = (text for _, kind, text in blocks(page) if kind == "python")
    head = "import numpy as np\nbatches = part = [{'x': np.load('x.npy')}]\n"
    printed(head + whole + "ranges.save(Path('whole.json'))\n" + sharded, tmp_path)
    expected, found = (Ranges.load(tmp_path / name) for name in ("whole.json", "ranges.json"))
    assert found.samples == expected.samples == 4
    assert set(expected.tensors) < set(found.tensors)
