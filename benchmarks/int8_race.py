"""The float model and every tool's int8 one on a runtime: how close they are, how right, how fast, interleaved.

One process, one thread; in each round every model runs a block of calls, in an order drawn anew. For
benchmarks/int8.py:

    python benchmarks/int8_race.py RUNTIME MODEL JUDGED ROUNDS NAME=FILE …
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.int8_models import MODELS, Array, Feeds
from calibration.runs import Comparison
from targets.backends._fake_quantize import fold_pairs
from targets.backends.cpu import load_openvino

Run = Callable[[Feeds], Mapping[str, Array]]
BLOCK_S = 0.05  # of calls of one model, before the next has its turn


def openvino(path: Path) -> Run:
    """The model on OpenVINO: one thread, one stream, float layers in f32."""
    ov = load_openvino()
    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    config["INFERENCE_PRECISION_HINT"] = "f32"
    model = ov.Core().read_model(path)
    if path.parent.name.startswith("openvino-edgesmith"):  # what building for target cpu does
        fold_pairs(model)
    compiled = ov.Core().compile_model(model, "CPU", config)
    request = compiled.create_infer_request()
    names = [sorted(port.names) for port in compiled.outputs]

    def run(feeds: Feeds) -> Mapping[str, Array]:
        found = request.infer(dict(feeds), share_inputs=True)
        return {name: value for all_names, value in zip(names, found.values(), strict=True) for name in all_names}

    return run


def onnxruntime(path: Path) -> Run:
    """The model on onnxruntime's CPU provider: one thread, all its optimizations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


RUNTIMES = {"openvino": openvino, "onnxruntime": onnxruntime}


def fidelity(name: str, runs: Mapping[str, Run], judged: int) -> dict[str, dict[str, Any]]:
    """SQNR of each output in dB, None if exact; agreement of the highest class and the task's figure; per model.

    "noise" is what each sample adds to the noise of each output, as a share of the signal of all samples. The
    reference is the float file on onnxruntime, whatever runs here.
    """
    model = MODELS[name]
    whole = onnxruntime(model.path(name))
    compared = {key: Comparison() for key in runs}
    right: dict[str, list[float]] = {key: [] for key in runs}
    errors: dict[str, dict[str, list[float]]] = {key: {} for key in runs}
    signal: dict[str, float] = {}
    for sample in model.samples("judge", judged):
        exact = whole(sample.feeds)
        for output, value in exact.items():
            signal[output] = signal.get(output, 0.0) + _power(np.asarray(value, np.float64))
        for key, run in runs.items():
            given = run(sample.feeds)
            compared[key].add(exact, given, 1)
            for output, value in exact.items():
                errors[key].setdefault(output, []).append(_distance(value, given[output]))
            if model.task is not None:
                right[key].append(model.task.right(given, sample.truth))
    found = {key: comparison.result() for key, comparison in compared.items()}
    return {
        key: {
            "sqnr_db": {output: _told(db) for output, db in found[key].sqnr_db().items()},
            "agreement": next(iter(found[key].agreement.values()), None),
            "task": statistics.fmean(right[key]) if right[key] else None,
            "noise": {
                output: [error / signal[output] if signal[output] else error for error in each]
                for output, each in errors[key].items()
            },
        }
        for key in runs
    }


def _power(values: Array) -> float:
    return float(np.square(values).sum())


def _distance(wanted: Array, given: Array) -> float:
    """Of outputs of another shape, as detections may have, nothing is right."""
    exact, found = np.asarray(wanted, np.float64), np.asarray(given, np.float64)
    return _power(exact - found if exact.shape == found.shape else exact)


def _told(db: float) -> float | None:
    """None for exact; the least there is for outputs that are no numbers."""
    return None if db == math.inf else -math.inf if math.isnan(db) else db


def race(runs: Mapping[str, Run], feeds: Feeds, rounds: int) -> dict[str, list[float]]:
    """Median milliseconds of a call in each round, per model."""
    calls = {}
    for key, run in runs.items():
        for _ in range(3):
            run(feeds)
        start_s = time.perf_counter()
        run(feeds)
        calls[key] = max(3, int(BLOCK_S / max(1e-6, time.perf_counter() - start_s)))
    found: dict[str, list[float]] = {key: [] for key in runs}
    order = list(runs)
    draw = np.random.default_rng(0)
    for _ in range(rounds):
        for key in draw.permutation(order).tolist():
            took = []
            runs[key](feeds)  # the block before left the caches to another model
            for _ in range(calls[key]):
                start = time.perf_counter_ns()
                runs[key](feeds)
                took.append(time.perf_counter_ns() - start)
            found[key].append(statistics.median(took) / 1e6)
    return found


def main() -> None:
    """Print one line of JSON: model -> figures."""
    runtime, name, judged, rounds, *given = sys.argv[1:]
    files = dict(pair.split("=", 1) for pair in given)
    runs, failed = {}, {}
    for key, path in files.items():
        try:
            runs[key] = RUNTIMES[runtime](Path(path))
            runs[key](next(MODELS[name].samples("judge", 1)).feeds)
        except Exception as error:  # a peer's model that the runtime refuses is a result
            runs.pop(key, None)
            failed[key] = str(error).strip().splitlines()[-1][:200]
    found = fidelity(name, runs, int(judged))
    feeds = next(MODELS[name].samples("judge", 1)).feeds
    times = race(runs, feeds, int(rounds))
    for key in runs:
        found[key]["ms"] = times[key]
        found[key]["bytes"] = _size(Path(files[key]))
    print(json.dumps({**found, **{key: {"failed": why} for key, why in failed.items()}}))


def _size(path: Path) -> int:
    return path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == ".xml" else 0)


if __name__ == "__main__":
    main()
