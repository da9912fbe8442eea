"""A board over ssh: a real sshd on loopback. What it builds, runs and times is what this machine would."""

import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sshd import Sshd
from test_targets_local import elementwise

from targets.backends.cpu import Cpu
from targets.backends.mobile import Mobile
from targets.base import Target
from targets.devices import _zipapp
from targets.devices.base import Device, Timing
from targets.devices.local import Local
from targets.devices.ssh import Ssh
from targets.plugins import find

LOCAL = Local(timeout_s=60)


@pytest.fixture
def device(board: Sshd) -> Iterator[Ssh]:
    found = Ssh.at(board.url(), {})
    yield found
    found.close()
    assert not board.agents()


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.savez(tmp_path / "feeds.npz", x=x)
    return tmp_path / "feeds.npz"


def built(device: Device, target: Target, folder: Path, kind: str = "Relu") -> Path:
    out = folder / kind
    out.mkdir()
    device.build(target, elementwise(folder / f"{kind}.onnx", kind), out)
    return out


def left_on(board: Sshd) -> set[Path]:
    """Outputs and broken transfers kept there."""
    return {path for name in ("out", "partial") for path in (board.kept / name).glob("*")}


def test_ssh_is_found_by_the_scheme_of_its_url() -> None:
    assert find("targets.devices", "ssh", Device) is Ssh


