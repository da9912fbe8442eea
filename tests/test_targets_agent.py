"""The agent's line of JSON: a real process, spoken to as the device layer does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from targets import npz
from targets.backends.cpu import Cpu
from targets.backends.mobile import Mobile
from targets.base import NoDeviceError, Target, TargetError
from targets.client import AgentProcess, start
from targets.plugins import spec

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "targets.agent"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LIMIT_S = 60.0
LAST_WORDS = r"exit code 1\): first reason \| last reason"


def relu(path: Path, batch: int | str) -> Path:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(path))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Relu over (3, 4), built for the target cpu."""
    folder = tmp_path_factory.mktemp("built")
    Cpu().build(relu(folder.parent / "relu.onnx", 3), folder)
    return folder


@pytest.fixture
def agent() -> Iterator[AgentProcess]:
    with start(COMMAND, ENVIRONMENT) as running:
        yield running


def feeds(path: Path, n: int = 7, **arrays: Any) -> Path:
    np.savez(path, **(arrays or {"x": np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)}))
    return path


def load(agent: AgentProcess, built: Path, **arguments: Any) -> Any:
    return agent.call("load", LIMIT_S, **spec(Cpu()), built=str(built), **arguments)


def raw() -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=ENVIRONMENT)


def ask(process: "subprocess.Popen[bytes]", line: bytes) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def test_garbage_gets_an_error_each_and_the_agent_goes_on() -> None:
    with raw() as process:
        for line in (b"hello\n", b"\xff\xfe\n", b"[1]\n", b"{}\n", b'{"do": 5}\n', b"[" * 100_000 + b"\n"):
            said = ask(process, line)
            assert said["error"]["kind"] == "TargetError"
            assert "\n" not in said["error"]["message"]
        assert "unknown order 'fly'" in ask(process, b'{"id": 3, "do": "fly"}\n')["error"]["message"]
        assert "'target' is missing" in ask(process, b'{"do": "versions"}\n')["error"]["message"]
        assert "send load first" in ask(process, b'{"do": "block", "calls": 3}\n')["error"]["message"]
        other = b'{"do": "versions", "target": "os:system", "options": {}}\n'
        assert "not a target installed here" in ask(process, other)["error"]["message"]
        assert ask(process, b'{"id": "a", "do": "quit"}\n') == {"id": "a", "ok": None}
        assert process.wait(timeout=LIMIT_S) == 0


def test_answers_nobody_waits_for_are_passed_over_errors_too(agent: AgentProcess) -> None:
    agent.tell("usage")
    agent.tell("nonsense")
    agent.tell("cores", count=1)
    assert list(agent.call("versions", LIMIT_S, **spec(Cpu()))) == ["openvino"]
    with pytest.raises(TargetError, match="no artifact is loaded"):
        agent.call("block", LIMIT_S, calls=1)


@pytest.mark.parametrize(("target", "runtime"), [(Cpu(), "openvino"), (Mobile(), "onnxruntime")], ids=["cpu", "mobile"])
def test_a_runtime_can_be_imported_ahead_and_its_absence_is_told_later(
    target: Target, runtime: str, built: Path
) -> None:
    broken = f"import sys; sys.modules[{runtime!r}] = None; from targets.agent import main; main()"
    with start([sys.executable, "-c", broken], ENVIRONMENT) as agent:
        with pytest.raises(TargetError, match=f"import of {runtime} halted"):
            agent.call("prepare", LIMIT_S, **spec(target))
        agent.tell("prepare", **spec(target))
        with pytest.raises(TargetError, match=runtime):
            agent.call("load", LIMIT_S, **spec(target), built=str(built))
    with start(COMMAND, ENVIRONMENT) as agent:
        assert agent.call("prepare", LIMIT_S, **spec(target)) is None


def test_the_agent_dies_when_its_input_closes() -> None:
    with raw() as process:
        assert "ok" in ask(process, b'{"do": "usage"}\n')
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=LIMIT_S) == 1


