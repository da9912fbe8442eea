"""What goes wrong between here and a board: one clear line each, nothing left there, and a rerun that goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from sshd import Sshd, free_port
from test_targets_local import elementwise
from wire import wire

from targets.backends.mobile import Mobile
from targets.base import TargetError
from targets.devices.base import DeviceLostError, Timing
from targets.devices.local import Local
from targets.devices.ssh import Ssh

LONG = Timing(samples=10_000_000, rounds=100, launches=1, max_s=60, precision=0.0, retries=0)
SHORT = Timing(samples=20, rounds=3, launches=1, max_s=5, precision=0.0, retries=0)
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    np.savez(folder / "feeds.npz", x=np.zeros((2, 4), np.float32))
    (folder / "built").mkdir()
    Local().build(Mobile(), elementwise(folder / "m.onnx", "Relu"), folder / "built")
    return folder


@pytest.fixture
def devices() -> Iterator[Callable[..., Ssh]]:
    """Makes devices from URLs, and closes them."""
    made: list[Ssh] = []

    def make(url: str) -> Ssh:
        made.append(Ssh.at(url, {}))
        return made[-1]

    yield make
    for device in made:
        device.close()


def measure(device: Ssh, model: Path, timing: Timing = SHORT) -> int:
    found = device.measure({"relu": (Mobile(), model / "built")}, model / "feeds.npz", timing)
    return len(found["relu"].blocks_ns)


def bare_python(folder: Path, *packages: str) -> str:
    """An interpreter with nothing but some of our packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in packages:
        top = Path(sys.modules[name].__path__[0])
        (site / name).symlink_to(top)
        if (libraries := top.with_name(f"{name}.libs")).is_dir():
            (site / libraries.name).symlink_to(libraries)
    return f"{folder}/bin/python"


def gone(board: Sshd) -> None:
    """No guard and no agent is left, after a moment for the last signals."""
    deadline_s = time.monotonic() + LIMIT_S
    while board.agents():
        assert time.monotonic() < deadline_s, board.agents()
        time.sleep(0.05)


def amid(board: Sshd, fault: Callable[[list[psutil.Process]], object], busy_s: float = 0.5) -> threading.Thread:
    """Let something happen as soon as an agent there has computed for so long."""

    def wait() -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not board.working(busy_s):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        fault(board.agents())

    made = threading.Thread(target=wait)
    made.start()
    return made


def test_an_unknown_host_is_refused_with_its_fingerprint(
    board: Sshd, devices: Callable[..., Ssh], tmp_path: Path
) -> None:
    (tmp_path / "known").touch()
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(board.folder / "host_key.pub")], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    with pytest.raises(TargetError, match="its host key is not known") as raised:
        devices(board.url(known_hosts=str(tmp_path / "known"))).fingerprint(Mobile())
    assert shown in str(raised.value)
    assert f"ssh-keyscan -p {board.port} localhost >> {tmp_path}/known" in str(raised.value)


def test_a_changed_host_key_is_refused_and_said_to_have_changed(
    board: Sshd, devices: Callable[..., Ssh], tmp_path: Path
) -> None:
    wrong = board.knows("wrong_hosts", key="other_key")
    with pytest.raises(TargetError, match=r"its host key has CHANGED, to SHA256:.*someone may be in between"):
        devices(board.url(known_hosts=str(wrong))).fingerprint(Mobile())


def test_a_refused_login_names_the_user_and_the_key(board: Sshd, devices: Callable[..., Ssh]) -> None:
    with pytest.raises(TargetError, match=r"login as .* refused with the key .*other_key; .*ssh-copy-id"):
        devices(board.url(key=f"{board.folder}/other_key")).fingerprint(Mobile())


def test_files_that_are_not_there_are_named(board: Sshd, devices: Callable[..., Ssh], tmp_path: Path) -> None:
    for option in ("key", "known_hosts"):
        with pytest.raises(TargetError, match=f"{tmp_path}/none"):
            devices(board.url(**{option: f"{tmp_path}/none"})).fingerprint(Mobile())


