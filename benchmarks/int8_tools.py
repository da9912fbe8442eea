"""One int8 model by one tool, in a process of its own: seconds and peak memory as a line of JSON.

What is imported is not counted, the reading of the float model is. For benchmarks/int8.py:

    python benchmarks/int8_tools.py TOOL RUNTIME MODEL SAMPLES OUT
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.int8_models import MODELS, Feeds

Make = Callable[[str, Path, list[Feeds], Path], None]  # runtime, float file, data, folder of the result


def edgesmith(observer: str) -> Make:
    """What `edgesmith quantize` does: prepare, calibrate, correct biases, place for the runtime."""
    from calibration.choosing import choose
    from calibration.collect import collect, quantizable
    from calibration.graph import load_model
    from calibration.observers import make
    from calibration.placement import place
    from calibration.prepare import prepare, save_model
    from targets.backends.cpu import Cpu
    from targets.backends.mobile import Mobile

    targets = {"openvino": Cpu(), "onnxruntime": Mobile(platform="amd64")}

    def run(runtime: str, model: Path, data: list[Feeds], out: Path) -> None:
        ready = prepare(load_model(model))
        with TemporaryDirectory() as folder:
            prepared = Path(folder, "prepared.onnx")
            save_model(ready, prepared)
            ranges = collect(prepared, data, make(observer), only=quantizable(ready))
        weights = choose(ready, lambda: iter(data), bias="empirical").weights
        save_model(place(ready, ranges, targets[runtime].scheme, weights=weights).model, out / "int8.onnx")

    return run


def onnxruntime(method: str) -> Make:
    """`quantize_static` as its documentation advises: after its preparation, Q/DQ pairs, weights per channel."""
    import onnxruntime.quantization as peer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(peer.CalibrationDataReader):  # type: ignore[misc] # it has no types
        def __init__(self, data: list[Feeds]) -> None:
            self.rest: Iterator[Feeds] = iter(data)

        def get_next(self) -> Feeds | None:
            return next(self.rest, None)

    methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}

    def run(runtime: str, model: Path, data: list[Feeds], out: Path) -> None:
        with TemporaryDirectory() as folder:
            ready = Path(folder, "ready.onnx")
            quant_pre_process(str(model), str(ready))
            peer.quantize_static(
                str(ready),
                str(out / "int8.onnx"),
                Reader(data),
                quant_format=peer.QuantFormat.QDQ,
                per_channel=True,
                activation_type=peer.QuantType.QUInt8,
                weight_type=peer.QuantType.QInt8,
                calibrate_method=peer.CalibrationMethod[methods[method]],
            )

    return run


def nncf(preset: str) -> Make:
    """`nncf.quantize` with its defaults, on OpenVINO's model or, for onnxruntime, on the ONNX one."""
    import nncf as peer
    import openvino

    presets = {"performance": peer.QuantizationPreset.PERFORMANCE, "mixed": peer.QuantizationPreset.MIXED}

    def run(runtime: str, model: Path, data: list[Feeds], out: Path) -> None:
        given = openvino.Core().read_model(model) if runtime == "openvino" else onnx.load(model)
        dataset = peer.Dataset(data, dict)
        made = peer.quantize(given, dataset, subset_size=len(data), preset=presets[preset])
        if runtime == "openvino":
            openvino.save_model(made, out / "int8.xml", compress_to_fp16=False)
        else:
            onnx.save(made, out / "int8.onnx")

    return run


TOOLS: dict[str, Callable[[], Make]] = {
    "edgesmith": lambda: edgesmith("percentile"),
    "edgesmith-minmax": lambda: edgesmith("minmax"),
    "edgesmith-entropy": lambda: edgesmith("entropy"),
    "edgesmith-mse": lambda: edgesmith("mse"),
    "onnxruntime": lambda: onnxruntime("minmax"),
    "onnxruntime-entropy": lambda: onnxruntime("entropy"),
    "onnxruntime-percentile": lambda: onnxruntime("percentile"),
    "nncf": lambda: nncf("performance"),
    "nncf-mixed": lambda: nncf("mixed"),
}


def peak_mb() -> float:
    """Most memory that this process held; `ru_maxrss` would tell the parent's where that is more."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Make one model and print what it cost."""
    tool, runtime, name, samples, out = sys.argv[1:]
    model = MODELS[name]
    path = model.path(name)
    data: list[Any] = [dict(sample.feeds) for sample in model.samples("calibrate", int(samples))]
    held = sum(np.asarray(array).nbytes for feeds in data for array in feeds.values()) / 2**20
    make = TOOLS[tool]()
    before = peak_mb()
    start_s = time.perf_counter()
    make(runtime, path, data, Path(out))
    seconds = time.perf_counter() - start_s
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "before_mb": before, "data_mb": held}))


if __name__ == "__main__":
    main()
