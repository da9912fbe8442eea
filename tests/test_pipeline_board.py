"""The recipe's section `board`, and what the report says of a board."""

from pathlib import Path

import pytest

from pipeline.devices import as_measured, place
from pipeline.errors import UserError
from pipeline.manifest import Manifest
from pipeline.recipe import load
from pipeline.report.board import board_report
from targets.backends.cpu import Cpu
from targets.base import TargetError
from targets.board import modes
from targets.board.energy import Energy
from targets.board.options import UNHELD, Board
from targets.board.seen import UNSEEN, Seen
from targets.board.state import read
from targets.devices.local import Local
from targets.devices.pool import Pool
from tests.board_trees import orin


def test_a_recipe_says_how_to_hold_a_board(project: Path) -> None:
    assert load(project).board == UNHELD
    wanted = ("board.power_mode=MAXN", "board.lock_clocks=true", "board.cool_below_c=50.5", "board.when_hot=fail")
    assert load(project, wanted).board == Board("MAXN", True, 50.5, when_hot="fail")
    assert load(project, ("board.power_mode=0",)).board.power_mode == 0


@pytest.mark.parametrize("wrong", ["board.power=MAXN", "board.when_hot=panic", "board.cool_below_c=-3"])
def test_what_a_recipe_cannot_ask_for_is_one_line(wrong: str, project: Path) -> None:
    with pytest.raises(UserError, match="board") as raised:
        load(project, (wrong,))
    assert "\n" not in str(raised.value)


def test_every_board_of_a_pool_is_held() -> None:
    board = Board(lock_clocks=True)
    pool = Pool("two", (Local(), Local())).on(board)
    assert [member.board for member in pool.members] == [board, board]
    assert pool.board == board


@pytest.mark.skipif(any(Path("/").glob("sys/devices/system/cpu/cpu0/cpufreq")), reason="its clocks could be locked")
def test_a_machine_that_nobody_named_is_left_as_it_is_where_it_cannot_be_held() -> None:
    board = Board(lock_clocks=True, cool_below_c=60.0)
    assert as_measured(Cpu(), None, board).device.board == UNHELD
    with pytest.raises(TargetError, match="lock_clocks: neither"):
        as_measured(Cpu(), "local", board)
    cool = Board(cool_below_c=60.0)  # takes no rights
    assert as_measured(Cpu(), None, cool).device.board == cool
    assert place(Cpu(), "none", board=board).device.board == UNHELD  # nothing is timed


def test_a_manifest_tells_how_the_board_was_held(tmp_path: Path) -> None:
    wanted = Board("MAXN", True, 50.5, when_hot="fail")
    assert Manifest(tmp_path, {"recipe": {"board": wanted.as_dict()}}).board() == wanted
    assert Manifest(tmp_path, {"recipe": {}}).board() == UNHELD
    for wrong in ({"power": 1}, {"when_hot": "panic"}, [], {"power_mode": " "}):
        with pytest.raises(UserError, match=r"recipe\.board cannot be read"):
            Manifest(tmp_path, {"recipe": {"board": wrong}}).board()


@pytest.mark.skipif(any(Path("/").glob("sys/devices/system/cpu/cpu0/cpufreq")), reason="its clocks could be locked")
def test_what_this_machine_cannot_do_is_told_before_any_work() -> None:
    assert modes.current() is None
    with pytest.raises(TargetError, match="lock_clocks: neither"):
        place(Cpu(), "local", board=Board(lock_clocks=True))


def test_the_report_has_the_median_of_the_sets(tmp_path: Path) -> None:
    state = read(orin(tmp_path, 6))
    sets = tuple(Energy({"VDD_IN": mj, "VDD_SOC": 1.0}, 10, 1.0, "sampled") for mj in (90.0, 100.0, 250.0))
    found = board_report(Seen((state, state), sets))
    assert found is not None
    assert found.energy is not None
    assert (found.energy.rail, found.energy.per_call_mj["VDD_IN"]) == ("VDD_IN", 10.0)
    assert found.energy.line() == "a call takes 10 mJ on VDD_IN (sampled, idle power included)"
    assert found.states[0].clocks_mhz["gpu"] == 306
    assert board_report(UNSEEN) is None