def test_the_agent_dies_amid_an_order_when_its_input_closes(built: Path, tmp_path: Path) -> None:
    with raw() as process:
        order = {"do": "load", **spec(Cpu()), "built": str(built), "feeds": str(feeds(tmp_path / "f.npz"))}
        assert "ok" in ask(process, json.dumps(order).encode() + b"\n")
        assert process.stdin is not None
        process.stdin.write(b'{"do": "block", "calls": 10000000}\n')
        process.stdin.close()
        assert process.wait(timeout=LIMIT_S) == 1


def test_what_a_runtime_prints_stays_off_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import os, targets.backends.cpu as cpu\n"
        "old = cpu.Cpu.versions\n"
        "def versions(self):\n"
        "    print('python noise', flush=True); os.write(1, b'native noise\\n'); return old(self)\n"
        "cpu.Cpu.versions = versions\n"
        "from targets.agent import main\n"
        "main()\n"
    )
    with start([sys.executable, str(tmp_path / "noisy.py")], ENVIRONMENT) as agent:
        assert list(agent.call("versions", LIMIT_S, **spec(Cpu()))) == ["openvino"]


def test_a_killed_agent_is_an_error_that_names_the_order_and_the_signal(
    agent: AgentProcess, built: Path, tmp_path: Path
) -> None:
    load(agent, built, feeds=str(feeds(tmp_path / "f.npz")))
    killer = threading.Timer(0.5, os.kill, (agent.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(TargetError, match=r"block: the runtime's process died \(SIGKILL\)"):
        agent.call("block", LIMIT_S, calls=10_000_000)
    killer.join()
    with pytest.raises(TargetError, match="SIGKILL"):
        agent.call("usage", LIMIT_S)


def test_the_end_of_stderr_tells_why_it_died() -> None:
    command = [sys.executable, "-c", "import sys; input(); sys.exit('first reason\\nlast reason')"]
    with start(command, ENVIRONMENT) as agent, pytest.raises(TargetError, match=LAST_WORDS):
        agent.call("usage", LIMIT_S)


def test_an_order_that_outlasts_its_limit_is_an_error_and_leaves_no_process(built: Path, tmp_path: Path) -> None:
    with start(COMMAND, ENVIRONMENT) as agent:
        load(agent, built, feeds=str(feeds(tmp_path / "f.npz")))
        with pytest.raises(TargetError, match=r"block: no answer within 0\.2 s"):
            agent.call("block", 0.2, calls=10_000_000)
        pid = agent.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_interrupt_leaves_no_process() -> None:
    running = start(COMMAND, ENVIRONMENT)
    agent = running.__enter__()
    agent.call("usage", LIMIT_S)
    running.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with pytest.raises(ProcessLookupError):
        os.kill(agent.pid, 0)


def test_children_of_the_agent_go_with_it(tmp_path: Path) -> None:
    command = ["sh", "-c", f"sleep 300 & echo $! > {tmp_path}/child; read line; wait"]
    with start(command, ENVIRONMENT):
        while not (tmp_path / "child").is_file() or not (tmp_path / "child").read_text():
            time.sleep(0.01)
    child = int((tmp_path / "child").read_text())
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").is_file() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("compressed", [False, True])
def test_infer_equals_a_direct_run_whatever_the_number_of_samples(
    agent: AgentProcess, built: Path, tmp_path: Path, n: int, compressed: bool
) -> None:
    x = np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "f.npz", x=x)
    load(agent, built)
    done = agent.call("infer", LIMIT_S, feeds=str(tmp_path / "f.npz"), out=str(tmp_path / "o.npz"))
    assert done == {"samples": n}
    with np.load(tmp_path / "o.npz") as out:
        assert out.files == ["y"]
        np.testing.assert_array_equal(out["y"], np.maximum(x, 0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.npz", "o.npz"]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"z": np.zeros((2, 4), np.float32)}, r"has \['z'\], the model takes \['x'\]"),
        ({"x": np.zeros((2, 5), np.float32)}, r"x is \(2, 5\), the model takes \(3, 4\)"),
        ({"x": np.zeros((0, 4), np.float32)}, "no samples"),
        ({"x": np.asfortranarray(np.zeros((2, 4), np.float32))}, "Fortran"),
        ({"x": np.zeros((2, 4), np.float64)}, "float64"),
    ],
)
def test_feeds_that_do_not_fit_say_why(
    agent: AgentProcess, built: Path, tmp_path: Path, arrays: dict[str, Any], says: str
) -> None:
    load(agent, built)
    path = feeds(tmp_path / "f.npz", **arrays)
    with pytest.raises(TargetError, match=says):
        agent.call("infer", LIMIT_S, feeds=str(path), out=str(tmp_path / "o.npz"))
    assert not (tmp_path / "o.npz").exists()


def test_a_file_that_is_no_npz_is_named(agent: AgentProcess, built: Path, tmp_path: Path) -> None:
    load(agent, built)
    (tmp_path / "f.npz").write_bytes(b"PK nothing")
    with pytest.raises(TargetError, match=r"f\.npz is not a readable \.npz file"):
        agent.call("infer", LIMIT_S, feeds=str(tmp_path / "f.npz"), out=str(tmp_path / "o.npz"))


def test_no_device_crosses_the_line_as_itself(agent: AgentProcess, tmp_path: Path) -> None:
    with pytest.raises(NoDeviceError, match="not compiled: no device"):
        agent.call("load", LIMIT_S, target="targets.backends.jetson:Jetson", built=str(tmp_path))


def test_one_process_serves_one_artifact(agent: AgentProcess, built: Path) -> None:
    load(agent, built)
    with pytest.raises(TargetError, match="loaded already"):
        load(agent, built)


def test_batches_cover_every_array_in_step(tmp_path: Path) -> None:
    a, b = np.arange(10).reshape(5, 2), np.arange(5.0)
    np.savez(tmp_path / "f.npz", a=a, b=b)
    got = list(npz.batches(tmp_path / "f.npz", 2))
    assert [valid for _, valid in got] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([x["a"] for x, _ in got]), np.concatenate([a, a[-1:]]))
    np.testing.assert_array_equal(got[-1][0]["b"], [4.0, 4.0])