def test_a_port_that_nothing_listens_on(board: Sshd, devices: Callable[..., Ssh]) -> None:
    with pytest.raises(DeviceLostError, match="nothing listens on that port"):
        devices(board.url(port=free_port())).fingerprint(Mobile())


def test_an_interpreter_that_is_not_there(board: Sshd, devices: Callable[..., Ssh]) -> None:
    with pytest.raises(TargetError, match="there is no /nowhere/python there; name an interpreter by"):
        devices(board.url(python="/nowhere/python")).fingerprint(Mobile())


def test_a_missing_numpy_names_the_command_to_run_there(
    board: Sshd, devices: Callable[..., Ssh], tmp_path: Path
) -> None:
    python = bare_python(tmp_path / "bare")
    with pytest.raises(TargetError, match=f"localhost:{board.port}: no numpy there: run {python} -m pip install numpy"):
        devices(board.url(python=python)).fingerprint(Mobile())
    gone(board)


def test_a_missing_runtime_names_the_command_to_run_there(
    board: Sshd, devices: Callable[..., Ssh], tmp_path: Path
) -> None:
    python = bare_python(tmp_path / "bare", "numpy")
    expected = rf"localhost:{board.port}: target mobile needs onnxruntime, .*: {python} -m pip install onnxruntime"
    with pytest.raises(TargetError, match=expected):
        devices(board.url(python=python)).fingerprint(Mobile())
    gone(board)


def test_a_login_shell_that_prints_first_does_no_harm(
    own_board: Sshd, devices: Callable[..., Ssh], tmp_path: Path
) -> None:
    noisy = tmp_path / "python"
    noisy.write_text(f'#!/bin/sh\necho "Welcome to the board!"\necho "[1]"\nexec {sys.executable} "$@"\n')
    noisy.chmod(0o755)
    assert devices(own_board.url(python=str(noisy))).fingerprint(Mobile())


def test_a_transfer_goes_on_where_the_wire_was_cut(
    own_board: Sshd, devices: Callable[..., Ssh], tmp_path: Path
) -> None:
    data = np.random.default_rng(0).bytes(8_000_000)
    (tmp_path / "big.bin").write_bytes(data)
    with wire(own_board.port, [3_000_000]) as line:
        own_board.knows(port=line.port)
        there = devices(own_board.url(line.port)).put(tmp_path / "big.bin")
        assert len(line.sent) == 2
        assert sum(line.sent) < 8_000_000 + 3_000_000
    (blob,) = (own_board.kept / "blobs").iterdir()
    assert blob.read_bytes() == data
    assert there.startswith(f"{own_board.kept}/work/")
    assert not list((own_board.kept / "partial").iterdir())


def test_a_wire_that_keeps_breaking_is_one_line_and_the_next_run_goes_on(
    own_board: Sshd, devices: Callable[..., Ssh], tmp_path: Path
) -> None:
    data = np.random.default_rng(0).bytes(8_000_000)
    (tmp_path / "big.bin").write_bytes(data)
    with wire(own_board.port, [2_500_000] * 2) as line:
        own_board.knows(port=line.port)
        with pytest.raises(
            DeviceLostError, match=r"connection was lost while sending files .*the same command goes on"
        ):
            devices(own_board.url(line.port)).put(tmp_path / "big.bin")
        (partial,) = (own_board.kept / "partial").iterdir()
        assert partial.stat().st_size >= 2_000_000
    with wire(own_board.port) as line:
        own_board.knows(port=line.port)
        devices(own_board.url(line.port)).put(tmp_path / "big.bin")
        assert sum(line.sent) < 8_000_000 - 1_000_000
    (blob,) = (own_board.kept / "blobs").iterdir()
    assert blob.read_bytes() == data


