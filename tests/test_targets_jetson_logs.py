"""What trtexec prints and exports is read, in the forms of its versions. The values are made up."""

from pathlib import Path

import numpy as np
import pytest

from targets.backends import _trtlogs
from targets.base import TargetError

# The forms of 8.4 (one percentile), and of 8.5 to 11 (three; "Created input binding" in 8.5).
OLD = """&&&& RUNNING TensorRT.trtexec [TensorRT v8401] # trtexec --onnx=m.onnx
[03/11/2026-14:57:03] [I] Created input binding for input:0 with dimensions 1x3x8x8
[03/11/2026-14:57:03] [I] Created output binding for prob with dimensions 1x10
[03/11/2026-14:57:03] [I] === Performance summary ===
[03/11/2026-14:57:03] [I] Throughput: 410.5 qps
[03/11/2026-14:57:03] [I] Latency: min = 0.38 ms, max = 0.44 ms, mean = 0.402 ms, median = 0.401 ms, percentile(99%) = 0.42 ms
[03/11/2026-14:57:03] [I] End-to-End Host Latency: min = 0.57 ms, max = 0.6 ms, mean = 0.58 ms, median = 0.58 ms, percentile(99%) = 0.6 ms
&&&& PASSED TensorRT.trtexec [TensorRT v8401] # trtexec --onnx=m.onnx
"""  # noqa: E501
NEW = """&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --loadEngine=m.engine
[05/13/2026-10:36:46] [I] Input binding for x with dimensions 1x3x8x8 is created.
[05/13/2026-10:36:46] [I] Output binding for y with dimensions 1x10 is created.
[05/13/2026-10:36:46] [I] === Performance summary ===
[05/13/2026-10:36:46] [I] Throughput: 1.5e+03 qps
[05/13/2026-10:36:46] [I] Latency: min = 3.1 ms, max = 3.2 ms, mean = 3.14 ms, median = 3.13 ms, percentile(90%) = 3.15 ms, percentile(95%) = 3.16 ms, percentile(99%) = 3.17 ms
[05/13/2026-10:36:46] [I] H2D Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms, percentile(95%) = 0 ms, percentile(99%) = 0 ms
[05/13/2026-10:36:46] [I] Explanations of the performance metrics are printed in the verbose logs.
&&&& PASSED TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --loadEngine=m.engine
"""  # noqa: E501
FAILED = """&&&& RUNNING TensorRT.trtexec [TensorRT v110201] [b3] # trtexec --onnx=m.onnx
[09/25/2026-10:00:02] [W] [TRT] a warning
[09/25/2026-10:00:02] [E] [TRT] ITensor::getDimensions: Error Code 4: API Usage Error (/Sub: types differ)
[09/25/2026-10:00:02] [E] Failed to parse onnx file
&&&& FAILED TensorRT.trtexec [TensorRT v110201] [b3] # trtexec --onnx=m.onnx
"""


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("[TensorRT v8401]", (8, 4, 1)),
        ("[TensorRT v8602]", (8, 6, 2)),
        ("[TensorRT v100300]", (10, 3, 0)),
        ("[TensorRT v101601] [b11]", (10, 16, 1)),
        ("[TensorRT v110201] [b3]", (11, 2, 1)),
        ("[TensorRT v11.1.0.106]", (11, 1, 0)),
        ("hello", None),
    ],
)
def test_versions_are_read(said: str, version: tuple[int, int, int] | None) -> None:
    assert _trtlogs.version(f"&&&& RUNNING TensorRT.trtexec {said} # trtexec") == version


@pytest.mark.parametrize(("said", "qps", "median", "p99"), [(OLD, 410.5, 0.401, 0.42), (NEW, 1500.0, 3.13, 3.17)])
def test_the_summary_is_read(said: str, qps: float, median: float, p99: float) -> None:
    found = _trtlogs.summary(said)
    assert found is not None
    assert found.qps == qps
    assert (found.ms["Latency"]["median"], found.ms["Latency"]["percentile(99%)"]) == (median, p99)
    assert _trtlogs.passed(said)
    assert _trtlogs.summary(FAILED) is None


@pytest.mark.parametrize(("said", "name", "out"), [(OLD, "input:0", "prob"), (NEW, "x", "y")])
def test_bindings_are_read(said: str, name: str, out: str) -> None:
    assert _trtlogs.bindings(said) == ({name: (1, 3, 8, 8)}, {out: (1, 10)})


def test_the_first_error_is_the_reason() -> None:
    assert not _trtlogs.passed(FAILED)
    assert _trtlogs.reason(FAILED).startswith("ITensor::getDimensions: Error Code 4")
    assert _trtlogs.reason("Segmentation fault\n") == "Segmentation fault"
    assert _trtlogs.reason("") == "it said nothing"


def test_layers_are_told_apart_by_where_they_run() -> None:
    said = (
        "[I] [TRT] ---------- Layers Running on DLA ----------\n[I] [TRT] [DlaLayer] {ForeignNode[conv1...relu2]}\n"
        "[I] [TRT] ---------- Layers Running on GPU ----------\n[I] [TRT] [GpuLayer] POOLING: pool \n"
    )
    assert _trtlogs.units(said) == (("{ForeignNode[conv1...relu2]}",), ("POOLING: pool",))


def test_times_of_the_warm_up_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(
        '[\n  { "startComputeMs" : 190.5, "latencyMs" : 9 }\n, { "startComputeMs" : 200, "latencyMs" : 1.5 }\n]'
    )
    assert _trtlogs.times_ns(path, 200) == [1_500_000]


def test_profiles_with_and_without_a_median_are_read(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(
        '[\n  { "count" : 625 }\n, { "name" : "a \\"nan\\" b", "timeMs" : 3, "averageMs" : 0.5, "percentage" : -nan }'
        '\n, { "name" : "c", "timeMs" : inf, "averageMs" : 0.5, "medianMs" : 0.25, "percentage" : 1 }\n]'
    )
    assert _trtlogs.profile(path) == [_trtlogs.LayerTime('a "nan" b', 0.5), _trtlogs.LayerTime("c", 0.25)]


def test_outputs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text('[\n  { "name" : "y"\n  , "dimensions" : "1x2"\n  , "values" : [ -1.5, nan ]\n  }\n]')
    np.testing.assert_array_equal(_trtlogs.outputs(path)["y"], np.array([[-1.5, np.nan]], np.float32))


def test_a_damaged_export_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text("[ {")
    with pytest.raises(TargetError, match=r"times\.json cannot be read"):
        _trtlogs.times_ns(tmp_path / "times.json", 0)