def test_arrays_of_different_length_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(TargetError, match="one length"):
        list(npz.batches(tmp_path / "f.npz", 2))


def test_a_pickle_in_an_npz_is_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=np.array([{}, {}], dtype=object))
    with pytest.raises(TargetError, match="Python objects"):
        list(npz.batches(tmp_path / "f.npz", 1))


def test_an_agent_that_died_between_orders_is_told_by_its_signal(agent: AgentProcess) -> None:
    agent.call("usage", LIMIT_S)
    os.kill(agent.pid, signal.SIGTERM)
    with pytest.raises(TargetError, match=r"usage: the runtime's process died \(SIGTERM\)"):
        agent.call("usage", LIMIT_S)


def test_opening_openvino_starts_no_other_process(agent: AgentProcess, built: Path) -> None:
    load(agent, built)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    assert children == []


def test_a_pipe_held_by_an_orphan_does_not_hide_the_death() -> None:
    command = ["sh", "-c", "sleep 300 & kill -9 $$"]
    with start(command, ENVIRONMENT) as agent, pytest.raises(TargetError, match="SIGKILL"):
        agent.call("usage", LIMIT_S)


def test_a_file_of_arrays_that_do_not_count_samples_alike_is_one_call(tmp_path: Path) -> None:
    whole = {"x": np.ones((1, 3), np.float32), "state": np.zeros((2, 1, 4)), "rate": np.asarray(16000)}
    npz.save(tmp_path / "call.npz", whole)
    found = npz.first(tmp_path / "call.npz", 1)
    assert {name: array.shape for name, array in found.items()} == {"x": (1, 3), "state": (2, 1, 4), "rate": ()}
    assert all(np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in whole.items())
    npz.save(tmp_path / "batch.npz", {"a": np.arange(6).reshape(3, 2), "b": np.arange(3)})
    assert {k: v.tolist() for k, v in npz.first(tmp_path / "batch.npz", 2).items()} == {
        "a": [[0, 1], [2, 3]],
        "b": [0, 1],
    }
