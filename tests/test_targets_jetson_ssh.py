"""The target jetson on a board over ssh: sshd, transfers, agent and files are real, trtexec is a stand-in."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.devices import place
from pipeline.errors import UserError
from targets.backends.jetson import Jetson
from targets.board.options import Board
from targets.devices.base import Timing
from tests.board_trees import program
from tests.sshd import Sshd
from tests.trtexec_stand_in import asked, model, trtexec


@pytest.fixture
def url(board: Sshd, tmp_path: Path) -> str:
    """A device whose interpreter finds a trtexec, as on a board where it is installed."""
    trtexec(tmp_path, "100300")
    python = tmp_path / "python"
    paths = os.pathsep.join(p for p in sys.path if p)
    program(python, f'TRTEXEC={tmp_path}/trtexec PYTHONPATH={paths} exec {sys.executable} "$@"\n')
    return board.url(python=str(python))


def test_an_engine_is_built_run_and_timed_on_the_board(url: str, tmp_path: Path) -> None:
    target = Jetson()
    found = place(target, url)
    assert found.why_not is None
    assert found.proxy  # an engine, but no Jetson
    assert found.fingerprint.runtime == {"trtexec": "10.3.0"}
    out = tmp_path / "built"
    out.mkdir()
    found.device.build(target, model(tmp_path / "m.onnx", quantized=True), out)
    told = json.loads((out / "engine.json").read_text())
    assert told["version"] == "10.3.0"
    assert sorted(path.name for path in out.iterdir()) == [
        "build.log", "engine.json", "layers.json", "model.engine", "timing.cache",
    ]  # fmt: skip
    x = np.array([[-1, 0.5, -2, 3]], np.float32)
    np.savez(tmp_path / "feeds.npz", x=x)
    found.device.infer(target, out, tmp_path / "feeds.npz", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as got:
        np.testing.assert_array_equal(got["y"], np.maximum(x, 0))
    timing = Timing(samples=6, rounds=3, launches=1, max_s=20)
    one = found.device.measure({"a": (target, out)}, tmp_path / "feeds.npz", timing)["a"]
    assert {ns for block in one.blocks_ns for ns in block} == {1_250_000}
    assert len(one.board.states) == 2
    assert "--stronglyTyped" in asked(tmp_path)[0]


def test_a_wish_that_the_board_cannot_fulfil_is_one_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="has no power modes") as raised:
        place(Jetson(), url, board=Board(power_mode="MAXN"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("spec", [None, "local"])
def test_this_machine_is_no_board(spec: str | None) -> None:
    with pytest.raises(UserError, match=r"ssh://user@host"):
        place(Jetson(), spec)
