"""Holding a board still: power mode, clocks and governor are set, and put back whatever happens.

nvpmodel and jetson_clocks are stand-ins here (tests/board_trees.py); the keeper, the agent and the files are real.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from targets.backends.mobile import Mobile
from targets.base import TargetError
from targets.board import modes
from targets.board.keeper import held
from targets.board.options import Board
from targets.devices.local import Local
from tests.board_trees import ROOT_USER, calls, cores, jetson_programs, program, tree

LOCAL = Local(timeout_s=60)
SAID = {  # as NVIDIA's forum and public logs of JetPack 4.3, 5 and 6 show it; --verbose has the first two words
    "NV Power Mode: MAXN\n0\n": modes.Mode("MAXN", 0),
    "NV Power Mode: MODE_15W_2CORE\n1\n": modes.Mode("MODE_15W_2CORE", 1),
    "NVPM VERB: Current mode: NV Power Mode: 25W\n1\n": modes.Mode("25W", 1),
    "NV Fan Mode:quiet\nNV Power Mode: MAXN_SUPER\n2\n": modes.Mode("MAXN_SUPER", 2),
    "NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13\n": None,
}
needs_root = pytest.mark.skipif(not ROOT_USER, reason="runs the stand-ins through sudo otherwise")


def until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the lock of this board
    monkeypatch.setattr("tempfile.tempdir", None)
    return jetson_programs(tmp_path / "board")


@pytest.mark.parametrize("said", SAID)
def test_what_nvpmodel_says_is_read(said: str) -> None:
    assert modes.parse(said) == SAID[said]


@needs_root
@pytest.mark.parametrize("wanted", ["7W", "7w", 1, "1"])
def test_a_power_mode_is_set_and_put_back(wanted: str | int, jetson: Path) -> None:
    with held({"power_mode": wanted}, jetson) as done:
        assert done == "power mode 7W (1)"
        assert modes.current(jetson) == modes.Mode("7W", 1)
    assert modes.current(jetson) == modes.Mode("15W", 0)


@needs_root
def test_the_mode_it_is_in_is_not_set_again(jetson: Path) -> None:
    with held({"power_mode": "15W"}, jetson):
        pass
    assert calls(jetson) == []


@needs_root
def test_clocks_are_locked_in_the_mode_and_restored_before_it(jetson: Path) -> None:
    with held({"power_mode": "7W", "lock_clocks": True}, jetson):
        assert (jetson / "locked").exists()
    assert [line.split(" /")[0] for line in calls(jetson)] == [
        "nvpmodel -m 1", "jetson_clocks --store", "jetson_clocks ", "jetson_clocks --restore", "nvpmodel -m 0",
    ]  # fmt: skip
    assert not (jetson / "locked").exists()


@needs_root
def test_a_mode_that_needs_a_reboot_is_told_not_forced(jetson: Path) -> None:
    with pytest.raises(TargetError, match=r"stays in 15W \(0\); some modes need a reboot: sudo nvpmodel -m 2"):
        modes.set_power_mode("MAXN_SUPER", jetson)
    assert modes.current(jetson) == modes.Mode("15W", 0)


@needs_root
def test_an_unknown_mode_names_those_there_are(jetson: Path) -> None:
    with pytest.raises(TargetError, match=r"no such mode on this board; have: 15W \(0\), 7W \(1\), MAXN_SUPER \(2\)"):
        modes.set_power_mode("30W", jetson)


@needs_root
def test_clocks_that_cannot_be_locked_leave_the_mode_as_it_was(jetson: Path) -> None:
    program(jetson / "usr/bin/jetson_clocks", "echo 'no rights' >&2; exit 3\n")
    with (
        pytest.raises(TargetError, match="exit code 3: no rights"),
        held({"power_mode": 1, "lock_clocks": True}, jetson),
    ):
        pass
    assert modes.current(jetson) == modes.Mode("15W", 0)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [({"power_mode": "MAXN"}, "has no power modes"), ({"lock_clocks": True}, "neither jetson_clocks nor cpufreq")],
)
def test_a_board_without_them_is_one_line(wanted: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=says) as raised, held(wanted, tmp_path):
        pass
    assert "\n" not in str(raised.value)


def test_elsewhere_the_governor_is_set_and_put_back(tmp_path: Path) -> None:
    tree(tmp_path, cores(2, 1000, 500, 2000, "schedutil"))
    files = [tmp_path / f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_governor" for i in (0, 1)]
    with held({"lock_clocks": True}, tmp_path):
        assert [f.read_text() for f in files] == ["performance"] * 2
    assert [f.read_text() for f in files] == ["schedutil"] * 2


@needs_root
def test_an_agent_holds_and_releases(jetson: Path) -> None:
    with LOCAL.agent(Mobile()) as agent:
        assert agent.call("hold", 60, board=Board(power_mode="7W").held(), root=str(jetson)) == "power mode 7W (1)"
        with pytest.raises(TargetError, match="holds the board already"):
            agent.call("hold", 60, board=Board(power_mode="7W").held(), root=str(jetson))
        agent.call("release", 60)
        assert modes.current(jetson) == modes.Mode("15W", 0)
        agent.call("release", 60)  # nothing is held: nothing to do


@needs_root
def test_one_run_at_a_time_holds_a_board(jetson: Path) -> None:
    with LOCAL.agent(Mobile()) as first, LOCAL.agent(Mobile()) as second:
        first.call("hold", 60, board={"power_mode": 1}, root=str(jetson))
        with pytest.raises(TargetError, match="another run holds this board"):
            second.call("hold", 60, board={"power_mode": 0}, root=str(jetson))
        first.call("release", 60)


@needs_root
@pytest.mark.parametrize("how", ["killed", "line dropped", "interrupted"])
def test_it_is_put_back_when_the_agent_is_gone(how: str, jetson: Path) -> None:
    with LOCAL.agent(Mobile()) as agent:
        agent.call("hold", 60, board={"power_mode": 1, "lock_clocks": True}, root=str(jetson))
        assert (jetson / "locked").exists()
        if how == "killed":
            os.kill(agent.pid, signal.SIGKILL)
        elif how == "interrupted":
            os.killpg(agent.pid, signal.SIGINT)
        # leaving the context kills the agent's whole group, as a line that drops ends it
    until(lambda: modes.current(jetson) == modes.Mode("15W", 0) and not (jetson / "locked").exists())


@needs_root
def test_what_cannot_be_put_back_is_told(jetson: Path) -> None:
    with LOCAL.agent(Mobile()) as agent:
        agent.call("hold", 60, board={"power_mode": 1}, root=str(jetson))
        program(jetson / "usr/sbin/nvpmodel", "echo 'the board is on fire'; exit 1\n")
        with pytest.raises(TargetError, match="on fire"):
            agent.call("release", 60)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"when_hot": "panic"}, "when_hot must be one of warn, fail"),
        ({"power_mode": " "}, "power_mode is empty"),
        ({"energy_s": -1.0}, "0 or more"),
    ],
)
def test_impossible_wishes_are_told(options: dict[str, object], says: str) -> None:
    with pytest.raises(TargetError, match=says):
        Board(**options)  # type: ignore[arg-type]


def test_wishes_survive_json() -> None:
    board = Board(power_mode=0, lock_clocks=True, cool_below_c=50.0)
    assert Board.of(json.loads(json.dumps(board.as_dict()))) == board
