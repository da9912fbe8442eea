"""What a user gets wrong, and what goes wrong around them: one line that names the fix, and an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import one_line, run_cli


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
        (["deploy", "recipe.yaml", "--device", "ssh://board;x"], "is no address of a device"),
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
