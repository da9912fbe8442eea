"""Several calls at once, and the time of each layer, of the runtimes that can."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_nets import resnet

from targets import timing
from targets.backends.cpu import Cpu
from targets.backends.mobile import Mobile
from targets.base import Profiled, Streaming, Target, TargetError


@pytest.mark.parametrize("target", [Cpu(streams=2), Mobile(platform="amd64"), Mobile(platform="amd64", threads=2)])
def test_streams_of_a_model_run_at_once_and_layers_are_told(target: Target, tmp_path: Path) -> None:
    onnx.save(resnet(width=16), tmp_path / "m.onnx")
    (tmp_path / "built").mkdir()
    target.build(tmp_path / "m.onnx", tmp_path / "built")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    with target.open(tmp_path / "built") as run:
        assert isinstance(run, Streaming)
        assert isinstance(run, Profiled)
        other = run.stream()
        timing.together([run, other], feeds, calls=20)
        for name, array in run(feeds).items():
            np.testing.assert_array_equal(other(feeds)[name], array)
        layers = run.layers(feeds, calls=3)
    convolutions = [layer for layer in layers if "Conv" in layer.kind]
    assert len(convolutions) == 6
    assert {layer.precision for layer in convolutions} == {"f32"}
    assert any(layer.time_ns > 0 for layer in layers)


@pytest.mark.parametrize("kind", [Cpu, Mobile])
def test_no_streams_are_refused(kind: type[Target]) -> None:
    with pytest.raises(TargetError, match="streams must be 1 or more, got 0"):
        kind(streams=0)  # type: ignore[call-arg]
