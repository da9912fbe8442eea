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

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.calibration_cost_piece import peak_mb
from benchmarks.int8_models import MODELS, Feeds

Make = Callable[[str, Path, Path, Path], None]  # runtime, float file, folder of calls, folder of the result


def edgesmith(observer: str) -> Make:
    """What `edgesmith quantize` does, but for comparing and timing what it made."""
    from calibration.saving import save_model
    from pipeline.progress import SILENT
    from pipeline.quantizing import Job, Settings, source_of, static
    from targets.backends.cpu import Cpu
    from targets.backends.mobile import Mobile

    targets = {"openvino": Cpu(), "onnxruntime": Mobile(platform="amd64")}

    def run(runtime: str, model: Path, data: Path, out: Path) -> None:
        settings = Settings(observer=observer, samples=len(list(data.iterdir())))
        job = Job(model, data, targets[runtime], None, settings, SILENT)
        with source_of(job) as source:
            save_model(static(job, source).model, out / "int8.onnx")

    return run


def calls(data: Path) -> Iterator[Feeds]:
    """The calls of the data, one by one."""
    yield from map(_loaded, sorted(data.iterdir()))


def onnxruntime(method: str) -> Make:
    """`quantize_static` as its documentation advises: after its preparation, Q/DQ pairs, weights per channel."""
    import onnxruntime.quantization as peer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(peer.CalibrationDataReader):  # type: ignore[misc] # it has no types
        def __init__(self, data: Path) -> None:
            self.rest = calls(data)

        def get_next(self) -> Feeds | None:
            return next(self.rest, None)

    methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}

    def run(runtime: str, model: Path, data: Path, out: Path) -> None:
        with TemporaryDirectory() as folder:
            ready = Path(folder, "ready.onnx")
            quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)  # shapes are fixed; it fails on some
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

    def run(runtime: str, model: Path, data: Path, out: Path) -> None:
        given = openvino.Core().read_model(model) if runtime == "openvino" else onnx.load(model)
        files = sorted(data.iterdir())
        dataset = peer.Dataset(files, _loaded)
        made = peer.quantize(given, dataset, subset_size=len(files), preset=presets[preset])
        if runtime == "openvino":
            openvino.save_model(made, out / "int8.xml", compress_to_fp16=False)
        else:
            onnx.save(made, out / "int8.onnx")

    return run


def _loaded(path: Path) -> Feeds:
    with np.load(path) as arrays:
        return dict(arrays)


TOOLS: dict[str, Callable[[], Make]] = {
    "edgesmith": lambda: edgesmith("auto"),
    "edgesmith-percentile": lambda: edgesmith("percentile"),
    "edgesmith-minmax": lambda: edgesmith("minmax"),
    "edgesmith-mean_minmax": lambda: edgesmith("mean_minmax"),
    "edgesmith-entropy": lambda: edgesmith("entropy"),
    "edgesmith-mse": lambda: edgesmith("mse"),
    "onnxruntime": lambda: onnxruntime("minmax"),
    "onnxruntime-entropy": lambda: onnxruntime("entropy"),
    "onnxruntime-percentile": lambda: onnxruntime("percentile"),
    "nncf": lambda: nncf("performance"),
    "nncf-mixed": lambda: nncf("mixed"),
}


def main() -> None:
    """Make one model and print what it cost."""
    tool, runtime, name, samples, out = sys.argv[1:]
    model = MODELS[name]
    path = model.path(name)
    make = TOOLS[tool]()
    with TemporaryDirectory() as folder:
        for i, sample in enumerate(model.samples("calibrate", int(samples))):
            np.savez(Path(folder, f"{i:06}.npz"), **sample.feeds)
        start_s = time.perf_counter()
        make(runtime, path, Path(folder), Path(out))
        seconds = time.perf_counter() - start_s
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
