"""One calibration by one tool, in a process of its own: seconds and peak memory. For benchmarks/calibration_cost.py.

python benchmarks/calibration_cost_piece.py TOOL METHOD MODEL.onnx SAMPLES
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

SHAPE = (1, 3, 224, 224)


def sample(i: int) -> NDArray[np.float32]:
    """Sample `i` of the data: made as it is asked for, as images are read."""
    return np.random.default_rng(i).standard_normal(SHAPE, dtype=np.float32)


def edgesmith(method: str, model: Path, n: int) -> None:
    """Calibrate with `calibration.collect`."""
    from calibration.collect import collect, quantizable
    from calibration.graph import load_model
    from calibration.observers import make

    collect(model, ({"x": sample(i)} for i in range(n)), make(method), only=quantizable(load_model(model)))


def onnxruntime(method: str, model: Path, n: int) -> None:
    """Calibrate as `quantize_static` does, without the quantizing."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[int] = iter(range(n))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            i = next(self.rest, None)
            return None if i is None else {"x": sample(i)}

    methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
    with TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            str(model),
            calibrate_method=CalibrationMethod[methods[method]],
            augmented_model_path=str(Path(folder, "augmented.onnx")),
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()


def nncf(method: str, model: Path, n: int) -> None:
    """`nncf.quantize` on the OpenVINO model with its defaults; its statistics cannot be had alone."""
    import nncf as peer
    import openvino

    data = peer.Dataset(range(n), lambda i: {"x": sample(i)})
    peer.quantize(openvino.Core().read_model(model), data, subset_size=n)


TOOLS: dict[str, Callable[[str, Path, int], None]] = {
    "edgesmith": edgesmith,
    "onnxruntime": onnxruntime,
    "nncf": nncf,
}


def peak_mb() -> float:
    """Most memory that this process held; `ru_maxrss` would tell the parent's where that is more."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Run and print one line of JSON."""
    tool, method, model, n = sys.argv[1:]
    start_s = time.perf_counter()
    TOOLS[tool](method, Path(model), int(n))
    seconds = time.perf_counter() - start_s
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