def test_a_connection_that_drops_amid_a_measurement(own_board: Sshd, devices: Callable[..., Ssh], model: Path) -> None:
    device = devices(own_board.url())
    fault = amid(own_board, lambda _: own_board.drop_connections())
    with pytest.raises(DeviceLostError, match=r"the connection was lost while it did .*the same command goes on"):
        measure(device, model, LONG)
    fault.join()
    gone(own_board)
    assert measure(device, model) == 3


def test_a_board_that_reboots_amid(own_board: Sshd, devices: Callable[..., Ssh], model: Path) -> None:
    device = devices(own_board.url())

    def reboot(agents: list[psutil.Process]) -> None:
        own_board.stop()
        for agent in agents:
            if agent.is_running():
                agent.kill()

    fault = amid(own_board, reboot)
    with pytest.raises(DeviceLostError, match="connection was lost"):
        measure(device, model, LONG)
    fault.join()
    with pytest.raises(DeviceLostError, match="nothing listens"):
        measure(device, model)
    own_board.start()
    assert measure(device, model) == 3


@pytest.mark.parametrize("whole", [False, True], ids=["agent", "agent and guard"])
def test_a_hung_agent_is_ended_from_outside(
    own_board: Sshd, devices: Callable[..., Ssh], model: Path, whole: bool
) -> None:
    device = replace(devices(own_board.url()), timeout_s=4)
    stopped: list[int] = []

    def stop(agents: list[psutil.Process]) -> None:
        for agent in agents if whole else own_board.working():
            agent.send_signal(signal.SIGSTOP)
            stopped.append(agent.pid)

    fault = amid(own_board, stop)
    with pytest.raises(DeviceLostError, match="no answer within 4 s; the agent was stopped"):
        measure(device, model, LONG)
    fault.join()
    device.close()
    assert len(stopped) == 1 + whole
    gone(own_board)


def test_a_runtime_that_crashes_is_told_by_its_signal(
    own_board: Sshd, devices: Callable[..., Ssh], model: Path
) -> None:
    fault = amid(own_board, lambda _: [agent.kill() for agent in own_board.working()])
    with pytest.raises(DeviceLostError, match=r"the runtime's process died \(SIGKILL\)"):
        measure(devices(own_board.url()), model, LONG)
    fault.join()
    gone(own_board)


def test_an_agent_ends_by_itself_where_the_network_is_gone_without_a_word(
    own_board: Sshd, devices: Callable[..., Ssh], model: Path
) -> None:
    with wire(own_board.port) as line:
        own_board.knows(port=line.port)
        device = replace(devices(own_board.url(line.port)), lease_s=1.0)
        fault = amid(own_board, lambda _: line.dead.set())
        with pytest.raises(DeviceLostError, match=r"connection was lost|stopped"):
            measure(replace(device, timeout_s=8), model, LONG)
        fault.join()
        gone(own_board)


def test_a_full_disk_there_says_so_and_the_next_run_goes_on(
    own_board: Sshd, devices: Callable[..., Ssh], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting takes rights; a limit on file sizes is tested everywhere")
    try:
        (tmp_path / "big.bin").write_bytes(np.random.default_rng(0).bytes(4_000_000))
        (small / "other").write_bytes(bytes(3_000_000))
        device = devices(own_board.url(folder=str(small / "kept")))
        with pytest.raises(TargetError, match=r"the disk there is full: 4,000,000 bytes to send, .* free at"):
            device.put(tmp_path / "big.bin")
        (small / "other").unlink()
        device.put(tmp_path / "big.bin")
        device.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_limit_on_file_sizes_there_says_so(own_board: Sshd, devices: Callable[..., Ssh], tmp_path: Path) -> None:
    own_board.stop()
    own_board.start("prlimit", "--fsize=2000000", "env", "--ignore-signal=XFSZ")
    (tmp_path / "big.bin").write_bytes(bytes(4_000_000))
    with pytest.raises(TargetError, match="a limit on file sizes, a quota, or rights"):
        devices(own_board.url()).put(tmp_path / "big.bin")
