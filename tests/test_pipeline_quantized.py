"""What becomes of an int8 model that is slower, and how its report is written and shown."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from calibration.runs import Fidelity
from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.feeding import Calls, Input, calls_from
from pipeline.images import Preparation
from pipeline.judging import any_batch
from pipeline.progress import SILENT
from pipeline.quantized import Raced, _outputs, _verdict
from pipeline.quantizing import Job, Settings
from pipeline.report.quantized import Accuracy, Quantized, Side, show
from pipeline.report.schema import Coverage, Interval, Verdict
from targets.backends.cpu import Cpu
from targets.devices.base import Fingerprint
from targets.devices.local import Local

HERE = Place(Local(), Fingerprint("m", "c", 2, (), "g", "s", "p", {}), None, proxy=False)
IMAGE = Input("x", np.dtype(np.float32), (-1, 3, 4, 4))


def job(place: Place | None, **settings: object) -> Job:
    return Job(Path("net.onnx"), Path("d.npz"), Cpu(), place, Settings(**settings), SILENT)


@pytest.mark.parametrize(("policy", "says"), [("warn", "written all the same"), ("reject", "nothing was written")])
def test_int8_that_is_slower_here_says_so_and_is_rejected_on_request(policy: str, says: str) -> None:
    found = _verdict(
        job(HERE, on_regression=policy), Raced({"float": 100, "int8": 30}, {}), Interval(value=1.2, low=1.1, high=1.3)
    )
    assert (found.kind, found.rejected) == ("slower", policy == "reject")
    assert (
        found.text == f"it is slower than float: 0.77–0.91×: not worth shipping here; {found.text.rpartition('; ')[2]}"
    )
    assert says in found.text


def test_int8_that_is_faster_or_was_not_timed_is_never_rejected() -> None:
    sizes = Raced({"float": 100, "int8": 30}, None)
    fast = _verdict(job(HERE, on_regression="reject"), sizes, Interval(value=0.5, low=0.4, high=0.6))
    assert (fast.kind, fast.rejected) == ("pays", False)
    unknown = _verdict(job(None, on_regression="reject"), sizes, None)
    assert (unknown.kind, unknown.text, unknown.rejected) == ("unmeasured", "not timed: --device none", False)


def test_the_report_shows_both_sides_and_the_reasons() -> None:
    side = Side(size_bytes=4000, onnx_bytes=4000, latency=None, memory_peak_bytes=None, kernels={})
    report = Quantized(
        model="net.onnx",
        target={"name": "cpu"},
        created="",
        versions={},
        device=None,
        proxy=True,
        method="static",
        observer=None,
        samples=8,
        evaluated_samples=8,
        held_out=False,
        evaluated_on="target cpu",
        outputs=_outputs(Fidelity({"y": 1e-3, "same": 0.0}, {"y": 0.995}, 8)),
        accuracy=Accuracy(name="eval.py:metric", float_=76.0, int8=75.5, floor=75.0, evaluations=1),
        kept_float={},
        coverage=Coverage(int8={}, ops={}, floats={}, ran=True, text="51 of 53 Conv in int8"),
        float_=side,
        int8=side.model_copy(update={"size_bytes": 1000}),
        ratio=None,
        verdict=Verdict(kind="unmeasured", text="not timed"),
        seconds={},
        warnings=("int8: unstable",),
        written=True,
    )
    assert Quantized.model_validate_json(report.model_dump_json(by_alias=True)) == report
    console = Console(file=io.StringIO(), width=100)
    show(report, console)
    text = console.file.getvalue()
    for part in ("4.00× smaller", "30.0 dB", "99.50%", "exact", "75.5", "at least 75", "51 of 53", "proxy", "unstable"):
        assert part in text
    assert "which were calibrated on too" in text


def test_calls_of_a_fixed_batch_are_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((11, 3, 4, 4)))
    fixed = calls_from(tmp_path / "d.npz", (Input("x", np.dtype(np.float32), (4, 3, 4, 4)),), Preparation())
    assert (fixed.count, len(fixed), [len(feeds["x"]) for feeds in fixed]) == (8, 2, [4, 4])
    assert [fixed.part(*p).count for p in ((0, 5), (0, 3), (4, 9), (8, 4))] == [4, 4, 4, 0]
    free = calls_from(tmp_path / "d.npz", (IMAGE,), Preparation())
    assert [len(feeds["x"]) for feeds in free] == [11]
    assert [free.part(*p).count for p in ((0, 5), (5, 5), (5, 99))] == [5, 5, 6]
    assert next(iter(free))["x"].dtype == np.float32


def test_a_folder_of_arrays_with_one_sample_each(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((3, 4, 4), i, np.uint8))
    (feeds,) = calls_from(tmp_path, (IMAGE,), Preparation())
    assert feeds["x"].shape == (3, 3, 4, 4)
    assert feeds["x"][:, 0, 0, 0].tolist() == [0, 1, 2]
    (tmp_path / "odd.txt").write_text("")
    np.save(tmp_path / "3.npy", np.zeros((3, 4)))
    with pytest.raises(UserError, match=r"3\.npy: float64 of shape \(1, 3, 4\) for input x"):
        list(calls_from(tmp_path, (IMAGE,), Preparation()))


def test_fractions_are_no_integers(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[1.5]]))
    with pytest.raises(UserError, match="store them as int64"):
        list(calls_from(tmp_path / "d.npy", (Input("ids", np.dtype(np.int64), (-1, 1)),), Preparation()))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_a_static_batch_runs_any_number_of_samples(count: int) -> None:
    def run(feeds):
        assert len(feeds["x"]) == 3
        return {"y": feeds["x"] * feeds["by"]}

    inputs = (Input("x", np.dtype(np.float32), (3, 2)), Input("by", np.dtype(np.float32), ()))
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    assert np.array_equal(any_batch(run, inputs)({"x": x, "by": np.float32(2)})["y"], 2 * x)


def test_calls_are_read_anew_each_time() -> None:
    reads = []
    calls = Calls(3, 1, lambda start, stop: reads.append((start, stop)) or {})
    assert len(list(calls)) == len(list(calls)) == 3
    assert reads == [(0, 1), (1, 2), (2, 3)] * 2
