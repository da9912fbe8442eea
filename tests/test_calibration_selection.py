"""The choice among observers by what their ranges do to the outputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_nets import resnet, samples

from calibration.collect import collect, observe
from calibration.errors import CalibrationError
from calibration.observations import Observations
from calibration.observers import make
from calibration.ranges import Ranges
from calibration.selection import REMEMBERS, RIVALS, select
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.quantized import quantize
from pipeline.quantizing import Job, Settings
from pipeline.report.quantized import Quantized
from targets.backends.cpu import Cpu


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(resnet(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def batches() -> list[dict[str, np.ndarray]]:
    found = samples(64)
    found[0, 0, 0, 0] = 60.0  # an outlier, so that the rules differ
    return [{"x": found}]


def halves(net: Path) -> tuple[Observations, Observations]:
    (whole,) = batches()
    first, rest = (observe(net, [{"x": whole["x"][part]}], make(REMEMBERS)) for part in (slice(16, None), slice(16)))
    return first, rest


def test_rules_are_judged_without_the_rest_and_the_best_gets_all(net: Path):
    first, rest = halves(net)
    judged: dict[str, Ranges] = {}

    def judge(ranges: Ranges) -> float:
        judged[ranges.observer] = ranges
        return float(ranges.observer == "percentile")

    found = select(first, rest, judge)
    assert tuple(judged) == RIVALS
    for name, ranges in judged.items():
        assert ranges.tensors == collect(net, [{"x": batches()[0]["x"][16:]}], make(name)).tensors
    assert found.ranges.tensors == collect(net, batches(), make("percentile")).tensors
    assert found.ranges.samples == 64


@pytest.mark.parametrize("best", RIVALS)
def test_the_best_is_taken(net: Path, best: str):
    found = select(halves(net)[0], None, lambda ranges: float(ranges.observer == best))
    assert (found.ranges.observer, found.ranges.samples) == (best, 48)
    assert found.tried == {name: float(name == best) for name in RIVALS}


def made(folder: Path, observer: str, **settings: object) -> Quantized:
    np.savez(folder / "data.npz", x=batches()[0]["x"])
    job = Job(
        folder / "net.onnx",
        folder / "data.npz",
        Cpu(),
        None,
        Settings(observer=observer, samples=32, **settings),
        SILENT,
    )
    return quantize(job, folder / "int8.onnx")


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
