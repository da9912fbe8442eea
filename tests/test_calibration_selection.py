"""The choice among observers by what their ranges do to the outputs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_nets import model, node, resnet, samples

from calibration.collect import collect, observe
from calibration.errors import CalibrationError
from calibration.observations import Observations
from calibration.observers import make
from calibration.placement import place
from calibration.ranges import Ranges
from calibration.runs import Comparison, decibels, opened
from calibration.selection import REMEMBERS, RIVALS, select
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.quantized import quantize
from pipeline.quantizing import FOLD, Job, Settings, source_of, static
from pipeline.report.quantized import Quantized
from pipeline.weight_options import WeightOptions
from targets.backends.cpu import Cpu

PARTS = (slice(0, 16), slice(16, 32), slice(32, 64))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(resnet(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def data(n: int = 64) -> np.ndarray:
    found = samples(n)
    found[0, 0, 0, 0] = 60.0  # an outlier, so that the rules differ
    return found


def observed(net: Path, *parts: slice) -> list[Observations]:
    return [observe(net, [{"x": data()[part]}], make(REMEMBERS)) for part in parts]


@pytest.mark.parametrize("last", [[], [PARTS[2]]])
def test_each_fold_is_judged_by_all_but_it_and_the_best_gets_all(net: Path, last: list[slice]):
    a, b = PARTS[:2]
    judged: dict[str, Sequence[Ranges]] = {}

    def judge(fits: Sequence[Ranges]) -> float:
        (name,) = {ranges.observer for ranges in fits}
        judged[name] = fits
        return float(name == "percentile")

    found = select(observed(net, a, b), observed(net, *last), judge)
    assert tuple(judged) == RIVALS
    for name, fits in judged.items():
        for ranges, others in zip(fits, ([b, *last], [a, *last]), strict=True):
            expected = collect(net, [{"x": data()[part]} for part in others], make(name))
            assert (ranges.tensors, ranges.samples) == (expected.tensors, expected.samples)
    expected = collect(net, [{"x": data()[part]} for part in (a, b, *last)], make("percentile"))
    assert (found.ranges.tensors, found.ranges.samples) == (expected.tensors, expected.samples)


@pytest.mark.parametrize("best", RIVALS)
def test_the_best_is_taken(net: Path, best: str):
    found = select([], observed(net, slice(48)), lambda fits: float(fits[0].observer == best))
    assert (found.ranges.observer, found.ranges.samples) == (best, 48)
    assert found.tried == {name: float(name == best) for name in RIVALS}


def test_of_equals_the_first_is_taken(net: Path):
    assert select([], observed(net, slice(4)), lambda _: 0.0).ranges.observer == RIVALS[0]


def job(folder: Path, observer: str, n: int = 64, **settings: object) -> Job:
    np.savez(folder / "data.npz", x=data(n))
    chosen = Settings(observer=observer, **{"samples": 32, **settings})
    return Job(folder / "net.onnx", folder / "data.npz", Cpu(), None, chosen, SILENT)


def made(folder: Path, observer: str, **settings: object) -> Quantized:
    return quantize(job(folder, observer, **settings), folder / "int8.onnx")


@pytest.mark.parametrize("n", [3, 16, 2 * FOLD + 7])
def test_the_figures_are_those_of_both_folds_in_one(net: Path, tmp_path: Path, n: int):
    x, fold = data(n), min(FOLD, n // 2)
    with source_of(job(tmp_path, "auto", n, samples=n, weights=WeightOptions(bias="none"))) as source:
        made_of = static(job(tmp_path, "auto", n, samples=n, weights=WeightOptions(bias="none")), source).made_of
        assert made_of is not None
        for name in RIVALS:
            whole = Comparison()
            for held in (slice(fold), slice(fold, 2 * fold)):
                seen = np.delete(x, held, axis=0)
                ranges = collect(source.prepared, [{"x": row[None]} for row in seen], make(name))
                with opened(place(source.model, ranges, Cpu().scheme).model) as run:
                    whole.run(source.reference, run, [{"x": row[None]} for row in x[held]])
            assert made_of.tried[name] == pytest.approx(decibels(whole.result().worst), abs=1e-6)
        assert made_of.ranges.samples == n


def test_a_single_sample_is_judged_on_itself(net: Path, tmp_path: Path):
    report = made(tmp_path, "auto", n=1)
    assert report.observer is not None
    assert report.observer["tried"].keys() == set(RIVALS)
    assert report.samples == 1


def test_quantize_says_what_it_chose_and_comes_out_as_that_observer(net: Path, tmp_path: Path):
    auto = made(tmp_path, "auto")
    assert auto.observer is not None
    tried = auto.observer["tried"]
    assert auto.observer["name"] == max(tried, key=tried.get)
    named = made(tmp_path, auto.observer["name"])
    assert (auto.outputs, auto.samples) == (named.outputs, 32)


def test_options_need_an_observer(net: Path, tmp_path: Path):
    with pytest.raises(UserError, match="--option percentile: of which observer"):
        made(tmp_path, "auto", options={"percentile": 99.0})
    with pytest.raises(CalibrationError, match="percentile"):
        made(tmp_path, "percentile", options={"share": 1.0})


def test_a_tensor_that_a_fold_has_no_values_of_takes_its_range_from_all(tmp_path: Path) -> None:
    """Detections: an image without any has nothing to show of what comes behind them."""
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("Greater", ["c", "zero"], "above"),
        node("Reshape", ["above", "all"], "flat"),
        node("Compress", ["c", "flat"], "some"),
        node("Reshape", ["some", "rows"], "kept"),
        node("MatMul", ["kept", "v"], "y"),
    ]
    weights = {
        "w": np.ones((1, 1, 1, 1), np.float32),
        "v": np.ones((1, 3), np.float32),
        "zero": np.float32(0),
        "all": np.asarray([-1]),
        "rows": np.asarray([-1, 1]),
    }
    net = tmp_path / "net.onnx"
    onnx.save(model(nodes, weights, (1, 1, 4, 4)), net)
    found = [observe(net, [{"x": np.full((1, 1, 4, 4), value, np.float32)}], make(REMEMBERS)) for value in (-1.0, 2.0)]
    seen: list[Sequence[Ranges]] = []
    select(found, [], lambda fits: float(len(seen.append(fits) or seen)))
    assert all("kept" in ranges.tensors for fits in seen for ranges in fits)
