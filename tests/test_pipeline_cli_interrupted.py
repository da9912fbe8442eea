"""Runs that are killed, interrupted, doubled or find their store damaged."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
from conftest import COMMAND, environment, run_cli

from pipeline import fingerprint


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
    shutil.copytree(deployed, tmp_path / "copy")
    copy = tmp_path / "copy"
    for weights in (copy / ".edgesmith" / "entries").glob("*/files/weights.safetensors"):
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    done = run_cli("deploy", "recipe.yaml", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert "was changed after it was written; making it again" in " ".join(done.stderr.split())