@pytest.mark.parametrize("target", [Cpu(), Mobile()], ids=lambda t: t.name())
def test_build_and_infer_give_what_this_machine_gives(
    device: Ssh, board: Sshd, target: Target, feeds: Path, tmp_path: Path
) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    before = left_on(board)  # a test of faults may have left something for the sweep
    here, there = built(LOCAL, target, tmp_path / "here"), built(device, target, tmp_path / "there")
    assert {path.name for path in there.iterdir()} == {path.name for path in here.iterdir()}
    for path in target.shipped(here):
        assert (there / path.name).read_bytes() == path.read_bytes()
    device.infer(target, there, feeds, tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as out, np.load(feeds) as given:
        np.testing.assert_array_equal(out["y"], np.maximum(given["x"], 0))
    assert left_on(board) <= before


def test_the_fingerprint_is_the_boards(device: Ssh) -> None:
    assert device.fingerprint(Mobile()) == LOCAL.fingerprint(Mobile())
    assert device.why_not(Mobile()) is None


def test_measure_has_the_rounds_of_every_launch(device: Ssh, feeds: Path, tmp_path: Path) -> None:
    contestants = {kind: (Mobile(), built(device, Mobile(), tmp_path, kind)) for kind in ("Relu", "Exp")}
    rounds = []
    found = device.measure(
        contestants,
        feeds,
        Timing(samples=41, rounds=4, launches=2, max_s=20, precision=0.0, retries=0),
        lambda: rounds.append(1),
    )
    assert list(found) == ["Relu", "Exp"]
    assert len(rounds) == 4
    for one in found.values():
        assert len(one.blocks_ns) == 4
        assert sum(map(len, one.blocks_ns)) >= 41
        assert all(ns > 0 for block in one.blocks_ns for ns in block)
        assert one.memory_peak_bytes > 10e6


def test_answers_nobody_waits_for_are_passed_over(device: Ssh) -> None:
    with device.agent(Cpu()) as agent:
        agent.tell("usage")
        agent.tell("nonsense")
        assert agent.call("cores", 60, count=1)


def test_an_opened_artifact_takes_batches_as_they_come(device: Ssh, tmp_path: Path) -> None:
    folder = built(device, Mobile(), tmp_path)
    with device.opened(Mobile(), folder) as run:
        for seed in range(2):
            x = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
            np.testing.assert_array_equal(run({"x": x})["y"], np.maximum(x, 0))


def test_weights_beside_an_onnx_file_go_with_it(device: Ssh, feeds: Path, tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((4,)).astype(np.float32)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4]) for n in ("x", "y")]
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "out").mkdir()
    device.build(Mobile(), tmp_path / "m.onnx", tmp_path / "out")
    device.infer(Mobile(), tmp_path / "out", feeds, tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as out, np.load(feeds) as given:
        np.testing.assert_allclose(out["y"], given["x"] * weight, rtol=1e-6)


def test_the_package_there_is_copied_once_and_is_the_same_each_time(device: Ssh, board: Sshd) -> None:
    data, digest = _zipapp.archive()
    _zipapp.archive.cache_clear()
    assert _zipapp.archive() == (data, digest)
    device.fingerprint(Mobile())
    (kept,) = (board.kept / "agent").iterdir()
    assert kept.read_bytes() == data
    before = kept.stat()
    again = Ssh.at(board.url(), {})
    again.fingerprint(Mobile())
    again.close()
    assert kept.stat().st_ino == before.st_ino  # what is sent comes under another name first, so it has another
    assert kept.stat().st_mtime_ns > before.st_mtime_ns  # marked as in use: what is not goes some day
    with zipfile.ZipFile(kept) as archive:
        inside = archive.namelist()
    assert {"targets/agent.py", "targets/guard.py", "targets/backends/mobile.py"} <= set(inside)
    assert not any("ssh" in name or "client" in name or "pycache" in name for name in inside)


def test_files_are_sent_once(device: Ssh, board: Sshd, feeds: Path, tmp_path: Path) -> None:
    folder = built(device, Mobile(), tmp_path)
    device.infer(Mobile(), folder, feeds, tmp_path / "o.npz")
    before = {path.name: path.stat().st_ino for path in (board.kept / "blobs").iterdir()}
    again = Ssh.at(board.url(), {})
    again.infer(Mobile(), folder, feeds, tmp_path / "o.npz")
    again.close()
    assert {path.name: path.stat().st_ino for path in (board.kept / "blobs").iterdir()} == before


def test_a_damaged_file_there_is_sent_again(device: Ssh, board: Sshd, feeds: Path, tmp_path: Path) -> None:
    folder = built(device, Mobile(), tmp_path)
    device.infer(Mobile(), folder, feeds, tmp_path / "o.npz")
    for blob in (board.kept / "blobs").iterdir():
        if data := bytearray(blob.read_bytes()):
            data[-1] ^= 1
            blob.write_bytes(data)
    device.infer(Mobile(), folder, feeds, tmp_path / "o2.npz")
    with np.load(tmp_path / "o2.npz") as out, np.load(feeds) as given:
        np.testing.assert_array_equal(out["y"], np.maximum(given["x"], 0))


def test_what_nobody_used_for_long_goes_and_the_rest_stays(own_board: Sshd, tmp_path: Path) -> None:
    (tmp_path / "new.bin").write_bytes(b"new")
    (tmp_path / "old.bin").write_bytes(b"old")
    device = Ssh.at(own_board.url(), {})
    there = {name: device.put(tmp_path / f"{name}.bin") for name in ("new", "old")}
    (own_board.kept / "out" / "left").mkdir()
    (own_board.kept / "agent" / f"{'0' * 64}.pyz").touch()
    for path in (*own_board.kept.glob("*/*"),):
        if path.is_dir() or path.suffix == ".pyz" or path.read_bytes() == b"old":
            os.utime(path, (0, 0))
    device.fingerprint(Mobile())
    assert [path.read_bytes() for path in (own_board.kept / "blobs").iterdir()] == [b"new"]
    assert not list((own_board.kept / "out").iterdir())
    assert device.put(tmp_path / "old.bin") == there["old"]
    assert len(list((own_board.kept / "blobs").iterdir())) == 2
    device.close()


def test_more_agents_at_once_than_a_connection_has_sessions(device: Ssh) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda _: device.fingerprint(Mobile()).python, range(12)))
    assert len(set(found)) == 1
    assert found[0] == sys.version.split()[0]
