"""The command line with a board over ssh, as a user types it: end to end, broken amid, and what it then says."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import COMMAND, ROOT, environment, one_line, run_cli
from sshd import Sshd
from test_targets_local import elementwise


def measure(url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    elementwise(folder / "model.onnx", "Relu")
    return run_cli("measure", "model.onnx", "--target", "mobile", "--samples", 50, "--device", url, cwd=folder)


def test_a_recipe_is_deployed_on_a_board_interrupted_there_and_goes_on(own_board: Sshd, project: Path) -> None:
    """What had finished when the board died is there when make does it again, and no process is left behind."""
    text = project.read_text()
    for line in ("  prune: {ratio: 0.5, recalibrate: 2}\n", "  finetune: {epochs: 2, batch_size: 32, lr: 0.05}\n"):
        assert line in text
        text = text.replace(line, "")
    project.write_text(text)
    command = [*COMMAND, "deploy", "recipe.yaml", "--target", "mobile", "--set", "targets.mobile.platform=amd64"]
    command += ["--device", own_board.url()]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=project.parent, env=environment(), stdout=pipe, stderr=pipe, text=True
    ) as running:
        _wait_for_agents(own_board, running)
        own_board.stop()
        _, stderr = running.communicate(timeout=120)
    assert running.returncode == 2
    line = one_line(stderr)
    assert f"ssh://{psutil.Process().username()}@localhost:{own_board.port}: " in line
    assert "lost" in line or "cannot connect" in line
    deadline_s = time.monotonic() + 30
    while own_board.agents():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    own_board.start()
    make = ["make", "-f", str(ROOT / "Makefile"), "deploy", "RECIPE=recipe.yaml", "TARGET=mobile"]
    make += [f"DEVICE={own_board.url()}", "SET=targets.mobile.platform=amd64", "READY=", f"VENV={sys.prefix}"]
    kept = {name: value for name, value in environment().items() if not name.startswith("MAKE")}
    done = subprocess.run(make, cwd=project.parent, env=kept, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((project.parent / "artifacts/recipe/mobile/report.json").read_text())
    rows = {row["stage"]: row for row in report["stages"]}
    assert rows["source"]["cached"]
    assert all(row["latency"] for row in rows.values() if row["status"] == "ok")
    assert not any(row["proxy"] for row in rows.values())
    assert (project.parent / "artifacts/recipe/mobile/model/model.ort").is_file()
    _checked_and_compared(project.parent, "artifacts/recipe/mobile", own_board.url())
    assert not own_board.agents()


def _checked_and_compared(folder: Path, run: str, url: str) -> None:
    """The same run passes its own gate, measured anew there, and is compared with itself there."""
    assert run_cli("baseline", "save", run, "--name", "main", cwd=folder).returncode == 0
    loose = [part for name in ("p50", "p90", "p99", "memory") for part in ("--tolerance", f"{name}=200%")]
    check = ("check", run, "--baseline", "main", "--remeasure", "--max-s", 10, "--json", "check.json", *loose)
    done = run_cli(*check, "--device", url, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((folder / "check.json").read_text())["launches"]) >= 2
    few = ("--samples", 50, "--rounds", 3, "--launches", 3, "--max-s", 10, "--json")
    done = run_cli("compare", run, run, *few, "--device", url, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def _wait_for_agents(board: Sshd, running: "subprocess.Popen[str]") -> None:
    """Until something has been built there and the next agent is at work."""
    deadline_s = time.monotonic() + 300
    while not (board.agents() and list((board.kept / "work").iterdir())):
        assert running.poll() is None, running.stderr and running.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"known_hosts": "{board}/wrong"}, "its host key has CHANGED"),
        ({"known_hosts": "{here}/empty"}, "its host key is not known"),
        ({"key": "{board}/other_key"}, "refused with the key"),
        ({"python": "/nowhere/python"}, "there is no /nowhere/python there"),
        ({"python": "python3;x"}, "may have letters"),
        ({"folder": "/proc/edgesmith"}, "/proc/edgesmith there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_board_is_one_line_and_exit_code_2(
    board: Sshd, tmp_path: Path, options: dict[str, str], says: str
) -> None:
    board.knows("wrong", key="other_key")
    (tmp_path / "empty").touch()
    given = {key: value.format(board=board.folder, here=tmp_path) for key, value in options.items()}
    done = measure(board.url(**given), tmp_path)
    assert done.returncode == 2
    assert says in one_line(done.stderr)
    assert not board.agents()


def test_an_interrupt_leaves_nothing_on_the_board(board: Sshd, tmp_path: Path) -> None:
    elementwise(tmp_path / "model.onnx", "Relu")
    command = [*COMMAND, "measure", "model.onnx", "--target", "mobile", "--samples", "100000000"]
    with subprocess.Popen(
        [*command, "--device", board.url()], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as running:
        deadline_s = time.monotonic() + 120
        while not board.working(busy_s=0.5):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted" in one_line(stderr)
    assert not board.agents()


def test_quantize_judges_and_times_on_the_board(board: Sshd, tmp_path: Path) -> None:
    from test_docs import _float_model

    _float_model(tmp_path)
    (tmp_path / "devices.yaml").write_text(json.dumps({"devices": {"bench": {"url": board.url()}}}))
    args = ["--data", "samples.npz", "--samples", 8, "--observer", "minmax", "--target", "mobile", "--device", "bench"]
    done = run_cli("quantize", "model.onnx", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "model_int8.json").read_text())
    assert report["float"]["latency"]
    assert not board.agents()


def test_devices_lists_what_can_be_reached_and_what_cannot(board: Sshd, tmp_path: Path) -> None:
    text = {"devices": {"bench": board.url(), "off": board.url(port=9)}, "pools": {"both": ["bench", "off"]}}
    (tmp_path / "devices.yaml").write_text(json.dumps(text))
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "COLUMNS": "300"}
    done = run_cli("devices", cwd=tmp_path, **home)
    assert done.returncode == 1, done.stderr
    assert "bench" in done.stdout
    assert "cpu, jetson, mobile" in done.stdout.replace("gpu, ", "")
    assert "nothing listens on that port" in done.stdout
    assert "pool both: bench, off" in done.stdout
    done = run_cli("devices", "check", "bench", cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" in done.stdout
    done = run_cli("devices", "check", "off", cwd=tmp_path, **home)
    assert done.returncode == 2
    assert "off: cannot connect: refused: nothing listens on that port" in one_line(done.stderr)


def test_devices_without_any_says_where_to_write_them(tmp_path: Path) -> None:
    done = run_cli("devices", cwd=tmp_path, HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/edgesmith/devices.yaml" in done.stdout.replace("\n", "")
