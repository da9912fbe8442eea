"""Several boards as one device: they share the work, and one that dies is replaced by the others."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sshd import Sshd, running
from test_targets_local import elementwise
from test_targets_ssh_faults import amid, gone

from targets.backends.mobile import Mobile
from targets.base import Target, TargetError
from targets.devices.base import SILENT, Device, DeviceLostError, Fingerprint, Measurement, Tell, Timing
from targets.devices.local import Local
from targets.devices.pool import Pool
from targets.devices.ssh import Ssh

TIMING = Timing(samples=60, rounds=6, launches=3, max_s=20, precision=0.0, retries=0)


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[tuple[Sshd, Sshd]]:
    with running(tmp_path / "one") as one, running(tmp_path / "two") as two:
        yield one, two


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pool(boards: tuple[Sshd, Sshd], said: list[str]) -> Iterator[Pool]:
    members = [Ssh.at(board.url(), {}, name) for board, name in zip(boards, ("one", "two"), strict=True)]
    yield Pool("pair", tuple(members), Tell(SILENT.bar, said.append))
    for member in members:
        member.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Relu built for the target mobile, with feeds beside it."""
    folder = tmp_path_factory.mktemp("model")
    np.savez(folder / "feeds.npz", x=np.arange(8, dtype=np.float32).reshape(2, 4) - 3)
    (folder / "built").mkdir()
    Local().build(Mobile(), elementwise(folder / "m.onnx", "Relu"), folder / "built")
    return folder


def contestants(model: Path) -> dict[str, tuple[Target, Path]]:
    return {"a": (Mobile(), model / "built"), "b": (Mobile(threads=2), model / "built")}


def test_every_set_of_processes_is_timed_on_one_of_the_boards(
    pool: Pool, boards: tuple[Sshd, Sshd], model: Path
) -> None:
    rounds: list[int] = []
    found = pool.measure(contestants(model), model / "feeds.npz", TIMING, lambda: rounds.append(1))
    assert [len(one.blocks_ns) for one in found.values()] == [6, 6]
    assert len(rounds) == 6
    assert all(list((board.kept / "work").iterdir()) for board in boards)
    assert pool.boards == 2


def test_threads_run_samples_on_both_boards(pool: Pool, boards: tuple[Sshd, Sshd], model: Path) -> None:
    def infer(i: int) -> None:
        pool.infer(Mobile(), model / "built", model / "feeds.npz", model / f"{i}.npz")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(infer, range(4)))
    for i in range(4):
        with np.load(model / f"{i}.npz") as out:
            np.testing.assert_array_equal(out["y"].ravel(), [0, 0, 0, 0, 1, 2, 3, 4])
    assert all(list((board.kept / "work").iterdir()) for board in boards)


def test_a_board_that_dies_is_retired_and_its_share_done_by_the_other(
    pool: Pool, boards: tuple[Sshd, Sshd], model: Path, said: list[str]
) -> None:
    long = replace(TIMING, samples=3000, max_s=30)
    fault = amid(boards[0], lambda _: boards[0].stop(), busy_s=0.0)
    found = pool.measure(contestants(model), model / "feeds.npz", long)
    fault.join()
    assert [len(one.blocks_ns) for one in found.values()] == [6, 6]
    assert len(said) == 1
    assert said[0].startswith("pool pair: one is retired, 1 left: one: ")
    assert pool.boards == 1
    gone(boards[0])
    pool.infer(Mobile(), model / "built", model / "feeds.npz", model / "o.npz")
    boards[1].stop()
    with pytest.raises(DeviceLostError, match=r"pool pair: no board is left; the last one: two: .*"):
        pool.infer(Mobile(), model / "built", model / "feeds.npz", model / "o.npz")


def test_a_board_that_is_off_is_left_out_from_the_start(pool: Pool, boards: tuple[Sshd, Sshd], said: list[str]) -> None:
    boards[1].stop()
    assert pool.fingerprint(Mobile()) == Local().fingerprint(Mobile())
    assert "two is retired, 1 left" in said[0]


@dataclass(frozen=True)
class Other(Local):
    """This machine, with another name for its CPU."""

    at_work: threading.Event = field(default_factory=threading.Event)

    def fingerprint(self, target: Target) -> Fingerprint:
        return replace(super().fingerprint(target), cpu="another")


@dataclass(frozen=True)
class Busy(Local):
    """This machine, which notes how many timings it does at once; or one that is gone."""

    off: bool = False
    under_way: list[int] = field(default_factory=list)
    most: list[int] = field(default_factory=list)

    def measure(self, *_: Any, **__: Any) -> dict[str, Measurement]:
        if self.off:
            raise DeviceLostError("gone")
        self.under_way.append(1)
        self.most.append(len(self.under_way))
        time.sleep(0.05)
        self.under_way.pop()
        return {"a": Measurement(((1,),), (), 0.0, 0, (), rounds=(1,), walls_ns=(1,))}


def test_no_board_times_two_things_at_once_when_another_is_gone(tmp_path: Path) -> None:
    here = Busy(name="here")
    pool = Pool("p", (Busy(name="there", off=True), here))
    found = pool.measure({"a": (Mobile(), tmp_path)}, tmp_path / "feeds.npz", Timing(rounds=6, launches=6))["a"]
    assert found.rounds == (1,) * 6
    assert here.most == [1] * 6


def test_boards_that_are_not_alike_are_refused_with_the_difference() -> None:
    odd: tuple[Device, ...] = (Local(name="here"), Other(name="there"))
    with pytest.raises(TargetError, match=r"here and there are not alike: cpu: .* → another; a pool has boards of one"):
        Pool("p", odd).fingerprint(Mobile())


def test_what_is_wrong_with_the_work_retires_no_board(pool: Pool, model: Path, tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "model.ort").write_bytes(b"no model")
    with pytest.raises(TargetError, match="cannot run"):
        pool.infer(Mobile(), tmp_path / "built", model / "feeds.npz", tmp_path / "o.npz")
    assert pool.boards == 2
    assert not said
