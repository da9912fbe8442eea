"""Each verb, run as a user runs it: a process, its output, its exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, environment, one_line, run_cli, write_project

from pipeline import fingerprint, plugins

VERBS = sorted(p.stem for p in (ROOT / "pipeline" / "commands").glob("[a-z]*.py"))


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches(verb: str, tmp_path: Path) -> None:
    done = run_cli(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert re.match(rf"Usage: edgesmith {verb} ", done.stdout)
    assert len(done.stdout.splitlines()) > 3


def test_help_imports_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print([m for m in ('torch', 'onnx', 'numpy', 'openvino', 'rich', 'pydantic') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(verb in done.stdout for verb in VERBS)


def test_a_run_with_nothing_to_do_imports_no_torch(deployed: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.cli import cli\n"
        f"cli.main(['deploy', 'recipe.yaml', '--out', {str(tmp_path)!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=deployed, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_deploy_writes_what_it_promises(deployed: Path) -> None:
    out = deployed / "artifacts" / "recipe" / "cpu"
    assert {p.name for p in out.iterdir()} == {"model", "report.json", "report.md", "widths.svg", "manifest.json"}
    assert {"model.xml", "model.bin"} <= {p.name for p in (out / "model").iterdir()}
    manifest = json.loads((out / "manifest.json").read_text())
    listed = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    assert listed == {k: v for k, v in fingerprint.files_in(out).items() if k != "manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry["size"] == (out / name).stat().st_size
    assert manifest["inputs"] == {"input": [1, 1, 12, 12]}
    assert manifest["recipe"]["name"] == "recipe"
    assert manifest["versions"]["openvino"]
    assert manifest["device"]["cpu"]


def test_the_report_says_which_layers_run_in_int8(deployed: Path) -> None:
    out = deployed / "artifacts" / "recipe" / "cpu"
    stages = {row["stage"]: row for row in json.loads((out / "report.json").read_text())["stages"]}
    assert all(stages[name]["coverage"] is None for name in ("source", "prune", "finetune"))
    int8 = [name for name, row in stages.items() if row["precision"]["ran"].get("i8")]
    assert "calibrate" in int8  # and those after it, if it was fast enough to go on
    assert int8 == [name for name, row in stages.items() if row["coverage"]]
    for name in int8:
        found = stages[name]["coverage"]
        assert found["ran"]
        assert sum(found["int8"].values()) == stages[name]["precision"]["ran"]["i8"]
        assert sum(found["ops"].values()) == sum(found["int8"].values()) + len(found["floats"])
    text = stages["calibrate"]["coverage"]["text"]
    assert re.match(r"\d+ of \d+ Conv, ", text)
    assert f"- calibrate: {text}" in (out / "report.md").read_text()


def test_a_second_deploy_runs_nothing(deployed: Path, tmp_path: Path) -> None:
    done = run_cli("deploy", "recipe.yaml", "--out", tmp_path, cwd=deployed)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "recipe/cpu/report.json").read_text())
    assert all(stage["cached"] for stage in report["stages"])
    assert "epoch" not in done.stderr
    assert "time" not in done.stderr


def test_plan_knows_what_is_cached_and_why_the_rest_is_not(deployed: Path) -> None:
    rows = run_cli("plan", "recipe.yaml", cwd=deployed).stdout
    assert rows.count("cached") == 6
    changed = run_cli("plan", "recipe.yaml", "--set", "stages.prune.ratio=0.3", cwd=deployed).stdout
    assert changed.count("cached") == 1
    assert "ratio: 0.5 → 0.3" in changed
    assert "follows prune" in changed


def test_another_target_reruns_only_what_depends_on_it(deployed: Path) -> None:
    rows = run_cli("plan", "recipe.yaml", "--target", "mobile", cwd=deployed).stdout.splitlines()
    cached = [line for line in rows if "cached" in line]
    assert len(cached) == 4
    for name, line in zip(("source", "prune", "finetune", "calibrate"), cached, strict=True):
        assert name in line
        assert "not measured for mobile yet" in line
    assert any("export" in line and "runs" in line for line in rows)


def test_editing_the_users_model_reruns_everything(tmp_path: Path, deployed: Path) -> None:
    project = write_project(tmp_path)
    store = deployed / ".edgesmith"
    same = run_cli("plan", "recipe.yaml", "--store", store, cwd=tmp_path).stdout
    assert same.count("cached") == 6, same  # another checkout of the same content shares the results
    (tmp_path / "my_model.py").write_text((tmp_path / "my_model.py").read_text() + "\n# edited\n")
    edited = run_cli("plan", project.name, "--store", store, cwd=tmp_path).stdout
    assert "cached" not in edited


def test_report_prints_the_same_again(deployed: Path) -> None:
    run = deployed / "artifacts" / "recipe" / "cpu"
    assert "× source" in run_cli("report", run, cwd=deployed).stdout
    written = run_cli("report", run, "--format", "markdown", cwd=deployed).stdout
    assert written.strip() == (run / "report.md").read_text().strip()
    printed = json.loads(run_cli("report", run / "report.json", "--format", "json", cwd=deployed).stdout)
    assert printed == json.loads((run / "report.json").read_text())


def test_measure_a_deployed_folder_and_an_onnx_file(deployed: Path) -> None:
    run = deployed / "artifacts" / "recipe" / "cpu"
    shown = run_cli("measure", run, "--samples", 50, cwd=deployed)
    assert "p50 ms" in shown.stdout, shown.stderr
    model = next((deployed / ".edgesmith" / "entries").glob("*/files/weights.safetensors")).with_name("model.onnx")
    done = run_cli("measure", model, "--target", "mobile", "--samples", 50, "--json", cwd=deployed)
    measured = json.loads(done.stdout)
    assert sum(map(len, measured["measurement"]["blocks_ns"])) >= 50
    assert "built for cpu" in one_line(run_cli("measure", run, "--target", "mobile", cwd=deployed).stderr)


def test_each_stage_by_itself_on_plain_files(tmp_path: Path) -> None:
    write_project(tmp_path)
    with np.load(tmp_path / "data.npz") as data:
        np.savez(tmp_path / "samples.npz", input=data["x_calibration"])

    def ok(*args: object) -> str:
        done = run_cli(*args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = ok("prune", "recipe.yaml", "--out", "pruned")
    assert "16 → 8" in told
    assert "channels: 50.0% asked for, 50.0% removed" in told
    assert json.loads((tmp_path / "pruned" / "plan.json").read_text())
    assert "recipe: widths before and after" in (tmp_path / "pruned" / "widths.svg").read_text()
    ok("prune", "recipe.yaml", "--from", "pruned", "--out", "again")
    assert ok("diff", "pruned", "pruned/plan.json") == "the plans do the same\n"
    assert ok("diff", "pruned", "again") == "plan 2: only in the second\n"
    ok("finetune", "recipe.yaml", "--from", "pruned", "--out", "tuned")
    ok("calibrate", "tuned/model.onnx", "--data", "samples.npz", "--out", "ranges.json")
    ok("export", "tuned/model.onnx", "--ranges", "ranges.json", "--target", "mobile", "--out", "int8.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert "model.ort" in ok("compile", "int8.onnx", "--target", "mobile", "--out", "built")
    ok("export", "recipe.yaml", "--out", "float.onnx", "--set", "stages.export.batch=dynamic")
    assert onnx.load(tmp_path / "float.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_schema_targets_and_doctor(tmp_path: Path) -> None:
    assert json.loads(run_cli("schema", cwd=tmp_path).stdout)["title"] == "edgesmith recipe"
    listed = run_cli("targets", cwd=tmp_path).stdout
    assert all(name in listed for name in ("cpu", "mobile", "gpu", "jetson"))
    doctor = run_cli("doctor", cwd=tmp_path)
    assert "target cpu" in doctor.stdout
    assert "int8 instructions" in doctor.stdout


def test_criteria_lists_every_criterion_with_what_scoring_takes(tmp_path: Path) -> None:
    done = run_cli("criteria", cwd=tmp_path)
    assert done.returncode == 0
    for name in plugins.names("pipeline.pruning.criteria"):
        assert f" {name} " in done.stdout
    assert "one pass over the samples" in done.stdout
