"""A user's project: a model file, a data file and a recipe, as small as the whole pipeline allows."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from sshd import Sshd, running

# machines that run tests are shared: how long drawing an example takes says nothing
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", settings.get_profile("shared"), max_examples=2000)
settings.load_profile("shared")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job, which children would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)

# a worker per core, and one thread per worker: more of them wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]

MODEL = """
import torch
from torch import nn

def build(width=16):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3),
    )
"""

RECIPE = """
model: {factory: "my_model.py:build", args: {width: 16}}
data: {factory: "pipeline.data.arrays:from_npz", args: {path: ./data.npz}}
budget: {max_drop: 100}
stages:
  source:
  prune: {ratio: 0.5, recalibrate: 2}
  finetune: {epochs: 2, batch_size: 32, lr: 0.05}
  calibrate: {samples: 16}
  export:
  compile:
targets: {cpu: {}, mobile: {}}
timing: {samples: 50, rounds: 3, launches: 1, max_s: 6, precision: 0.0, retries: 0}
"""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes told apart by where the bright square is."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = rng.normal(0, 0.3, (n, 1, 12, 12)).astype(np.float32)
    for i, label in enumerate(labels):
        x[i, 0, 4 * label : 4 * label + 4, 4 * label : 4 * label + 4] += 1
    return x, labels


def write_project(folder: Path) -> Path:
    """Write the project into `folder`; return its recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for seed, (name, n) in enumerate({"train": 96, "validation": 48, "calibration": 24, "test": 60}.items()):
        arrays[f"x_{name}"], arrays[f"y_{name}"] = images(n, seed)
    np.savez(folder / "data.npz", **arrays)
    (folder / "my_model.py").write_text(MODEL)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def environment(**extra: str) -> dict[str, str]:
    """The environment of a user's shell, the checkout importable wherever the command runs."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **extra}


COMMAND: Sequence[str] = (sys.executable, "-c", "from pipeline.cli import main; main()")


def run_cli(*args: object, cwd: Path, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process of its own, as a user does."""
    command = [*COMMAND, *map(str, args)]
    return subprocess.run(
        command, cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=600, check=False
    )


def one_line(stderr: str) -> str:
    """Return the error that a run ended with, which must be its only line of complaint."""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A board: an sshd on loopback with the tests' interpreter, one for each worker. Leave it running."""
    with running(tmp_path_factory.mktemp("board")) as server:
        yield server


@pytest.fixture
def own_board(tmp_path: Path) -> Iterator[Sshd]:
    """A board for one test, which may do to it what it likes."""
    with running(tmp_path / "own_board") as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh project's recipe."""
    return write_project(tmp_path / "project")


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that has been deployed once for the cpu: its store and artifacts in it."""
    shared = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else None
    folder = (shared or tmp_path_factory.getbasetemp()) / "deployed"
    with FileLock(folder.with_suffix(".lock")):  # one for all workers
        if not folder.exists():
            write_project(folder)
            done = run_cli("deploy", "recipe.yaml", cwd=folder)
            assert done.returncode == 0, done.stderr
    return folder
