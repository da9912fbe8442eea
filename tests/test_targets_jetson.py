"""The target jetson with a stand-in for trtexec (tests/trtexec_stand_in.py): what it is asked, version by version.

No Jetson was at hand. The agent, its orders, files and processes are real.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from targets.backends import _caches
from targets.backends.jetson import Jetson
from targets.base import NoDeviceError, Noted, TargetError
from targets.devices.base import Timing
from targets.devices.local import Local
from tests.trtexec_stand_in import asked, model, trtexec

LOCAL = Local(timeout_s=60)
VERSIONS = {"8502": "8.5.2", "8602": "8.6.2", "100300": "10.3.0", "110200": "11.2.0"}


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a board's trtexec and what it keeps."""
    folder = tmp_path / "board"
    folder.mkdir()
    monkeypatch.setenv("TRTEXEC", str(folder / "trtexec"))
    monkeypatch.setenv("EDGESMITH_ROOT", str(folder))
    return folder


def built(tmp_path: Path, target: Jetson, quantized: bool = True) -> Path:
    out = tmp_path / "built"
    out.mkdir(exist_ok=True)
    target.build(model(tmp_path / "m.onnx", quantized), out)
    return out


@pytest.mark.parametrize(
    ("version", "quantized", "precision"),
    [
        ("8502", True, ["--int8"]),
        ("8602", True, ["--int8"]),
        ("8602", False, []),
        ("100300", True, ["--stronglyTyped"]),
        ("100300", False, ["--stronglyTyped"]),
        ("110200", True, []),
    ],
)
def test_each_version_is_asked_for_the_precision_of_the_model(
    version: str, quantized: bool, precision: list[str], board: Path, tmp_path: Path
) -> None:
    trtexec(board, version)
    assert Jetson().runs_here() is None
    assert Jetson().versions() == {"trtexec": VERSIONS[version]}
    out = built(tmp_path, Jetson(), quantized)
    (arguments,) = asked(board)
    assert [a for a in arguments if a in ("--int8", "--stronglyTyped", "--fp16")] == precision
    assert "--noTF32" in arguments
    assert ("--skipInference" in arguments) == (version != "8502")
    told = json.loads((out / "engine.json").read_text())
    assert (told["builder"], told["version"], told["capability"]) == ("trtexec", VERSIONS[version], "8.7")
    for name, file in (("onnx_sha256", tmp_path / "m.onnx"), ("engine_sha256", out / "model.engine")):
        assert told[name] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert Jetson().shipped(out) == (out / "model.engine",)
    compiled = Jetson().compiled(out)
    assert compiled is not None
    assert [kernel.precision for kernel in compiled] == ["i8"]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_loaded_timed_and_run_by_the_agent(version: str, board: Path, tmp_path: Path) -> None:
    trtexec(board, version)
    out = built(tmp_path, Jetson())
    x = np.array([[-1, 0.5, -2, 3], [4, -5, 6, -7]], np.float32)
    np.savez(tmp_path / "feeds.npz", x=x)
    LOCAL.infer(Jetson(), out, tmp_path / "feeds.npz", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as found:
        np.testing.assert_array_equal(found["y"], np.maximum(x, 0))
    timing = Timing(samples=9, rounds=3, launches=1, max_s=20, layers=True)
    one = LOCAL.measure({"a": (Jetson(), out)}, tmp_path / "feeds.npz", timing)["a"]
    assert {ns for block in one.blocks_ns for ns in block} == {1_250_000}
    assert any("trtexec's own clock" in warning for warning in one.warnings)
    assert [layer.name for layer in one.layers] == ["conv4 + relu4"]
    assert one.memory_peak_bytes > 150_000_000  # of the tool that holds the engine, not of the agent
    timed = [arguments for arguments in asked(board) if "--exportTimes=times.json" in arguments]
    pinned = {"--includeDataTransfers"} if version == "110200" else {"--useCudaGraph", "--useSpinWait"}
    assert all(pinned <= set(arguments) for arguments in timed)


def test_layers_have_the_times_of_a_run_of_their_own(board: Path, tmp_path: Path) -> None:
    trtexec(board, "110200")
    out = built(tmp_path, Jetson())
    with Jetson().open(out) as run:
        (layer,) = run.layers({}, 20)  # type: ignore[attr-defined]
    assert (layer.name, layer.kind, layer.kernel) == ("conv4 + relu4", "CaskConvolution", "sm80_xmma_i8")
    assert (layer.precision, layer.time_ns) == ("i8", 1_050_000)
    assert "--noCudaGraph" in asked(board)[-1]


def test_what_a_dla_cannot_run_is_listed(board: Path, tmp_path: Path) -> None:
    trtexec(board, "8602")
    out = built(tmp_path, Jetson(dla=1))
    (arguments,) = asked(board)
    assert {"--useDLACore=1", "--allowGPUFallback", "--fp16", "--int8"} <= set(arguments)
    told = json.loads((out / "engine.json").read_text())
    assert (told["dla"], told["on_gpu"]) == (1, ["CONVOLUTION: conv4 + relu4"])
    with Jetson(dla=1).open(out) as run:
        assert isinstance(run, Noted)
        assert run.notes[-1] == "the DLA leaves to the GPU what it cannot run: CONVOLUTION: conv4 + relu4"


def test_a_version_without_a_dla_says_so(board: Path, tmp_path: Path) -> None:
    trtexec(board, "110200")
    with pytest.raises(TargetError, match=r"TensorRT 11\.2\.0 has no DLA; leave dla out"):
        built(tmp_path, Jetson(dla=0))


def test_the_timing_cache_is_kept_pinned_and_brought_along(board: Path, tmp_path: Path) -> None:
    trtexec(board, "100300")
    out = built(tmp_path, Jetson())
    first = json.loads((out / "engine.json").read_text())["timing_cache"]
    assert first["begun_sha256"] == ""
    assert (out / "timing.cache").read_bytes() == b"timed "
    second = json.loads((built(tmp_path, Jetson()) / "engine.json").read_text())["timing_cache"]
    assert second["begun_sha256"] == first["sha256"] == hashlib.sha256(b"timed ").hexdigest()
    assert (out / "timing.cache").read_bytes() == b"timed timed "


def test_a_changed_timing_cache_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a.cache"
    _caches.save(path, b"timings")
    assert _caches.load(path) == b"timings"
    path.write_bytes(b"tampered")
    assert _caches.load(path) == b""
    assert _caches.load(tmp_path / "none.cache") == b""


def test_caches_of_other_versions_modes_and_places_lie_apart(board: Path) -> None:
    keys = [("10.3.0", "8.7", "MAXN (0)", ""), ("10.3.0", "8.7", "15W (2)", ""), ("10.3.0", "8.7", "MAXN (0)", "dla0")]
    paths = {_caches.path_of(*key) for key in keys}
    assert len(paths) == 3
    assert {path.parent for path in paths} == {board / "timing-caches"}


@pytest.mark.parametrize(
    ("version", "fail", "says"),
    [
        ("100300", "[TRT] Error Code 4: no kernel for conv1", r"trtexec 10\.3\.0 failed \(exit code 1\): Error Code 4"),
        ("7103", "", "TensorRT 7 is not supported: have 8.6, 10 and 11"),
        ("120000", "", "TensorRT 12 is not supported"),
    ],
)
def test_a_build_that_fails_is_one_line(version: str, fail: str, says: str, board: Path, tmp_path: Path) -> None:
    trtexec(board, version, fail)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(TargetError, match=says) as raised:
        LOCAL.build(Jetson(), model(tmp_path / "m.onnx"), out)
    assert "\n" not in str(raised.value)
    assert not list(out.iterdir())


def test_a_trtexec_that_is_named_and_not_there_is_told(board: Path) -> None:
    with pytest.raises(TargetError, match="there is no such file"):
        Jetson().versions()


def test_the_help_of_some_versions_ends_with_an_error(board: Path) -> None:
    trtexec(board, "8602", help_code=1)
    assert Jetson().versions() == {"trtexec": "8.6.2"}


def test_an_engine_of_another_version_is_to_be_built_again(board: Path, tmp_path: Path) -> None:
    trtexec(board, "100300")
    out = built(tmp_path, Jetson())
    told = json.loads((out / "engine.json").read_text())
    (out / "engine.json").write_text(json.dumps({**told, "version": "8.6.2"}))
    with (
        pytest.raises(TargetError, match=r"built with TensorRT 8\.6\.2, here is 10\.3\.0: build it again"),
        Jetson().open(out),
    ):
        pass


def test_off_a_board_there_is_a_bundle_and_no_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTEXEC", raising=False)
    out = built(tmp_path, Jetson())
    assert Jetson().runs_here() == "not compiled: no device"
    assert Jetson().shipped(out) == (out / "model.onnx",)
    with pytest.raises(NoDeviceError, match=r"no device; run .*build\.sh on the Jetson"), Jetson().open(out):
        pass


@pytest.mark.parametrize("dla", [2, -1, "0"])
def test_an_impossible_dla_is_one_line(dla: object) -> None:
    with pytest.raises(TargetError, match="dla must be 0 or 1"):
        Jetson(dla=dla)  # type: ignore[arg-type]
