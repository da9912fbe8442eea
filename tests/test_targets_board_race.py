"""The board around a race: looked at, cooled, its energy taken; the agents are real, the board is a folder."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from targets.backends.mobile import Mobile
from targets.base import Target, TargetError
from targets.board import cooling
from targets.board.options import Board
from targets.board.state import State, read
from targets.devices.base import Measurement, Timing
from targets.devices.local import Local
from targets.race import Race
from tests.board_trees import orin, tree

LOCAL = Local(timeout_s=60)
TIMING = Timing(samples=30, rounds=3, launches=1, max_s=3, precision=0.0, retries=0)
HOT = {f"sys/class/thermal/thermal_zone{i}/temp": 71_000 for i in (0, 1, 3)}


class At:
    """An agent whose board lies under a folder."""

    def __init__(self, agent: Any, root: Path) -> None:
        self._agent, self._root = agent, root

    def call(self, do: str, timeout_s: float, **arguments: Any) -> Any:
        return self._agent.call(do, timeout_s, root=str(self._root), **arguments)

    def tell(self, do: str, **arguments: Any) -> None:
        self._agent.tell(do, **arguments)


def raced(board: Board, root: Path, folder: Path, said: list[str]) -> Measurement:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    (folder / "built").mkdir()
    Mobile().build(folder / "m.onnx", folder / "built")
    np.savez(folder / "feeds.npz", x=np.ones((1, 4), np.float32))

    @contextmanager
    def start(target: Target) -> Iterator[At]:
        with LOCAL.agent(target) as agent:
            yield At(agent, root)

    opened: Any = start
    built = {"a": (Mobile(), str(folder / "built"))}
    return Race(opened, built, str(folder / "feeds.npz"), 60, lambda: None, board, said.append).run(TIMING)["a"]


def test_a_race_looks_before_and_after_and_takes_the_energy(tmp_path: Path) -> None:
    root = orin(tmp_path / "board", 6)
    found = raced(Board(cool_below_c=60, energy_s=0.1), root, tmp_path, [])
    assert len(found.board.states) == 2
    assert found.board.states[0].clocks_mhz["gpu"] == 306
    assert found.board.states[0].at_s < found.board.states[1].at_s
    (energy,) = found.board.energy
    assert (energy.source, energy.rail) == ("sampled", "VDD_IN")
    assert energy.per_call_mj()["VDD_IN"] == pytest.approx(4984 * 1856 / 1e3 * energy.duration_s / energy.calls)


def test_a_hot_board_is_waited_for_and_then_told(tmp_path: Path) -> None:
    said: list[str] = []
    root = tree(orin(tmp_path / "board", 6), HOT)
    found = raced(Board(cool_below_c=60, cool_limit_s=0.1, energy_s=0), root, tmp_path, said)
    assert set(said) == {"cooling: cpu-thermal 71 °C, waiting for 60"}
    assert "cpu-thermal was at 71 °C after 0.1 s of cooling, not below 60" in found.warnings
    assert found.board.energy == ()


def test_without_a_rail_there_is_a_state_and_no_energy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = raced(Board(), tmp_path / "empty", tmp_path, [])
    assert len(found.board.states) == 2
    assert found.board.energy == ()


@pytest.mark.parametrize(
    ("celsius", "board", "says"),
    [
        ((50.0,), Board(cool_below_c=60), None),
        ((71.0, 65.0, 59.0), Board(cool_below_c=60), None),
        ((71.0,), Board(cool_below_c=60, cool_limit_s=0), "71 °C after 0 s"),
        ((71.0,), Board(), None),
    ],
)
def test_the_gate_opens_when_it_is_cool_or_the_limit_is_over(
    celsius: tuple[float, ...], board: Board, says: str | None, tmp_path: Path
) -> None:
    readings: Iterator[State] = iter(
        [read(tree(tmp_path / str(c), {"sys/class/thermal/thermal_zone0/temp": c * 1000})) for c in celsius]
    )
    found = cooling.wait(board, lambda: next(readings), lambda _: None, poll_s=0)
    assert (found is None) == (says is None)
    assert says is None or says in str(found)


@pytest.mark.parametrize(
    ("board", "files", "says"),
    [
        (Board(cool_below_c=60, cool_limit_s=0, when_hot="fail"), HOT, "cool the board, raise cool_below_c"),
        (Board(cool_below_c=60), {}, "shows no temperature"),
    ],
)
def test_a_gate_that_cannot_open_is_one_line(board: Board, files: dict[str, object], says: str, tmp_path: Path) -> None:
    where: AbstractContextManager[Any] = pytest.raises(TargetError, match=says)
    with where:
        cooling.wait(board, lambda: read(tree(tmp_path, files)), lambda _: None)
