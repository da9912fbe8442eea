"""Each verb, run as a user runs it: a process, its output, its exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from conftest import COMMAND, ROOT, environment, run_cli, write_project

from pipeline import fingerprint

VERBS = sorted(p.stem for p in (ROOT / "pipeline" / "commands").glob("[a-z]*.py"))


def one_line(stderr: str) -> str:
    """The error that a run ended with, which must be its only line of complaint."""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


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


def test_jetson_without_a_device_fails_before_any_work_and_names_both_ways_out(project: Path) -> None:
    done = run_cli("deploy", "recipe.yaml", "--target", "jetson", cwd=project.parent)
    assert done.returncode == 2
    line = one_line(done.stderr)
    assert "DEVICE=none" in line
    assert "DEVICE=ssh://" in line
    assert not (project.parent / ".edgesmith").exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["deploy", "nowhere.yaml"], "there is no recipe nowhere.yaml"),
        (["deploy", "recipe.yaml", "--target", "cqu"], "did you mean cpu"),
        (["deploy", "recipe.yaml", "--device", "ssh://board"], "ssh devices are not in this version yet"),
        (["deploy", "recipe.yaml", "--device", "lokal"], "no device named 'lokal'"),
        (["deploy", "recipe.yaml", "--set", "stages.prune.ration=1"], "did you mean 'ratio'"),
        (["deploy", "recipe.yaml", "--set", "model.weights=w.safetensors"], "there is no file"),
        (["deploy", "recipe.yaml", "--set", "data.args.path=./none.npz"], "none.npz"),
        (["report", "."], "there is no report"),
        (["measure", "my_model.py"], "give an .onnx file"),
        (["measure", "none.onnx"], "there is no model none.onnx"),
        (["compile", "data.npz", "--out", "x"], "is no ONNX file"),
        (["calibrate", "none.onnx", "--data", "data.npz"], "--data data.npz: has the arrays"),
        (["export", "none.onnx", "--out", "x.onnx"], "give --ranges"),
        (["export", "recipe.yaml", "--out", "nowhere/x.onnx"], "nowhere/x.onnx: no such file or directory"),
        (["compile", ".", "--out", "x"], "is a directory"),
        (["diff", ".", "."], ". has no plan.json; give a plan, or a folder"),
        (["diff", "none.json", "."], "cannot read the plan none.json"),
        (["diff", "recipe.yaml", "."], "recipe.yaml is no plan"),
        (["finetune", "recipe.yaml", "--from", ".", "--out", "x"], "has no weights.safetensors"),
        (["deploy", "recipe.yaml", "--set", "model.weights=nosuch.pkg:w.pt"], "there is no file"),
        (["deploy", "recipe.yaml", "--set", "stages.calibrate.options={percentle: 99}"], "no option 'percentle'"),
        (["deploy", "recipe.yaml", "--set", "stages.compile.on_regression=reject"], "unknown key 'on_regression'"),
        (["deploy", "recipe.yaml", "--set", "timing.rounds=2"], "timing.rounds"),
        (["deploy", "recipe.yaml", "--store", "data.npz"], "data.npz"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(project: Path, args: list[str], expected: str) -> None:
    done = run_cli(*args, cwd=project.parent)
    assert done.returncode == 2
    assert expected in one_line(done.stderr)


def test_a_broken_model_file_is_one_line(project: Path) -> None:
    for text, expected in (("def build(:", "my_model.py:1"), ("import nosuch", "No module named 'nosuch'")):
        (project.parent / "my_model.py").write_text(text)
        done = run_cli("deploy", "recipe.yaml", cwd=project.parent)
        assert done.returncode == 2
        assert expected in one_line(done.stderr)


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    done = run_cli("deploy", cwd=tmp_path)
    assert done.returncode == 2
    assert "Missing argument 'RECIPE'" in done.stderr


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    for args in (["--debug", "deploy", "x.yaml"], ["deploy", "x.yaml", "--debug"]):
        assert "Traceback" in run_cli(*args, cwd=tmp_path).stderr


def test_nan_weights_are_refused(project: Path) -> None:
    import torch

    sys.path.insert(0, str(project.parent))
    from pipeline.references import factory

    model = factory("my_model.py:build", {}, project.parent)()
    state = {k: v * float("nan") if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(state, project.parent / "w.pt")
    done = run_cli("deploy", "recipe.yaml", "--set", "model.weights=w.pt", cwd=project.parent)
    assert done.returncode == 2
    assert "NaN or infinite weights" in one_line(done.stderr)


def test_a_full_disk_is_one_line(project: Path) -> None:
    """A real one: a file system of 64 kB."""
    small = project.parent / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    try:
        done = run_cli("deploy", "recipe.yaml", "--store", "small", cwd=project.parent)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert done.returncode == 2
    line = one_line(done.stderr)
    assert "disk is full" in line or "make room" in line


def _start(project: Path, **extra: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, "deploy", "recipe.yaml"],
        cwd=project.parent,
        env=environment(**extra),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _until(process: "subprocess.Popen[str]", words: str) -> str:
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"ended without {words!r}: {seen}")


def test_kill_and_resume(project: Path) -> None:
    slow = project.read_text().replace("epochs: 2", "epochs: 6")
    project.write_text(slow)
    process = _start(project)
    with process:
        _until(process, "✓ epoch 2/6")
        os.killpg(process.pid, signal.SIGKILL)
    done = run_cli("deploy", "recipe.yaml", cwd=project.parent)
    assert done.returncode == 0, done.stderr
    assert "prune and prove" not in done.stderr  # finished stages were kept
    assert "epoch 1/6" not in done.stderr  # whole epochs too
    assert "epoch 6/6" in done.stderr


def test_ctrl_c_loses_nothing_and_leaves_no_process(project: Path) -> None:
    process = _start(project, EDGESMITH_TEST_MARK=project.parent.name + str(os.getpid()))
    with process:
        _until(process, "✓ load and export")
        time.sleep(1.0)  # into measuring the source, where agents run
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert "interrupted; what had finished is kept" in rest
    assert "Traceback" not in rest
    time.sleep(0.5)
    assert _marked(project.parent.name + str(os.getpid())) == []


def _marked(mark: str) -> list[str]:
    """Command lines of the processes that a run with this mark has left, in whatever session they are."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("EDGESMITH_TEST_MARK") == mark:
                left.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return left


def test_two_runs_at_once_on_one_store_both_succeed(project: Path) -> None:
    command = [*COMMAND, "deploy", "recipe.yaml", "--set", "stages.finetune.epochs=1"]
    runs = [
        subprocess.Popen(
            command,
            cwd=project.parent,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [run.communicate(timeout=600)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sum(text.count("✓ epoch 1/1") for text in said) == 1
    out = project.parent / "artifacts" / "recipe" / "cpu"
    manifest = json.loads((out / "manifest.json").read_text())
    assert {k: v["sha256"] for k, v in manifest["files"].items()} == {
        k: v for k, v in fingerprint.files_in(out).items() if k != "manifest.json"
    }


def test_a_tampered_store_is_noticed_and_made_again(tmp_path: Path, deployed: Path) -> None:
    import shutil

    shutil.copytree(deployed, tmp_path / "copy")
    copy = tmp_path / "copy"
    for weights in (copy / ".edgesmith" / "entries").glob("*/files/weights.safetensors"):
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    done = run_cli("deploy", "recipe.yaml", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert "was changed after it was written; making it again" in " ".join(done.stderr.split())
